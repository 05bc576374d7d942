"""Where the rows of a run lie: a file a unit while it runs, one file when it is done.

`<name>.trace.jsonl` holds the header and, in the end, all rows, unit by unit. Until then they are in `<name>.units/`: a
file for each unit that has begun, so that many are searched at once and each goes on alone, and `finished.jsonl`, the
end of each that is done, so that a run goes on without reading their rows. A trace that holds rows, of an earlier
version or concluded without a result, is taken apart when it is resumed.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO

from icm.errors import ResumeError
from icm.files import (
    JsonObject,
    append_jsonl,
    appending,
    atomic_write,
    cut_log,
    dump_json,
    naming,
    read_log,
    write_jsonl,
)
from icm.models import CONTENT
from icm.results.format import TRACE_SUFFIX
from icm.results.trace import PLACE, UNFINISHED, Cost, End, FreshOrder, Row, SearchRow, Start, Unit, read_row, row_json

RUN = "run"
"""Field of the header with all settings, by section: for messages, and to resume with; it is not compared."""
_UNSAID = {"scored": "first tokens of labels", "calibrated": "all claims together"}
"""What headers leave unsaid: labels of one token each, examples that are not asked the same claims, and traces of
versions that did no more."""


def units_folder(trace: Path) -> Path:
    """The folder of a run's units, beside its trace."""
    return trace.with_name(f"{trace.name.removesuffix(TRACE_SUFFIX)}.units")


class Trace:
    """The rows of one run, kept unit by unit.

    Args:
        path: the trace; None keeps nothing but the ends.
        head: its first lines: the header, and what was spent before the units, if anything was.
        before: the same cost.

    Attributes:
        finished: the ends of the units that are done.
        cost: of the run so far, interrupted parts included.
    """

    def __init__(self, path: Path | None, head: Sequence[JsonObject] = (), before: Cost | None = None) -> None:
        self._path, self._head = path, head
        self._open: dict[Unit, IO[str]] = {}
        self._costs: dict[Unit, Cost] = {}
        self.finished: dict[Unit, End] = {}
        self.cost = before or Cost()
        rows = [] if path is None else _whole_rows(self._index)
        for end, cost in pairwise(rows):
            if isinstance(end, End) and isinstance(cost, Cost):
                self.finished[end.unit] = end
                self._note(end.unit, cost)

    def begun(self, unit: Unit) -> list[SearchRow]:
        """The rows of a unit so far, to go on behind them; none where it has to begin anew."""
        if self._path is None or not self._file(unit).exists():
            return []
        self._close(unit)
        rows = _whole_rows(self._file(unit))
        history = [row for row in rows if isinstance(row, SearchRow)]
        if not history or not (isinstance(history[-1], End) or _complete(history)):
            self._file(unit).unlink()
            return []
        self._note(unit, next(row for row in reversed(rows) if isinstance(row, Cost)))
        if isinstance(history[-1], End):
            self._finish(history[-1])
        return history

    def spent(self, unit: Unit) -> Cost:
        """What a unit has cost so far."""
        return self._costs.get(unit, Cost())

    def append(self, row: SearchRow, cost: Cost) -> None:
        """Write a row, and what its unit has cost, through to the unit's file, together."""
        unit = row.unit
        self._note(unit, cost)
        if self._path is not None:
            if unit not in self._open:
                self._file(unit).parent.mkdir(exist_ok=True)
                self._open[unit] = self._file(unit).open("a", encoding="utf-8")
            append_jsonl(self._open[unit], row_json(row), row_json(cost, unit))
        if isinstance(row, End):
            self._finish(row)

    def conclude(self) -> None:
        """Put the rows of all units, each done, into the one file."""
        if self._path is None:
            return
        with atomic_write(self._path, "wb") as whole:
            whole.writelines(f"{dump_json(row)}\n".encode() for row in self._head)
            for unit in sorted(self.finished):
                with self._file(unit).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        shutil.rmtree(units_folder(self._path))

    def close(self) -> None:
        """Close all files."""
        for unit in [*self._open]:
            self._close(unit)

    def _finish(self, end: End) -> None:
        """Note the end of a unit, and leave in its file what is of use to others than its search."""
        unit = end.unit
        self._close(unit)
        self.finished[unit] = end
        if self._path is None:
            return
        cost = row_json(self._costs[unit], unit)
        rows = [row_json(row) for row in _whole_rows(self._file(unit)) if isinstance(row, SearchRow)]
        write_jsonl(self._file(unit), [*({n: row[n] for n in row if n not in UNFINISHED} for row in rows), cost])
        with appending(self._index) as log:
            append_jsonl(log, row_json(end), cost)

    def _note(self, unit: Unit, cost: Cost) -> None:
        self.cost += cost - self.spent(unit)
        self._costs[unit] = cost

    @property
    def _index(self) -> Path:
        assert self._path is not None
        return units_folder(self._path) / "finished.jsonl"

    def _file(self, unit: Unit) -> Path:
        return self._index.with_name(f"{unit.batch}-{unit.restart}.jsonl")

    def _close(self, unit: Unit) -> None:
        if unit in self._open:
            with naming(self._file(unit)):
                self._open.pop(unit).close()


