"""Which fields of the records a task reads, which it leaves out, and the refusal to leave out part of the question; and
what was read as what, for the user to look at before a model loads: task, fields, labels, one prompt."""

import logging
from collections import Counter
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from icm.errors import DataError, ICMError
from icm.examples import LabelSpace
from icm.tasks.advice import suggested_template
from icm.tasks.base import Record, Task
from icm.tasks.columns import columns_of, holds_text, looks_like_question, quoted
from icm.tasks.drawing import Claim
from icm.tasks.rendering import placeholders
from icm.tasks.source import DataSource

SAMPLE = 100
"""Records that are read to see what a task reads."""
LONGEST_PROMPT = 1200
MOST_LABELS = 30
_log = logging.getLogger(__name__)

_VERDICTS = {"label", "is_correct"}
"""Fields that judge an answer that stands beside them."""


class _Watched(Mapping[str, object]):
    """Fields that note which of them were read. To look through all of them, or for one, is not to read it."""

    def __init__(self, fields: Mapping[str, object], read: set[str]) -> None:
        self._fields = fields
        self._read = read

    def __getitem__(self, name: str) -> object:
        value = self._fields[name]
        self._read.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def items(self) -> ItemsView[str, object]:
        return self._fields.items()


@dataclass(frozen=True)
class FieldUse:
    """Fields of the records, by what the task makes of them, under the names that the data have for them.

    Attributes:
        used: read for the prompt.
        gold: read as gold.
        left_out: not read.
        question: those left out that look like part of the question and hold text in most records.
        columns: all of them.
        writing: a prompt from which a model has to write claims; None where claims are given.
    """

    used: Sequence[str]
    gold: Sequence[str]
    left_out: Sequence[str]
    question: Sequence[str]
    columns: Sequence[str]
    writing: str | None


