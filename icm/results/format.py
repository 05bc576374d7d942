"""Result files: `<task>_<model>_<timestamp>.jsonl`, one metadata line, then one line per labelled example."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from icm.errors import ConfigError, DataError
from icm.examples import ICMDataset, ICMExample, LabelSpace, Relations, example_id
from icm.files import dump_json, read_jsonl, write_jsonl
from icm.results.codelion import NumberedRow, convert_rows, is_codelion
from icm.results.fields import number_field, object_field, shown, text_field, texts_field
from icm.tasks.source import DataSource

TRACE_SUFFIX = ".trace.jsonl"

HEADER_FIELDS = ("type", "task", "score", "examples", "label_space")
EXAMPLE_FIELDS = ("type", "id", "input", "label", "log_odds", "metadata", "relations")
RELATION_FIELDS = ("group", "answer", "inverse")


@dataclass(frozen=True)
class LabeledExample:
    """An example with the label a labeler gave it.

    Attributes:
        example: the example.
        label: one of the label space.
        log_odds: ln p/(1-p) of `label` against the other labels given all other labelled examples, in nats;
            calibrated as the run was; None for labels that no model scored (random, gold).
    """

    example: ICMExample
    label: str
    log_odds: float | None = None


@dataclass(frozen=True)
class ICMResult:
    """What a labeler returns and a result file holds.

    Attributes:
        labeled_examples: in dataset order.
        score: final utility U(D) under demonstration orders that the search has not used; None for the
            random and zero-shot labelers, which use no demonstrations.
        label_space: labels and verbalisers.
        task: task type.
        metadata: everything else on the first line: settings, model, data, versions, seed, iterations, usage.
    """

    labeled_examples: Sequence[LabeledExample]
    score: float | None
    label_space: LabelSpace = field(default_factory=LabelSpace)
    task: str = "classification"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> ICMDataset:
        """The examples without their labels."""
        return ICMDataset(tuple(item.example for item in self.labeled_examples), self.label_space, task=self.task)


def metadata_row(result: ICMResult) -> dict[str, Any]:
    """The first line of a result file. Raises DataError if `metadata` uses the name of a field of its own."""
    reserved = sorted(set(HEADER_FIELDS) & set(result.metadata))
    if reserved:
        raise DataError(f"result metadata: keys {reserved} are fields of their own; rename them")
    space = {"labels": list(result.label_space.labels), "verbalisers": list(result.label_space.verbalisers)}
    return {
        "type": "icm_metadata",
        "task": result.task,
        "score": result.score,
        "examples": len(result.labeled_examples),
        "label_space": space,
        **result.metadata,
    }


def example_row(item: LabeledExample) -> dict[str, Any]:
    """One example's line of a result file."""
    relations = {key: value for key, value in vars(item.example.relations).items() if value is not None}
    return {
        "type": "icm_example",
        "id": item.example.id,
        "input": item.example.input,
        "label": item.label,
        "log_odds": item.log_odds,
        "metadata": dict(item.example.metadata),
        "relations": relations,
    }


def write_result(path: str | Path, result: ICMResult) -> None:
    """Write a result file atomically."""
    write_jsonl(path, [metadata_row(result), *map(example_row, result.labeled_examples)])


def read_result(path: str | Path) -> ICMResult:
    """Read a result file of this project or of codelion/icm.

    Raises:
        DataError: names the file, the line and the field.
    """
    (number, header), rows = _sections(path)
    where = f"{path}:{number}"
    object_field(header, where)
    task = text_field(header.get("task"), f"{where}: field 'task'")
    score = number_field(header.get("score"), f"{where}: field 'score'")
    space = _label_space(header.get("label_space"), where)
    items = [_read_example(row, space, f"{path}:{line}") for line, row in rows]
    _check_distinct(items, [line for line, _ in rows], path)
    _check_count(header.get("examples", len(items)), len(items), where)
    metadata = {key: value for key, value in header.items() if key not in HEADER_FIELDS}
    return ICMResult(items, score, space, task, metadata)