def _complete(history: Sequence[SearchRow]) -> bool:
    """Whether the rows hold what a search needs to go on."""
    orders = [row for row in history if isinstance(row, Start | FreshOrder)]
    return bool(orders) and orders[-1].preferences is not None


def _whole_rows(path: Path) -> list[Row]:
    """The rows of a log up to the last cost. What the process was writing when it died is cut off the file: a torn
    line, and a row without the cost that belongs to it."""
    lines = _with_cost(list(read_log(path)))
    cut_log(path, lines[-1][0] if lines else 0)
    rows = (read_row(content, f"{path}:{number}") for number, content in lines)
    return [row for row in rows if row is not None]


def _with_cost(lines: Sequence[tuple[int, JsonObject]]) -> Sequence[tuple[int, JsonObject]]:
    costs = [place for place, (_, row) in enumerate(lines) if row.get("type") == row_json(Cost())["type"]]
    return lines[: costs[-1] + 1] if costs else []


@contextmanager
def open_trace(path: Path | None, header: Mapping[str, object], resume: bool, before: Cost) -> Iterator[Trace]:
    """Open a trace for appending; None keeps nothing.

    Args:
        path: the trace file. An existing one is replaced unless `resume`.
        header: what the run is: flat field → value. A resumed trace must have the same.
        resume: continue the run in `path`; a file that is absent starts a new one.
        before: what was spent for this run before its units.

    Raises:
        ResumeError: the trace belongs to other data, another model or other settings; names the field.
        DataError: a row of the trace is broken; names the line and the field.
    """
    if path is None:
        yield Trace(None, before=before)
        return
    lines = list(read_log(path)) if resume else []
    first = {"type": "icm_trace", **header}
    if lines:
        _check_header(path, lines[0][1], first)
        before += _take_apart(path, lines[1:])
    else:
        shutil.rmtree(units_folder(path), ignore_errors=True)
    head = [first, *([row_json(before)] if before != Cost() else [])]
    write_jsonl(path, head)
    trace = Trace(path, head, before)
    try:
        yield trace
    finally:
        trace.close()


def _take_apart(path: Path, lines: Sequence[tuple[int, JsonObject]]) -> Cost:
    """Move the rows behind the header to the files of their units; returns the cost that is none of theirs. Traces of
    early versions, of several rows and no cost, are whole."""
    parts: dict[Unit, list[JsonObject]] = {}
    costs: dict[Unit, Cost] = {}
    before, unit = Cost(), None
    for number, content in _with_cost(lines) or (lines if len(lines) > 1 else []):
        row = read_row(content, f"{path}:{number}")
        if isinstance(row, SearchRow):
            unit = row.unit
            parts.setdefault(unit, []).append(row_json(row))
        elif isinstance(row, Cost) and PLACE[0] in content and unit is not None:
            costs[unit] = row
        elif isinstance(row, Cost):
            before = row
    if parts:  # and what else is there was put into the trace before
        shutil.rmtree(units_folder(path), ignore_errors=True)
    for unit, rows in parts.items():
        cost = row_json(costs.get(unit, Cost()), unit)
        write_jsonl(units_folder(path) / f"{unit.batch}-{unit.restart}.jsonl", [*rows, cost])
    return before


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
