"""Result files: `<task>_<model>_<timestamp>.jsonl`, one metadata line, then one line per labelled example."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from icm.errors import DataError
from icm.examples import TRUSTED, ICMDataset, ICMExample, LabelSpace, Relations, example_id
from icm.files import fingerprint, read_jsonl, write_jsonl
from icm.results.codelion import NumberedRow, convert_rows, is_codelion
from icm.results.fields import number_field, object_field, shown, text_field, texts_field
from icm.results.record import RunRecord, read_record

TRACE_SUFFIX = ".trace.jsonl"

HEADER_FIELDS = ("type", "task", "score", "examples", "label_space")
EXAMPLE_FIELDS = ("type", "id", "input", "label", "log_odds", "metadata", "relations", "record_id")
RELATION_FIELDS = ("group", "answer", "inverse")


@dataclass(frozen=True)
class LabeledExample:
    """An example with the label a labeler gave it.

    Attributes:
        example: the example.
        label: one of the label space.
        log_odds: ln p/(1-p) of `label` against the other labels given all other labelled examples, in nats; of two
            examples of which one is True that of both together; calibrated as the run was; None for labels that no
            model scored (random, gold).
    """

    example: ICMExample
    label: str
    log_odds: float | None = None

    @property
    def trusted(self) -> bool:
        """Whether the label was given rather than found; the file says so in the metadata."""
        return self.example.metadata.get(TRUSTED) is True


@dataclass(frozen=True)
class ICMResult:
    """What a labeler returns and a result file holds.

    Attributes:
        labeled_examples: in dataset order.
        score: final utility U(D) under demonstration orders that the search has not used; None for the
            random and zero-shot labelers, which use no demonstrations.
        label_space: labels and verbalisers.
        task: task type.
        record: everything else on the first line: settings, model, data, versions, seed, iterations, usage.
        file: where it was read from; paths in the record may be relative to there.
        task_type: module of a task that the user names for the file's data; the file alone names no code to run.
    """

    labeled_examples: Sequence[LabeledExample]
    score: float | None
    label_space: LabelSpace = field(default_factory=LabelSpace)
    task: str = "classification"
    record: RunRecord = field(default_factory=RunRecord)
    file: str | None = field(default=None, compare=False)
    task_type: str | None = field(default=None, compare=False)

    @property
    def metadata(self) -> Mapping[str, object]:
        """The record as it is written, for scripts; our own code reads the record."""
        return self.record.as_row()

    @property
    def labels(self) -> dict[str, str]:
        """Example id → label."""
        return {item.example.id: item.label for item in self.labeled_examples}

    @property
    def label_counts(self) -> dict[str, int]:
        """Label → number of examples, for every label of the space."""
        counted = Counter(item.label for item in self.labeled_examples)
        return {label: counted[label] for label in self.label_space.labels}

    @property
    def dataset(self) -> ICMDataset:
        """The examples without their labels."""
        return ICMDataset(tuple(item.example for item in self.labeled_examples), self.label_space, task=self.task)


def metadata_row(result: ICMResult) -> dict[str, object]:
    """The first line of a result file. Raises DataError if the record uses the name of a field of the line's own."""
    record = result.record.as_row()
    reserved = sorted(set(HEADER_FIELDS) & set(record))
    if reserved:
        raise DataError(f"result record: keys {reserved} are fields of their own; rename them")
    space = {name: list(value) for name, value in vars(result.label_space).items() if value}
    return {
        "type": "icm_metadata",
        "task": result.task,
        "score": result.score,
        "examples": len(result.labeled_examples),
        "label_space": space,
        **record,
    }


def example_row(item: LabeledExample) -> dict[str, object]:
    """One example's line of a result file."""
    relations = {key: value for key, value in asdict(item.example.relations).items() if value is not None}
    row: dict[str, object] = {
        "type": "icm_example",
        "id": item.example.id,
        "input": item.example.input,
        "label": item.label,
        "log_odds": item.log_odds,
        "metadata": dict(item.example.metadata),
        "relations": relations,
    }
    return row if item.example.record_id is None else {**row, "record_id": item.example.record_id}


def write_result(path: str | Path, result: ICMResult) -> None:
    """Write a result file atomically."""
    write_jsonl(path, [metadata_row(result), *map(example_row, result.labeled_examples)])


# When, where and at what cost a result was made. All else is what its examples and labels are.
_INCIDENTAL = ("versions", "git", "peak_memory_gib", "created", "usage")


