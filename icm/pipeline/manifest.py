"""What an experiment's folder knows of its stages (`pipeline.json`), and whether that is still true."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from icm.errors import DataError, ResumeError
from icm.files import file_sha256, read_object, write_json
from icm.models import weights_hash
from icm.pipeline.stages import Stage
from icm.results.format import content_hash, is_result, read_result
from train.checkpoints import FINISHED_FILE, training_hash

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


_STAGES = TypeAdapter(dict[str, StageRecord])


def read_manifest(folder: Path) -> dict[str, StageRecord]:
    """Stage name → record; empty for a new experiment."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return _STAGES.validate_python(read_object(path).get("stages"))
    except ValidationError as error:
        place = ".".join(map(str, ("stages", *error.errors()[0]["loc"])))
        raise ResumeError(f"{path}: {place}: not a manifest of this version; choose another output_dir") from None


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
    found += [f"{path} has changed" for path in _other(stage.inputs, record.inputs)]
    return found + [f"{path} was changed by hand" for path in _other(stage.outputs, record.outputs)]


def _other(paths: Sequence[Path], known: Mapping[str, str]) -> list[Path]:
    """Those that are not what they were. A file may be known by its bytes, as earlier versions knew all of them."""
    there = {path: known[str(path)] for path in paths if str(path) in known and path.exists()}
    return [path for path, old in there.items() if old != digest(path) and (path.is_dir() or old != file_sha256(path))]


def fits(stage: Stage, record: StageRecord | None) -> bool:
    """Whether outputs that nobody recorded are those of this stage: it was started with the present settings and
    inputs, and its file, which appears whole, says the same settings."""
    if record is None or record.finished or not stage.written or changed(stage, record):
        return False
    try:
        made = read_result(stage.outputs[0]).record.settings
    except DataError:
        return False
    return flat(stage.settings) == flat({part: made.get(part) for part in stage.settings})


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
    """Digests of the files and folders that are there."""
    return {str(path): digest(path) for path in paths if path.exists()}


def digest(path: Path) -> str:
    """What a file or a model's folder is by content. Labels and trainings that are made again, at another time, are the
    same where all that they decide is."""
    if path.is_dir():
        return weights_hash(path)
    if path.name == FINISHED_FILE:
        return training_hash(path)
    try:
        return content_hash(read_result(path)) if is_result(path) else file_sha256(path)
    except DataError:
        return file_sha256(path)
