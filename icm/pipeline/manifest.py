"""What an experiment's folder knows of its stages (`pipeline.json`), and whether that is still true."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icm.errors import ResumeError
from icm.files import file_sha256, parse_object, write_json
from icm.pipeline.stages import Stage

MANIFEST = "pipeline.json"


@dataclass(frozen=True)
class StageRecord:
    """What the manifest knows of a stage that was started.

    Attributes:
        settings: flattened settings that decided the result.
        inputs: path → SHA-256 when it was started.
        outputs: path → SHA-256 when it had finished; empty before.
        seconds: wall-clock time it took.
    """

    settings: Mapping[str, object]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the stage came to its end."""
        return bool(self.outputs)


def read_manifest(folder: Path) -> dict[str, StageRecord]:
    """Stage name → record; empty for a new experiment."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    content = parse_object(path.read_text(encoding="utf-8"), str(path))
    try:
        return {name: StageRecord(**entry) for name, entry in content["stages"].items()}
    except (KeyError, TypeError, AttributeError):
        raise ResumeError(f"{path}: not a manifest of this version; choose another output_dir") from None


def write_manifest(folder: Path, records: Mapping[str, StageRecord]) -> None:
    """Write what `read_manifest` reads."""
    write_json(folder / MANIFEST, {"stages": {name: vars(record) for name, record in records.items()}})


def started(stage: Stage, record: StageRecord | None) -> StageRecord:
    """The record of a stage that is started now; the time of an earlier start that did not finish counts."""
    seconds = record.seconds if record and not record.finished else 0.0
    return StageRecord(flat(stage.settings), digests(stage.inputs), {}, seconds)


def is_done(stage: Stage, record: StageRecord | None) -> bool:
    """Whether the stage's outputs are there, made from the present settings and inputs."""
    return record is not None and record.finished and not changed(stage, record) and stage.written


def changed(stage: Stage, record: StageRecord) -> list[str]:
    """Settings and inputs that are not what they were when the stage was started, in words."""
    now, then = flat(stage.settings), flat(record.settings)
    names = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    found = [f"{name} was {then.get(name)!r}, is {now.get(name)!r}" for name in names]
    hashes = digests(stage.inputs)
    found += [f"{path} has changed" for path, old in record.inputs.items() if hashes.get(path, old) != old]
    made = digests(stage.outputs)
    return found + [f"{path} was changed by hand" for path, old in record.outputs.items() if made.get(path, old) != old]


def refuse_changed(stage: Stage, record: StageRecord | None) -> None:
    """Raise ResumeError if the stage was made, or begun, from something else."""
    if record is not None and (changes := changed(stage, record)):
        raise ResumeError(
            f"stage '{stage.name}' was made differently: {'; '.join(changes[:3])}"
            f"{f' and {len(changes) - 3} more' if len(changes) > 3 else ''}; "
            "choose another output_dir, or redo it with --force"
        )


def flat(value: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, keys joined with dots; values as JSON gives them back, under today's names."""
    found: dict[str, object] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            found |= flat(entry, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.loads(json.dumps(entry), object_hook=_renamed)
    return found


def _renamed(content: dict[str, object]) -> dict[str, object]:
    """A condition whose labels are those of the `file`, as experiments said before they said `labels`."""
    return content | {"labels_from": "labels"} if content.get("labels_from") == "file" else content


def digests(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of the files that are there."""
    return {str(path): file_sha256(path) for path in paths if path.is_file()}
