"""The trace: one JSON line a decision. It is the picture of the search and its checkpoint at once.

Behind a header that names data, model and settings, each line is one of the row classes below. They are the only
description of a line: `row_json` writes their fields in order, `read_row` reads and checks them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import IO, Any

from icm.engines.base import Usage
from icm.errors import DataError, ResumeError
from icm.files import JsonObject, append_jsonl, appending, cut_log, read_log, write_jsonl
from icm.models import CONTENT
from icm.results.fields import count_field, flag_field, number_field, object_field, shown, text_field


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """A row of one search. Examples stand in it by id.

    Attributes:
        restart: number of the search, from 0.
        batch: number of the batch, from 0.
    """

    restart: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Reading(SearchRow):
    """Whether the trusted labels turn round what is found (see `icm.labelling.readings`)."""

    turned: bool


@dataclass(frozen=True, kw_only=True)
class Start(SearchRow):
    """The labels before the first iteration (`changes`), and the mean label log-probabilities of the rounds that led to
    them (`preferences`); `before` are those that were others when the order was drawn, which depends on them."""

    iteration: int = 0
    changes: Mapping[str, str]
    accepted: bool = True
    utility: float
    preferences: Mapping[str, Sequence[float]]
    before: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class FreshOrder(SearchRow):
    """A fresh demonstration order before an iteration, what became of the joint proposal there, and the mean label
    log-probabilities over the orders before it (`preferences`). U is under the fresh order."""

    iteration: int
    changes: Mapping[str, str]
    accepted: bool
    delta: float
    utility: float
    labelled: int
    preferences: Mapping[str, Sequence[float]]


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
    """Cost of the run so far, interrupted parts included; for its own fields see `icm.search.scoring.PlainCost`."""

    plain_tokens: int = 0
    unchanged_tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(**{name: value + getattr(other, name) for name, value in vars(self).items()})


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


def row_json(row: Row) -> JsonObject:
    """The JSON object of a row: which search, type, fields."""
    content = {field.name: getattr(row, field.name) for field in fields(row)}
    if content.get("before", row) is None:  # traces from before there was any say nothing
        del content["before"]
    place = {name: content.pop(name) for name in PLACE if name in content}
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
    Mapping[str, Sequence[float]]: _log_probs,
}
"""Type of a field → what reads it."""


def read_trace(path: str | Path) -> list[Decision]:
    """The decisions of a trace file; other rows are skipped, fields that are not known here ignored.

    Raises:
        DataError: names the file, the line and the field.
    """
    lines = ((number, row) for number, row in read_log(path) if row.get("type", "decision") == "decision")
    rows = [read_row(row, f"{path}:{number}") for number, row in lines]
    return [row for row in rows if isinstance(row, Decision)]


class Trace:
    """Append-only log of one run.

    Attributes:
        history: rows of an earlier, interrupted run.
    """

    def __init__(self, handle: IO[str] | None, history: Sequence[Row]) -> None:
        self._handle = handle
        self.history = history
        self._searches: dict[tuple[int, int], list[SearchRow]] = {}
        for row in history:
            if isinstance(row, SearchRow):
                self._searches.setdefault((row.restart, row.batch), []).append(row)

    def append(self, *rows: Row) -> None:
        """Write rows through to the file, together."""
        if self._handle is not None:
            append_jsonl(self._handle, *map(row_json, rows))

    def of_search(self, restart: int, batch: int) -> list[SearchRow]:
        """Rows of one search in the history."""
        return self._searches.get((restart, batch), [])

    @property
    def cost(self) -> Cost:
        """What the interrupted run had cost."""
        return next((row for row in reversed(self.history) if isinstance(row, Cost)), Cost())


RUN = "run"
"""Field of the header with all settings, by section: for messages, and to resume with; it is not compared."""
_UNSAID = {"scored": "first tokens of labels"}
"""What headers leave unsaid: labels of one token each, and traces of versions that scored no further ones."""


@contextmanager
def open_trace(path: Path | None, header: Mapping[str, object], resume: bool) -> Iterator[Trace]:
    """Open a trace for appending; None keeps nothing.

    Args:
        path: the trace file. An existing one is replaced unless `resume`.
        header: what the run is: flat field → value. A resumed trace must have the same.
        resume: continue the run in `path`; a file that is absent starts a new one.

    Raises:
        ResumeError: the trace belongs to other data, another model or other settings; names the field.
        DataError: a row of the trace is broken; names the line and the field.
    """
    if path is None:
        yield Trace(None, [])
        return
    first = {"type": "icm_trace", **header}
    history = _read_history(path, first) if resume and path.exists() else None
    if history is None:
        write_jsonl(path, [first])
    with appending(path) as handle:
        yield Trace(handle, history or [])


def _read_history(path: Path, header: JsonObject) -> list[Row] | None:
    """Rows behind the header; None if there is not even that. What the process was writing when it died is cut off the
    file: a torn line, and a row without the cost that belongs to it."""
    lines = list(read_log(path))
    if not lines:
        return None
    _check_header(path, lines[0][1], header)
    lines = _with_cost(lines)
    cut_log(path, lines[-1][0])
    rows = (read_row(content, f"{path}:{number}") for number, content in lines[1:])
    return [row for row in rows if row is not None]


def _with_cost(lines: list[tuple[int, JsonObject]]) -> list[tuple[int, JsonObject]]:
    """Header and rows up to the last cost. Traces of early versions, of several rows and no cost, are whole."""
    costs = [place for place, (_, row) in enumerate(lines) if row.get("type") == KIND_NAMES[Cost]]
    if not costs:
        return lines if len(lines) > 2 else lines[:1]
    return lines[: costs[-1] + 1]


def _check_header(path: Path, found: JsonObject, expected: JsonObject) -> None:
    found, expected = _UNSAID | found, _UNSAID | json.loads(json.dumps(expected))
    since = {key for key in expected if key.startswith(CONTENT)}  # older traces do not say
    for key in sorted((found.keys() | expected.keys() - since) - {RUN}):
        if found.get(key) != expected.get(key):
            differ = f"{key} was {found.get(key)!r} and is now {expected.get(key)!r}; give what that run had"
            what = _other_data(found, expected) if key == "data" else differ
            raise ResumeError(
                f"{path}: cannot resume: {what}, and run again, "
                "or start a new run: without --resume, under another --output-name"
            )


def _other_data(found: JsonObject, expected: JsonObject) -> str:
    """Which settings make other examples of the data than those of the trace."""
    if not found.get(RUN):
        return "the examples are others: give --dataset, --holdout, --max-examples, --seed and the like as that run had"
    was, now = (header.get(RUN, {}).get("data", {}) for header in (found, expected))
    differ = [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
    said = [f"{name} was {was.get(name)!r} and is now {now.get(name)!r}" for name in differ]
    if not said:
        return "the data file has changed since that run began; restore it"
    return f"the data are others: {', '.join(said)}; give what that run had"
