"""A labelling run from settings to a result file: everything that can be checked is checked before a model loads."""

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from icm.config import EngineConfig, SearchConfig, WorkersConfig
from icm.consistency import LogicalConsistencyChecker
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.base import Engine
from icm.engines.common import content, context_length, loading
from icm.engines.crew import gpus_of
from icm.errors import ConfigError, DataError, ResumeError
from icm.examples import ICMDataset, TaskData
from icm.labelling.batches import batched, say_batches, split_batches
from icm.labelling.claims import ClaimWriter
from icm.labelling.metadata import run_record, run_settings
from icm.labelling.options import OutputConfig, Settings
from icm.labelling.session import Progress, run_labeling
from icm.labelling.workers import Workers
from icm.models import model_label, resolve_model
from icm.results.folder import ICMStorage, writing
from icm.results.format import TRACE_SUFFIX, ICMResult, trace_path, write_result
from icm.results.units import RUN
from icm.search.checks import checker_of, named_rules

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run. `trace` is what `label(…, resume=trace)` continues from."""

    def __init__(self, trace: Path) -> None:
        super().__init__(f"interrupted; the decisions so far are in {trace}")
        self.trace = trace


ALONE = WorkersConfig()


def label(
    settings: Settings,
    resume: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    workers: WorkersConfig = ALONE,
) -> Path:
    """Label a data set and write the result file and its trace.

    Args:
        settings: resolved settings.
        resume: the trace of an interrupted run with the same settings and data.
        on_progress: called after each trace row.
        workers: how many engines, and where; the labels do not depend on it.

    Returns:
        Path of the result file.

    Raises:
        ICMError: a setting, the data, the model or the trace cannot be used. Data and settings are checked first.
        Interrupted: Ctrl-C while labelling.
    """
    created, config, batches = datetime.now(UTC), settings.engine, None
    logger.debug("settings: %s", asdict(settings))
    check_writable(settings.output)
    # The model may write claims for hours before the data set is known: what can be wrong without it is checked now.
    named = named_rules(settings.search)
    with ExitStack() as stack, Workers(partial(create_engine, config), workers, gpus_of(config)) as crew:
        engine_name = crew.check(config)
        is_named = resume is not None or settings.output.output_name is not None
        path = stack.enter_context(_reserved(settings, "", created, resume)) if is_named else None

        @cache
        def engine() -> Engine | Workers:
            if workers.here:
                return stack.enter_context(create_engine(config))
            return crew.load(None if batches is None else len(batches) * settings.search.restarts)

        data, source = ClaimWriter(settings.output.output_dir, config, settings.generation, engine).load(settings.data)
        path = path or stack.enter_context(_reserved(settings, data.dataset.name, created))
        checker = checker_of(data.dataset, settings.search, named)
        batches = fitting_batches(config, data.dataset, settings.search, settings.data.bad_records, engine_name)
        if batches is None:
            batches = split_batches(data.dataset, engine(), settings.search, settings.data.bad_records)
        dataset = batched(data.dataset, batches)
        _say_what(data, dataset, config.model)
        result = _labelled(settings, dataset, engine(), checker, batches, path, resume is not None, on_progress)
        record = run_record(result.record, settings, replace(data, dataset=dataset), engine(), created)
        record = replace(record, data=replace(record.data, source=source))
        write_result(path, replace(result, record=record))
    return path


def _say_what(data: TaskData, dataset: ICMDataset, model: str) -> None:
    logger.info("what is labelled:\n%s", data.account)
    if len(dataset) < len(data.dataset):
        counts = Counter(data.gold.get(example.id, "unlabelled") for example in dataset)
        shown = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
        logger.warning("the run goes on with the other %d (%s)", len(dataset), shown)
    logger.info("%d examples of %s, task %s; model %s", len(dataset), dataset.name, dataset.task, model)


def _labelled(
    settings: Settings,
    dataset: ICMDataset,
    engine: Engine | Workers,
    checker: LogicalConsistencyChecker,
    batches: Sequence[ICMDataset],
    path: Path,
    resume: bool,
    on_progress: Callable[[Progress], None],
) -> ICMResult:
    config, trace = settings.engine, trace_path(path)
    say_batches(batches, settings.search)
    header = {**config.identity, **content(config), "engine": engine.name, RUN: run_settings(settings)}
    if str(getattr(engine, "device", "")) == "cuda":
        header |= config.gpu_identity
    try:
        return run_labeling(dataset, engine, settings.search, checker, trace, resume, header, on_progress, batches)
    except KeyboardInterrupt:
        if not trace.exists():
            raise
        raise Interrupted(trace) from None


def fitting_batches(
    config: EngineConfig, dataset: ICMDataset, search: SearchConfig, bad_records: str, engine_name: str
) -> list[ICMDataset] | None:
    """The data set in batches that fit the context, by the model's configuration and tokenizer alone; None for a
    server, which says itself how long its context is.

    Raises:
        PrerequisiteError: a hub model cannot be had.
        DataError: more questions than `bad_records` leaves out do not fit the context, or one the batch size.
    """
    if engine_name == "server":
        return None
    from transformers import AutoConfig, AutoTokenizer

    folder = resolve_model(config.model, config.revision)
    with loading(config.model):
        model_config = AutoConfig.from_pretrained(folder, revision=config.revision)
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=config.revision)
    length = context_length(model_config, config.max_model_len)
    if engine_name == "vllm":
        length -= 1  # for the token that follows the prompt, as the engine will say
    try:
        return split_batches(dataset, AccountingEngine(tokenizer, length), search, bad_records)
    except ConfigError as error:
        raise DataError(f"{error}{_longer_context(config, model_config)}") from None


def _longer_context(config: EngineConfig, model_config: "PreTrainedConfig") -> str:
    """The remedy where the setting and not the model bounds the context."""
    longest = context_length(model_config, None)
    if config.max_model_len is None or config.max_model_len >= longest:
        return ""
    return f"; --max-model-len can be up to {longest}"


def check_writable(output: OutputConfig) -> None:
    """Raise ConfigError if results cannot be written to `output.output_dir`."""
    folder = Path(output.output_dir)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        # Permission bits do not tell: a file system may be read-only, and root passes every check of them.
        with tempfile.TemporaryDirectory(dir=existing):
            return
    except OSError as error:
        raise ConfigError(
            f"output_dir {folder}: {existing} cannot be written to ({error.strerror}); choose another one"
        ) from None


@contextmanager
def _reserved(settings: Settings, dataset: str, created: datetime, resume: Path | None = None) -> Iterator[Path]:
    """Hold the path of the result, that of a resumed run included, until it is written."""
    if resume is None:
        storage, model = ICMStorage(settings.output.output_dir), model_label(settings.engine.model)
        with storage.reserved(dataset, model, created, settings.output.output_name) as path:
            yield path
        return
    if not resume.is_file():
        raise ResumeError(f"--resume {resume}: no such file; expected the {TRACE_SUFFIX} file of an interrupted run")
    if not resume.name.endswith(TRACE_SUFFIX):
        raise ResumeError(f"--resume {resume}: expected the {TRACE_SUFFIX} file of an interrupted run")
    path = resume.with_name(resume.name.removesuffix(TRACE_SUFFIX) + ".jsonl")
    with writing(path):
        if path.exists():
            raise ResumeError(f"--resume {resume}: that run is complete, see {path}; leave --resume out to start anew")
        yield path
