"""The trace: one JSON line a decision. It is the picture of the search and its checkpoint at once.

Rows, after a header that names data, model and settings:
    start     labels before the first iteration, and what the rounds that led to them preferred
    order     a fresh demonstration order, what became of the joint proposal, and what earlier orders preferred
    decision  one iteration of Algorithm 1
    usage     cost so far (cumulative)
    end       the labels a search ended with
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from icm.errors import ResumeError
from icm.files import append_jsonl, atomic_write, cut_torn_line, read_log

Row = dict[str, Any]


class Trace:
    """Append-only log of one run.

    Attributes:
        history: rows of an earlier, interrupted run, header excluded.
    """

    def __init__(self, handle: IO[str] | None, history: list[Row]) -> None:
        self._handle = handle
        self.history = history

    def append(self, row: Row) -> None:
        """Write one row through to the file."""
        if self._handle is not None:
            append_jsonl(self._handle, row)

    def rows(self, **match: object) -> list[Row]:
        """History rows whose fields equal `match`."""
        return [row for row in self.history if all(row.get(key) == value for key, value in match.items())]


@contextmanager
def open_trace(path: Path | None, header: Mapping[str, Any], resume: bool) -> Iterator[Trace]:
    """Open a trace for appending; None keeps nothing.

    Args:
        path: the trace file. An existing one is replaced unless `resume`.
        header: what the run is: flat field → value. A resumed trace must have the same.
        resume: continue the run in `path`; a file that is absent starts a new one.

    Raises:
        ResumeError: the trace belongs to other data, another model or other settings; names the field.
    """
    if path is None:
        yield Trace(None, [])
        return
    first = {"type": "icm_trace", **header}
    history = _read_history(path, first) if resume and path.exists() else []
    if not history:
        with atomic_write(path) as handle:
            append_jsonl(handle, first)
    with path.open("a", encoding="utf-8") as handle:
        yield Trace(handle, history)


def _read_history(path: Path, header: Row) -> list[Row]:
    """Rows behind the header. A torn last line (the process died while writing it) is cut off the file."""
    rows = [row for _, row in read_log(path)]
    if not rows:
        return []
    _check_header(path, rows[0], header)
    cut_torn_line(path)
    return rows[1:]


def _check_header(path: Path, found: Row, expected: Row) -> None:
    expected = json.loads(json.dumps(expected))
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise ResumeError(
                f"{path}: cannot resume: {key} was {found.get(key)!r} and is now {expected.get(key)!r}; "
                "run with the same settings, or without --resume to start anew"
            )
