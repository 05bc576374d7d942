"""What was read as what, for the user to look at before a model loads: task, fields, labels, one prompt."""

from collections import Counter
from collections.abc import Sequence

from icm.examples import LabelSpace
from icm.tasks.base import Task
from icm.tasks.drawing import Claim
from icm.tasks.fields import FieldUse
from icm.tasks.source import DataSource

LONGEST_PROMPT = 1200
MOST_LABELS = 30


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
        ("fields used", _names(use.used)),
        ("as gold", _names(use.gold)),
        ("left out", _names(use.left_out)),
    ]


def _lines(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:20} {value}".replace("\n", "\n" + " " * 21) for name, value in rows)


def _names(fields: Sequence[str]) -> str:
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
