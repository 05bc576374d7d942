"""Rows of text tables: CSV with any usual separator, and tab-separated files."""

import csv
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Literal

from icm.errors import DataError
from icm.files import AS_UTF8

_log = logging.getLogger(__name__)

_MARKS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_SEP = re.compile(r'"?sep=(.)"?\r?\n')
"""Excel's own first line, which names the separator."""
_HEADER = 100_000
"""Bytes: longer than any header, and short enough for a field of `csv`."""
_LOST = re.compile("[\udc80-\udcff]")
"""Bytes that are not UTF-8, as `surrogateescape` keeps them."""

_Line = tuple[int, int, list[str] | DataError]
"""Number of its last line, how many lines it takes, and its cells or what is wrong with them."""


def table_rows(data: bytes, where: str) -> Iterator[tuple[str, Mapping[str, object]] | DataError]:
    """Rows by column name, without empty cells; rows of empty cells are none."""
    start = data[:_HEADER].decode("utf-8", errors="surrogateescape")
    excel = _SEP.match(start)
    mark = excel[1] if excel else _separator(start)
    lines = _lines(data, where, mark, csv.QUOTE_MINIMAL)
    if mark == "\t":
        # Many tools write quotation marks into tab-separated files as they are.
        quoted = list(lines)
        plain = list(_lines(data, where, mark, csv.QUOTE_NONE)) if _spoilt(quoted) else quoted
        lines = iter(plain if _spoilt(plain) < _spoilt(quoted) else quoted)
    lines = _without_blank(lines, where)
    yield from _named(islice(lines, 1 if excel else 0, None), where, mark)


def _without_blank(lines: Iterator[_Line], where: str) -> Iterator[_Line]:
    empty = 0
    for line in lines:
        if not _is_blank(line):
            yield line
        elif line[2] != []:
            empty += 1
    if empty:
        _log.warning("%s: %d rows whose cells are all empty count as none", where, empty)


def _separator(text: str) -> str:
    """What divides the first line into the most columns."""
    found = re.search(r"[^\r\n]+", text)
    header = found[0] if found else ""
    return max(_MARKS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _is_blank(line: _Line) -> bool:
    return isinstance(line[2], list) and not any(cell.strip() for cell in line[2])


def _spoilt(lines: Sequence[_Line]) -> int:
    """Lines that cannot be read, or do not have as many cells as the first."""
    kept = [line for line in lines if not _is_blank(line)]
    width = len(kept[0][2]) if kept and isinstance(kept[0][2], list) else 0
    return sum(span for _, span, cells in kept if isinstance(cells, DataError) or len(cells) != width)


def _lines(data: bytes, where: str, mark: str, quoting: Literal[0, 3]) -> Iterator[_Line]:
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="")
    reader = csv.reader(text, delimiter=mark, quoting=quoting, strict=True)
    while True:
        before = reader.line_num
        try:
            cells: list[str] | DataError = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = DataError(f"{where}:{before + 1}: not valid CSV ({error}); check its quotes")
        yield reader.line_num, reader.line_num - before, cells


def _named(lines: Iterator[_Line], where: str, mark: str) -> Iterator[tuple[str, Mapping[str, object]] | DataError]:
    first, rest = next(lines, None), list(_without_notes(lines))
    found = _header(first, [cells for _, _, cells in rest if isinstance(cells, list)], where)
    names = _distinct(found)
    for number, span, cells in rest:
        if isinstance(cells, list):
            cells = _checked(cells, found, f"{where}:{number}", mark)
        if isinstance(cells, list):
            row = zip(names, cells, strict=False)
            yield f"{where}:{number}", {name: cell for name, cell in row if cell != "" and name != ""}
        else:
            yield from [cells] * span  # an open quotation mark swallows lines: each of them is lost


def _header(line: _Line | None, rows: Sequence[list[str]], where: str) -> list[str]:
    """The names in the first line. Raises DataError for one that holds values: a number, or what its column repeats."""
    if line is None:
        return []
    number, _, names = line
    if isinstance(names, DataError):
        raise names
    if names[0].strip() and not any(names[1:]) and sum(sum(map(bool, row)) > 1 for row in rows) * 2 > len(rows):
        raise DataError(
            f"{where}:{number}: found {names[0][:40]!r} alone, expected a name for each column; remove lines above them"
        )
    others = [row for row in rows if row != names]
    enough = max(2, len(others) // 20)
    repeated = (sum(row[k : k + 1] == [name] for row in others) >= enough for k, name in enumerate(names) if name)
    if re.fullmatch(r"-?\d+(\.\d+)?", names[0].strip()) or any(repeated):
        raise DataError(
            f"{where}:{number}: found the values {[name[:40] for name in names[:3]]}, expected the columns' names; put "
            "them into a first line, for example text,label"
        )
    return names


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, later ones of the same name numbered as pandas does: `label`, `label.1`."""
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}.{count}" if name and count else name for name, count in zip(names, before, strict=True)]


def _without_notes(lines: Iterator[_Line]) -> Iterator[_Line]:
    """Without the two lines that Qualtrics writes below the names: each question's text, and its import id."""
    first = list(islice(lines, 2))
    if len(first) == 2 and isinstance(cells := first[1][2], list) and any("ImportId" in cell for cell in cells):
        first = []
    return chain(first, lines)


def _checked(cells: list[str], names: list[str], where: str, mark: str) -> list[str] | DataError:
    """The cells of a row; empty ones behind the last column do not count."""
    width = len(names)
    if cells == names:
        return DataError(f"{where}: repeats the columns' names")
    if len(cells) < width or any(cells[width:]):
        marks = _MARKS.get(mark, repr(mark))
        return DataError(f"{where}: expected {width} columns, found {len(cells)}; check quotes and {marks}")
    if any(map(_LOST.search, cells)):
        return DataError(f"{where}: not UTF-8; {AS_UTF8}")
    return cells
