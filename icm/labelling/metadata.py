"""What the first line of a result file says about the run that made it."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from icm.engines.base import Engine
from icm.examples import ICMDataset
from icm.labelling.options import Settings
from icm.provenance import package_versions, peak_memory_gib
from icm.tasks.source import written


def run_metadata(settings: Settings, dataset: ICMDataset, engine: Engine, created: datetime) -> dict[str, Any]:
    """Settings, model, data, versions, seed, memory and time of a run; the labeler adds iterations and usage.

    Args:
        settings: resolved.
        dataset: the examples that were labelled.
        engine: what labelled them.
        created: when the run began, with time zone.
    """
    config, known = settings.engine, asdict(settings, dict_factory=written)
    return {
        "settings": known,
        "model": {
            "name": config.model,
            "revision": config.revision,
            "adapter": config.adapter,
            "engine": engine.name,
            "device": str(getattr(engine, "device", config.device)),
            "dtype": str(getattr(engine, "dtype", config.dtype)).removeprefix("torch."),
        },
        "data": {"source": known["data"], "fingerprint": dataset.fingerprint, "name": dataset.name},
        "versions": package_versions(),
        "seed": settings.search.seed,
        "peak_memory_gib": round(peak_memory_gib(), 2),
        "created": created.isoformat(timespec="seconds"),
    }
