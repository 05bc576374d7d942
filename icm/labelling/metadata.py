"""What the first line of a result file says about the run that made it."""

from dataclasses import asdict, replace
from datetime import datetime

from icm.engines.base import Engine
from icm.examples import TaskData
from icm.labelling.options import Settings
from icm.labelling.workers import Workers
from icm.provenance import git_revision, package_versions, peak_memory_gib
from icm.results.record import DataRecord, ModelRecord, PromptRecord, RunRecord
from icm.tasks.source import written
from icm.tasks.written import WritingCounts


def run_settings(settings: Settings) -> dict[str, object]:
    """The settings that a resumed run goes on with, by section, without where and how much it writes."""
    return {part: value for part, value in asdict(settings, dict_factory=written).items() if part != "output"}


def run_record(
    labelled: RunRecord, settings: Settings, data: TaskData, engine: Engine | Workers, created: datetime
) -> RunRecord:
    """The labeler's record with settings, model, data, prompts, versions, seed, memory and time of the run.

    Args:
        labelled: algorithm, iterations and usage.
        settings: resolved.
        data: what was labelled.
        engine: what labelled it.
        created: when the run began, with time zone.
    """
    config = settings.engine
    return replace(
        labelled,
        settings=asdict(settings, dict_factory=written),
        model=ModelRecord(
            config.model,
            config.revision,
            config.adapter,
            engine.name,
            device=str(getattr(engine, "device", config.device)),
            dtype=str(getattr(engine, "dtype", config.dtype)).removeprefix("torch."),
        ),
        data=DataRecord(settings.data, data.dataset.fingerprint, data.dataset.name),
        prompt=PromptRecord(data.template),
        versions=package_versions(),
        git=asdict(revision) if (revision := git_revision()) else {},
        seed=settings.search.seed,
        peak_memory_gib=round(peak_memory_gib(), 2),
        created=created.isoformat(timespec="seconds"),
        other={**labelled.other, **_written(data, settings)},
    )


def _written(data: TaskData, settings: Settings) -> dict[str, object]:
    """What came of the claims that the model wrote, with the share that is distinct; nothing where it wrote none."""
    if not data.written:
        return {}
    counts = WritingCounts.of(data.written, settings.data.candidates)
    return {"written": {**asdict(counts), "distinct_share": round(counts.share, 4)}}