def _sections(path: str | Path) -> tuple[NumberedRow, list[NumberedRow]]:
    """The numbered metadata row and example rows, in our format whoever wrote the file."""
    try:
        rows = list(read_jsonl(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected an ICM result file") from None
    if rows and is_codelion(rows[0][1]):
        return convert_rows(rows, str(path))
    if not rows or rows[0][1].get("type") != "icm_metadata":
        line = rows[0][0] if rows else 1
        raise DataError(f'{path}:{line}: expected the metadata line ("type": "icm_metadata") of an ICM result file')
    return rows[0], rows[1:]


def _label_space(value: Any, where: str) -> LabelSpace:
    where = f"{where}: field 'label_space'"
    texts = object_field(value, where, ("labels", "verbalisers"))
    labels, verbalisers = (texts_field(texts.get(key), f"{where}, '{key}'") for key in ("labels", "verbalisers"))
    try:
        return LabelSpace(labels, verbalisers)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _read_example(row: dict[str, Any], space: LabelSpace, where: str) -> LabeledExample:
    object_field(row, where, EXAMPLE_FIELDS)
    if row.get("type") != "icm_example":
        raise DataError(f"{where}: field 'type': found {shown(row.get('type'))}, expected 'icm_example'")
    text = text_field(row.get("input"), f"{where}: field 'input'")
    if row.get("id", example_id(text)) != example_id(text):
        raise DataError(
            f"{where}: field 'id': found {shown(row['id'])}, expected {example_id(text)!r}, the hash of 'input'; "
            "if the input was edited, remove the id"
        )
    if row.get("label") not in space.labels:
        raise DataError(
            f"{where}: field 'label': found {shown(row.get('label'))}, expected one of {list(space.labels)}"
        )
    metadata = object_field(row.get("metadata", {}), f"{where}: field 'metadata'")
    example = ICMExample(text, metadata, _relations(row.get("relations", {}), where))
    return LabeledExample(example, row["label"], number_field(row.get("log_odds"), f"{where}: field 'log_odds'"))


def _relations(value: Any, where: str) -> Relations:
    where = f"{where}: field 'relations'"
    found = object_field(value, where, RELATION_FIELDS)
    texts = {key: text_field(text, f"{where}, '{key}'") for key, text in found.items() if text is not None}
    return Relations(**texts)


def _check_distinct(items: Sequence[LabeledExample], lines: Sequence[int], path: str | Path) -> None:
    seen: dict[str, int] = {}
    for item, line in zip(items, lines, strict=True):
        first = seen.setdefault(item.example.id, line)
        if first != line:
            raise DataError(
                f"{path}:{line}: field 'input': the same text as in line {first} (id {item.example.id}); remove one"
            )


def _check_count(stated: Any, found: int, where: str) -> None:
    if not found:
        raise DataError(f"{where}: no examples follow the metadata line; expected at least one")
    if isinstance(stated, bool) or stated != found:
        raise DataError(
            f"{where}: field 'examples': found {shown(stated)}, but {found} examples follow; is the file cut?"
        )


@dataclass(frozen=True)
class StoredResult:
    """One line of `icm list`.

    Attributes:
        path: the result file.
        created: when the run began, or when the file was written if it does not say.
        task: task type; empty for a broken file, like the fields below.
        model: model that labelled.
        examples: number of labelled examples.
        score: final utility, None for the random and zero-shot labelers.
        error: why the file cannot be read; None for a sound one.
    """

    path: Path
    created: datetime
    task: str = ""
    model: str = ""
    examples: int = 0
    score: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """File name without the ending."""
        return self.path.stem


def trace_path(path: str | Path) -> Path:
    """The decision log beside a result file; an interrupted run resumes from it."""
    return Path(path).with_suffix(TRACE_SUFFIX)


class ICMStorage:
    """A folder of result files.

    Args:
        results_dir: the folder; made when the first result is saved.
    """

    def __init__(self, results_dir: str | Path = "icm_results") -> None:
        self.results_dir = Path(results_dir)

    def result_path(self, task: str, model: str, time: datetime, output_name: str | None = None) -> Path:
        """Where a run writes: a free `<task>_<model>_<timestamp>.jsonl`, or `<output_name>.jsonl`, free or not.

        Raises:
            ConfigError: `output_name` is not a plain file name.
        """
        if output_name is not None:
            return self.results_dir / f"{_checked_name(output_name)}.jsonl"
        return self._free_path(f"{_slug(task)}_{_slug(Path(model).name)}", time)

    def save_result(self, result: ICMResult, name: str) -> Path:
        """Write the result as `<name>_<timestamp>.jsonl` and return the path. Nothing is overwritten."""
        path = self._free_path(_checked_name(name), datetime.now(UTC))
        write_result(path, result)
        return path

    def _free_path(self, name: str, time: datetime) -> Path:
        stem = f"{name}_{time:%Y%m%d_%H%M%S}"
        stems = chain([stem], (f"{stem}-{copy}" for copy in count(2)))
        paths = (self.results_dir / f"{stem}.jsonl" for stem in stems)
        return next(path for path in paths if not path.exists() and not trace_path(path).exists())

    def find(self, path: str | Path) -> Path:
        """The result file given by path, or by its name in the folder, with or without `.jsonl`."""
        named = self.results_dir / path
        candidates = [Path(path), named, named.with_name(f"{named.name}.jsonl")]
        return next((file for file in candidates if file.is_file()), Path(path))

    def load_result(self, path: str | Path) -> ICMResult:
        """Read the result file that `find` finds. Raises DataError."""
        return read_result(self.find(path))

    def list_results(self) -> list[StoredResult]:
        """All result files of the folder, newest first; a file that cannot be read says why in `error`."""
        files = [file for file in self.results_dir.glob("*.jsonl") if not file.name.endswith(TRACE_SUFFIX)]
        return sorted(map(_summary, files), key=lambda stored: (stored.created, stored.name), reverse=True)

    def clean_old_results(self, keep_latest: int = 10) -> list[Path]:
        """Remove all but the latest results, each with its trace; returns the removed files.

        Files that cannot be read are neither counted nor removed: they may be somebody's data.
        """
        if isinstance(keep_latest, bool) or not isinstance(keep_latest, int) or keep_latest < 0:
            raise ConfigError(f"keep_latest: found {keep_latest!r}, expected a whole number, 0 or more")
        sound = [stored for stored in self.list_results() if stored.error is None]
        pairs = ((stored.path, trace_path(stored.path)) for stored in sound[keep_latest:])
        removed = [file for file in chain.from_iterable(pairs) if file.exists()]
        for file in removed:
            file.unlink()
        return removed


def _checked_name(name: str) -> str:
    if _slug(name) != name or f"{name}.jsonl".endswith(TRACE_SUFFIX):
        raise ConfigError(
            f"output_name: found {name!r}, expected a file name of letters, digits, '.', '-' and '_' "
            "that does not end in .trace"
        )
    return name


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "unnamed"


def _summary(path: Path) -> StoredResult:
    written = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    try:
        result = read_result(path)
    except DataError as error:
        return StoredResult(path, written, error=str(error))
    size, model = len(result.labeled_examples), model_name(result)
    return StoredResult(path, _created(result, written), result.task, model, size, result.score)


def model_name(result: ICMResult) -> str:
    """Model that labelled, as the metadata says; `unknown` if it does not."""
    model = result.metadata.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    return name if isinstance(name, str) and name else "unknown"


def _created(result: ICMResult, default: datetime) -> datetime:
    try:
        created = datetime.fromisoformat(str(result.metadata.get("created")))
    except ValueError:
        return default
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def data_source(result: ICMResult) -> DataSource | None:
    """Where the labelled examples come from (metadata `data.source`); None if the result does not say.

    Raises:
        DataError: it is no data source; names the field.
    """
    data = result.metadata.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if source is None:
        return None
    object_field(source, "metadata 'data.source'", [field.name for field in fields(DataSource)])
    try:
        return TypeAdapter(DataSource).validate_json(dump_json(source), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"metadata 'data.source.{place}': found {shown(first['input'])}, {first['msg']}") from None