def field_use(task: Task, records: Sequence[Record], source: DataSource) -> FieldUse:
    """What the task makes of the records' fields, from a sample of them."""
    columns, called = columns_of(records), records[0].called
    read, writing = _read(task, records[:: max(1, len(records) // SAMPLE)])
    to_column = {old: new for new, old in called.items()}
    named = [*placeholders(source.template or ""), *([source.group_field] if source.group_field else [])]
    read |= {to_column.get(name, name) for name in named} & set(columns)
    gold = [name for name in columns if name in task.gold_fields and (writing is not None or name in read)]
    left = [name for name in columns if name not in (*read, *gold)]
    question = [name for name in left if name not in task.leaves_out | task.gold_fields]
    question = [name for name in question if looks_like_question(name) and holds_text(name, records)]
    used = [name for name in columns if name in read and name not in gold] or gold

    def own(names: Sequence[str]) -> list[str]:
        return [called.get(name, name) for name in names]

    return FieldUse(own(used), own(gold), own(left), own(question), own(columns), writing)


def _read(task: Task, records: Sequence[Record]) -> tuple[set[str], str | None]:
    """The fields that the task reads of these records, and the first prompt by which it asks a model for claims."""
    found: set[str] = set()
    writing, refused = None, 0
    for record in records:
        read: set[str] = set()
        watched = replace(record, fields=_Watched(record.fields, read))
        try:
            asked = task.asked(watched)
            if asked is None:
                task.claims(watched)
        except ICMError:  # it is refused, or left out, where all records are read
            refused += 1
        else:
            writing, found = writing or (asked and asked[1]), found | read
    return (set(columns_of(records)) if refused == len(records) else found), writing


def refuse_left_out(task: Task, use: FieldUse, source: DataSource) -> None:
    """Refuse to take records for a task, by their fields alone, that would leave out part of the question.

    Raises:
        DataError: with the options that settle it.
    """
    if source.task_type != "auto" or source.template is not None:
        return
    if source.text_field is not None:
        if use.question:
            _log.warning(
                "--text-field leaves out %s, which may be part of the question; --template %s shows it, "
                "--ignore-fields %s says that it is none",
                *(", ".join(map(repr, use.question)), _showing(task, use), " ".join(map(quoted, use.question))),
            )
        return
    if use.writing is not None and (judged := [name for name in use.gold if name.lower() in _VERDICTS]):
        raise DataError(
            f"{source.dataset}: task {task.name}, found by the fields, has a model write answers and does not read "
            f"{judged[0]!r}, which may judge the one that is given; to have that judged, give --template "
            f"{quoted(suggested_template([name for name in use.columns if name not in judged]))} --label-field "
            f"{quoted(judged[0])}, else --ignore-fields {' '.join(map(quoted, judged))}"
        )
    if not use.question:
        return
    names, words = ", ".join(map(repr, use.question)), " ".join(map(quoted, use.question))
    look, them = ("looks", "it") if len(use.question) == 1 else ("look", "them")
    # A model that writes the claims is asked without a template.
    alone = (
        f" (or --text-field {words} to read it alone)" if not isinstance(task.template, str) and them == "it" else ""
    )
    show = (
        "put it into the field that is asked, give "
        if use.writing is not None
        else f"give --template {_showing(task, use)}{alone}, "
    )
    raise DataError(
        f"{source.dataset}: task {task.name}, found by the fields, does not read {names}, which {look} like part of "
        f"the question; {show}--ignore-fields {words} to leave {them} out, or --task-type if it is another task"
    )


def _showing(task: Task, use: FieldUse) -> str:
    """A template that shows what is left out as well."""
    if isinstance(task.template, str):
        return quoted(suggested_template(use.question, task.template))
    return quoted(suggested_template([name for name in use.columns if name in (*use.question, *use.used)]))


def account(task: Task, use: FieldUse, claims: Sequence[Claim], space: LabelSpace, source: DataSource) -> str:
    """Lines of a name and a value each; the prompt's further lines are indented."""
    prompt = _prompt(claims[0].example.input, space)
    return _lines([*_fields(task, use, source), ("labels", _labels(claims, space)), ("a prompt", prompt)])


def account_of_questions(task: Task, use: FieldUse, source: DataSource) -> str:
    """The same of records whose claims a model has to write: what it is asked."""
    return _lines([*_fields(task, use, source), ("a prompt for claims", _cut(use.writing or ""))])


def _fields(task: Task, use: FieldUse, source: DataSource) -> list[tuple[str, str]]:
    how = " (by the fields; --task-type names another)" if source.task_type == "auto" and task.records is None else ""
    return [
        ("task", task.name + how),
        ("fields used", _listed(use.used)),
        ("as gold", _listed(use.gold)),
        ("left out", _listed(use.left_out)),
    ]


def _lines(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:20} {value}".replace("\n", "\n" + " " * 21) for name, value in rows)


def _listed(fields: Sequence[str]) -> str:
    return ", ".join(repr(name) if name != name.strip() else name for name in fields) or "none"


def _labels(claims: Sequence[Claim], space: LabelSpace) -> str:
    counts = Counter(claim.gold for claim in claims)
    shown = [f"{counts[label]:,} {label}" for label in space.labels[:MOST_LABELS]]
    more = [f"{len(space.labels) - MOST_LABELS} further labels"] if len(space.labels) > MOST_LABELS else []
    return f"{len(claims):,} examples: {', '.join([*shown, *more, f'{counts[None]:,} unlabelled'])}"


def _prompt(text: str, space: LabelSpace) -> str:
    """The prompt with the texts that may follow it in the place where one does."""
    texts = [*map(repr, space.verbalisers[:6]), *(["…"] if len(space.verbalisers) > 6 else [])]
    return f"{_cut(text)}<LABEL: {' | '.join(texts)}>"


def _cut(text: str) -> str:
    half = LONGEST_PROMPT // 2
    return text if len(text) <= 2 * half else f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}"
