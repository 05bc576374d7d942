"""The trace: one JSON line a decision. It is the picture of the search and its checkpoint at once.

Behind a header that names data, model and settings, each line is one of the row classes below. They are the only
description of a line: `row_json` writes their fields in order, `read_row` reads and checks them. Where the lines of a
run lie is said in `units.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from icm.engines.base import Usage
from icm.errors import DataError
from icm.files import JsonObject, read_log
from icm.results.fields import count_field, flag_field, number_field, object_field, shown, text_field


@dataclass(frozen=True, order=True)
class Unit:
    """One search: the unit of work. It depends on nothing but data, settings and these two numbers.

    Attributes:
        batch: number of the batch, from 0.
        restart: number of the search over it, from 0.
    """

    batch: int
    restart: int

    def __str__(self) -> str:
        return f"restart {self.restart}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """A row of one search. Examples stand in it by id.

    Attributes:
        restart, batch: the unit.
    """

    restart: int = 0
    batch: int = 0

    @property
    def unit(self) -> Unit:
        """The search."""
        return Unit(self.batch, self.restart)


@dataclass(frozen=True, kw_only=True)
class Reading(SearchRow):
    """Whether the trusted labels turn round what is found (see `icm.labelling.readings`)."""

    turned: bool


@dataclass(frozen=True, kw_only=True)
class Start(SearchRow):
    """The labels before the first iteration (`changes`), the mean label log-probabilities of the rounds that led to
    them (`preferences`), and the labels that their order was drawn for, where these are others (`ordered`). A finished
    search keeps the first alone."""

    iteration: int = 0
    changes: Mapping[str, str]
    accepted: bool = True
    utility: float
    preferences: Mapping[str, Sequence[float]] | None = None
    ordered: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class FreshOrder(SearchRow):
    """A fresh demonstration order before an iteration, what became of the joint proposal there, and the mean label
    log-probabilities over the orders before it (`preferences`; None in the trace of a finished search). U is under the
    fresh order."""

    iteration: int
    changes: Mapping[str, str]
    accepted: bool
    delta: float
    utility: float
    labelled: int
    preferences: Mapping[str, Sequence[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Decision(SearchRow):
    """One iteration of Algorithm 1.

    Attributes:
        iteration: from 1.
        example: the one drawn.
        previous: its label before, if it had one.
        proposal: the label proposed for it.
        accepted: whether D' is D now.
        changes: labels of D' that differ from D's; consistency can add some, and can take the proposal back.
        delta: U(D') - U(D).
        utility: U(D) after the decision.
        inconsistencies: I(D) after the decision.
        temperature: T.
        labelled: number of labelled examples after the decision.
    """

    iteration: int
    example: str
    previous: str | None
    proposal: str
    accepted: bool
    changes: Mapping[str, str]
    delta: float
    utility: float
    inconsistencies: int = 0
    temperature: float
    labelled: int


@dataclass(frozen=True, kw_only=True)
class End(SearchRow):
    """What a search found: see `icm.search.problem.SearchOutcome`."""

    iterations: int
    utility: float | None
    labels: Mapping[str, str]
    log_odds: Mapping[str, float]


@dataclass
class Cost(Usage):
    """Cost so far, interrupted parts included; for its own fields see `icm.search.scoring.PlainCost`."""

    plain_tokens: int = 0
    unchanged_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value - getattr(other, name) for name, value in vars(self).items()})


Row = SearchRow | Cost
KINDS: Mapping[str, type[Row]] = {
    "reading": Reading,
    "start": Start,
    "order": FreshOrder,
    "decision": Decision,
    "end": End,
    "usage": Cost,
}
"""Field `type` → row."""
KIND_NAMES = {kind: name for name, kind in KINDS.items()}
PLACE = ("restart", "batch")
"""Fields that stand before the type."""
UNFINISHED = ("preferences", "ordered")
"""Fields that a search needs to go on, and nobody when it has ended; None is not written."""


def row_json(row: Row, unit: Unit | None = None) -> JsonObject:
    """The JSON object of a row: which search, type, fields. A cost is that of `unit`, if given, else of the run."""
    content = {field.name: getattr(row, field.name) for field in fields(row)} | (vars(unit) if unit else {})
    place = {name: content.pop(name) for name in PLACE if name in content}
    content = {name: value for name, value in content.items() if name not in UNFINISHED or value is not None}
    return place | {"type": KIND_NAMES[type(row)]} | content


def read_row(content: JsonObject, where: str) -> Row | None:
    """The row of a JSON object, a decision if it does not say its type; None if the type is not known here.

    Raises:
        DataError: a field is absent or wrong; `where` (file and line) starts the message, the field follows.
    """
    kind = KINDS.get(str(content.get("type", "decision")))
    if kind is None:
        return None
    found = {**_defaults(kind, content), **content}
    return kind(**{f.name: _CHECKS[f.type](found.get(f.name), f"{where}: field {f.name!r}") for f in fields(kind)})


def _defaults(kind: type[Row], content: JsonObject) -> JsonObject:
    """What stands for absent fields. A decision that does not say its changes has made those that it proposed."""
    defaults = {field.name: field.default for field in fields(kind) if field.default is not MISSING}
    if kind is not Decision:
        return defaults
    changed = content.get("proposal") != content.get("previous")
    return {**defaults, "changes": {str(content.get("example")): content.get("proposal")} if changed else {}}


def _finite(value: object, where: str) -> float:
    number = number_field(value, where)
    if number is None:
        raise DataError(f"{where}: found {shown(value)}, expected a finite number")
    return number


def _text_or_null(value: object, where: str) -> str | None:
    return None if value is None else text_field(value, where)


def _texts(value: object, where: str) -> dict[str, str]:
    return {key: text_field(text, where) for key, text in object_field(value, where).items()}


def _texts_or_null(value: object, where: str) -> dict[str, str] | None:
    return None if value is None else _texts(value, where)


def _numbers(value: object, where: str) -> dict[str, float]:
    return {key: _finite(number, where) for key, number in object_field(value, where).items()}


def _log_probs(value: object, where: str) -> dict[str, list[float]]:
    return {key: _vector(row, where) for key, row in object_field(value, where).items()}


def _log_probs_or_null(value: object, where: str) -> dict[str, list[float]] | None:
    return None if value is None else _log_probs(value, where)


def _vector(value: object, where: str) -> list[float]:
    if not isinstance(value, list):
        raise DataError(f"{where}: found {shown(value)}, expected a list of numbers")
    return [_finite(number, where) for number in value]


_CHECKS: Mapping[object, Callable[[Any, str], Any]] = {
    int: count_field,
    float: _finite,
    float | None: number_field,
    bool: flag_field,
    str: text_field,
    str | None: _text_or_null,
    Mapping[str, str]: _texts,
    Mapping[str, str] | None: _texts_or_null,
    Mapping[str, float]: _numbers,
    Mapping[str, Sequence[float]] | None: _log_probs_or_null,
}
"""Type of a field → what reads it."""


Step = Decision | FreshOrder
"""A row that the course of a search is drawn from."""


def read_trace(path: str | Path) -> list[Step]:
    """The decisions and fresh orders of a trace file; other rows are skipped, fields that are not known here ignored.

    Raises:
        DataError: names the file, the line and the field.
    """
    lines = ((number, row) for number, row in read_log(path) if row.get("type", "decision") in ("decision", "order"))
    rows = [read_row(row, f"{path}:{number}") for number, row in lines]
    return [row for row in rows if isinstance(row, Step)]
