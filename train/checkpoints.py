"""Checkpoints that are either complete or not there, and the record of what a folder's run is."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from icm.errors import ConfigError, DataError, ResumeError
from icm.files import file_sha256, fingerprint, read_object, write_json
from icm.models import CONTENT, weights_hash

RUN_FILE = "run.json"
FINISHED_FILE = "train_results.json"
COMPLETE_FILE = "complete.json"
LOCK_FILE = ".lock"
PREFIX = "checkpoint-"
_FIRST = {RUN_FILE, "config.yaml"}  # written before a model is loaded: a run that holds no more can be another one
_LABELS = "labels_content"
_INCIDENTAL = ("minutes", "peak_memory_gib", "labels_sha256")


def mark_complete(folder: Path) -> None:
    """Write the last file of a checkpoint, when all ranks have written theirs: it holds the SHA-256 of the others."""
    write_json(folder / COMPLETE_FILE, {"files": {name: file_sha256(path) for name, path in _files(folder).items()}})


def is_complete(folder: Path) -> bool:
    """Whether the checkpoint has its mark and every file as it was then (deleting may be cut short too, and disks
    forget). A mark of earlier versions knows sizes alone."""
    marked = (_read(folder / COMPLETE_FILE) or {}).get("files")
    files = _files(folder)
    return (
        isinstance(marked, dict)
        and bool(marked)
        and marked.keys() <= files.keys()
        and all(
            seen == (files[name].stat().st_size if isinstance(seen, int) else file_sha256(files[name]))
            for name, seen in marked.items()
        )
    )


def _files(folder: Path) -> dict[str, Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE_FILE)
    return {str(path.relative_to(folder)): path for path in found}


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
        _remove(path)
    return torn


def empty(output_dir: Path) -> None:
    """Delete what a folder holds but not the folder, which may be a link, nor the lock that this run holds."""
    for path in output_dir.iterdir():
        if path.name != LOCK_FILE:
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a file, a folder, or a link without what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def is_finished(output_dir: Path) -> bool:
    """Whether the folder holds a run that came to its end: the results file is written last."""
    return _read(output_dir / FINISHED_FILE) is not None


def training_hash(results: Path) -> str:
    """Hash of what a training made, by its results file: weights and figures, not the time that it took."""
    figures = {name: value for name, value in (_read(results) or {}).items() if name not in _INCIDENTAL}
    return fingerprint([weights_hash(results.parent), figures])


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
    if overwrite or not any(path.name not in _FIRST and path.name[0] != "." for path in output_dir.iterdir()):
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
    """Labels are compared by content, since a file that is made again says other times. What earlier versions did not
    say is not compared."""
    names = {name for name in {*earlier, *now} if name in earlier or not name.startswith((CONTENT, _LABELS))}
    if _LABELS in names:
        names.discard("labels_sha256")
    return [name for name in sorted(names) if earlier.get(name) != now.get(name)]


def _read(path: Path) -> dict[str, object] | None:
    try:
        return read_object(path)
    except DataError:
        return None