def content_hash(result: ICMResult) -> str:
    """Hash of what later stages take from a result: it is the same for labels that were made again."""
    head = {name: value for name, value in metadata_row(result).items() if name not in _INCIDENTAL}
    settings = {name: value for name, value in result.record.settings.items() if name != "output"}
    rows = [
        {name: value for name, value in example_row(item).items() if name != "record_id"}
        for item in result.labeled_examples
    ]
    return fingerprint([{**head, "settings": settings}, *rows])


def read_result(path: str | Path, task_type: str | None = None) -> ICMResult:
    """Read a result file of this project or of codelion/icm.

    Args:
        path: of the file.
        task_type: see `ICMResult`.

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
    record = read_record({key: value for key, value in header.items() if key not in HEADER_FIELDS}, where)
    return ICMResult(items, score, space, task, record, str(path), task_type)


def is_result(path: Path) -> bool:
    """Whether a file begins as a result does."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        return b'"icm_metadata"' in handle.read(100)


def _sections(path: str | Path) -> tuple[NumberedRow, list[NumberedRow]]:
    """The numbered metadata row and example rows, in our format whoever wrote the file."""
    try:
        rows = list(read_jsonl(path))
    except DataError:
        if Path(path).is_file() and Path(path).suffix.lower() not in (".jsonl", ".ndjson"):
            raise _is_data(path) from None
        raise
    if rows and is_codelion(rows[0][1]):
        return convert_rows(rows, str(path))
    if not rows or rows[0][1].get("type") != "icm_metadata":
        line, first = rows[0] if rows else (1, dict[str, object]())
        if first and "type" not in first:
            raise _is_data(path)
        raise DataError(f'{path}:{line}: expected the metadata line ("type": "icm_metadata") of an ICM result file')
    return rows[0], rows[1:]


def _is_data(path: str | Path) -> DataError:
    return DataError(
        f"{path}: is data, not a label file (.jsonl, which `icm run` writes); label it first: icm run --dataset {path}"
    )


def _label_space(value: object, where: str) -> LabelSpace:
    where = f"{where}: field 'label_space'"
    texts = object_field(value, where, ("labels", "verbalisers", "definitions"))
    labels, verbalisers = (texts_field(texts.get(key), f"{where}, '{key}'") for key in ("labels", "verbalisers"))
    pairs = texts.get("definitions", [])
    if not isinstance(pairs, list):
        raise DataError(f"{where}, 'definitions': found {shown(pairs)}, expected a list of texts with their labels")
    definitions = (texts_field(pair, f"{where}, 'definitions'") for pair in pairs)
    try:
        return LabelSpace(labels, verbalisers, tuple((text, label) for text, label in definitions))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _read_example(row: dict[str, object], space: LabelSpace, where: str) -> LabeledExample:
    object_field(row, where, EXAMPLE_FIELDS)
    if row.get("type") != "icm_example":
        raise DataError(f"{where}: field 'type': found {shown(row.get('type'))}, expected 'icm_example'")
    text = text_field(row.get("input"), f"{where}: field 'input'")
    if row.get("id", example_id(text)) != example_id(text):
        raise DataError(
            f"{where}: field 'id': found {shown(row['id'])}, expected {example_id(text)!r}, the hash of 'input'; "
            "if the input was edited, remove the id"
        )
    label = row.get("label")
    if not isinstance(label, str) or label not in space.labels:
        raise DataError(f"{where}: field 'label': found {shown(label)}, expected one of {list(space.labels)}")
    metadata = object_field(row.get("metadata", {}), f"{where}: field 'metadata'")
    own = row.get("record_id")
    record_id = None if own is None else text_field(own, f"{where}: field 'record_id'")
    example = ICMExample(text, metadata, _relations(row.get("relations", {}), where), None, record_id)
    return LabeledExample(example, label, number_field(row.get("log_odds"), f"{where}: field 'log_odds'"))


def _relations(value: object, where: str) -> Relations:
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


def _check_count(stated: object, found: int, where: str) -> None:
    if not found:
        raise DataError(f"{where}: no examples follow the metadata line; expected at least one")
    if isinstance(stated, bool) or stated != found:
        raise DataError(
            f"{where}: field 'examples': found {shown(stated)}, but {found} examples follow; is the file cut?"
        )


def trace_path(path: str | Path) -> Path:
    """The decision log beside a result file; an interrupted run resumes from it."""
    return Path(path).with_suffix(TRACE_SUFFIX)
