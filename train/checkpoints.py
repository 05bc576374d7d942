"""Checkpoints that are either complete or not there, and the record of what a folder's run is."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from icm.errors import ConfigError, DataError, ResumeError
from icm.files import parse_object, write_json

RUN_FILE = "run.json"
FINISHED_FILE = "train_results.json"
COMPLETE_FILE = "complete.json"
PREFIX = "checkpoint-"


def mark_complete(folder: Path) -> None:
    """Write the last file of a checkpoint, when all ranks have written theirs: it holds the sizes of the others."""
    write_json(folder / COMPLETE_FILE, {"files": _sizes(folder)})


def is_complete(folder: Path) -> bool:
    """Whether the checkpoint has its mark and every file in the size it had then (deleting may be cut short too)."""
    marked = (_read(folder / COMPLETE_FILE) or {}).get("files")
    found = _sizes(folder)
    return isinstance(marked, dict) and all(found.get(name) == size for name, size in marked.items())


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE_FILE)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    folders = [path for path in output_dir.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix(PREFIX)))


def newest_complete(output_dir: Path) -> Path | None:
    """The checkpoint to continue from."""
    return next((path for path in reversed(checkpoints(output_dir)) if is_complete(path)), None)


def remove_torn(output_dir: Path) -> list[Path]:
    """Delete what a crash left of incomplete checkpoints; returns their folders."""
    torn = [path for path in checkpoints(output_dir) if not is_complete(path)]
    for path in torn:
        shutil.rmtree(path)
    return torn


def is_finished(output_dir: Path) -> bool:
    """Whether the folder holds a run that came to its end: the results file is written last."""
    return _read(output_dir / FINISHED_FILE) is not None


def check_output_dir(output_dir: Path, identity: Mapping[str, object], overwrite: bool) -> None:
    """Refuse a folder that holds something else than this run: a run is resumed by content, not by name.

    Raises:
        ConfigError: a file, or a folder with files that no training run has written.
        ResumeError: another run; names the fields that differ.
    """
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise ConfigError(f"output_dir {output_dir}: found a file, expected a folder")
    earlier = _read(output_dir / RUN_FILE)
    if earlier is None:
        if any(path.name != RUN_FILE and not path.name.startswith(".") for path in output_dir.iterdir()):
            raise ConfigError(f"output_dir {output_dir}: not empty and no training run; choose another --output_dir")
        return
    if overwrite:
        return
    different = [
        f"{name} was {earlier.get(name)!r}, is {identity.get(name)!r}" for name in _differing(earlier, identity)
    ]
    if different:
        raise ResumeError(
            f"output_dir {output_dir} holds another run: {'; '.join(different)}; "
            "choose another --output_dir, or give --overwrite_output_dir"
        )


def _differing(earlier: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return [name for name in sorted({*earlier, *now}) if earlier.get(name) != now.get(name)]


def _read(path: Path) -> dict[str, object] | None:
    try:
        return parse_object(path.read_text(encoding="utf-8"), str(path))
    except (OSError, DataError, UnicodeDecodeError):
        return None
