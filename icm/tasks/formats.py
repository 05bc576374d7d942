"""Records of one file, whatever its format; what cannot be read names the file and the line, or the record."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING

from icm.errors import DataError
from icm.files import AS_UTF8, BOM, LONGEST_DOCUMENT, LONGEST_LINE, open_file, parse_json, parse_line
from icm.tasks.record import Record
from icm.tasks.shapes import flat, rows_of
from icm.tasks.soundness import sound
from icm.tasks.tables import table_rows

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".ndjson")
_SHEET, _TABLE = "save the sheet as CSV (UTF-8)", "export the table as CSV or JSON lines"
UNREAD: Mapping[str, str] = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), _SHEET),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db", ".sav", ".dta", ".rds", ".rdata", ".sas7bdat"), _TABLE),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), "save it as Parquet (`Dataset.to_parquet`) or JSON lines"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt", ".h5", ".hdf5"), "save it as Parquet or JSON lines"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack it and give what it holds"),
}
"""Files that are not read: what to do instead."""
_OTHERWISE = "save it as CSV or JSON lines"
_MAGIC: Mapping[bytes, str] = {
    b"PK\x03\x04": f"found a zip or Excel file; unpack it, or {_SHEET}",
    b"SQLite format 3": f"found an SQLite database; {_TABLE}",
    b"version https://git-lfs": "found a Git LFS pointer, not the file; fetch it with `git lfs pull` or `hf download`",
    b"<!DOCTYPE": "found a web page; download the file itself (on the hub, the address with /resolve/)",
    b"<html": "found a web page; download the file itself (on the hub, the address with /resolve/)",
}
MOST_BYTES, MOST_RECORDS = 2**30, 5_000_000
"""Of one data file, unpacked: what fits the memory of a laptop, and more than anybody labels."""
_LONGEST_NAME = 200
_Row = tuple[str, Mapping[str, object]]


def format_of(name: str) -> str:
    """The suffix that says how a file is read: `.jsonl` of `data.jsonl.gz`."""
    return Path(name.lower().removesuffix(".gz")).suffix


def file_records(path: Path, bad_records: str = "refuse") -> list[Record]:
    """All records of a local file, without bad ones as `DataSource.bad_records` says."""
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; check the path (hub names look like 'owner/name')")
    readers: Mapping[str, Callable[[bytes, str], Iterator[_Row | DataError]]] = {
        ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".json": _json_rows, ".csv": table_rows, ".tsv": table_rows,
        ".parquet": _parquet_rows,
    }  # fmt: skip
    suffix = format_of(path.name)
    if suffix not in readers:
        how = UNREAD.get(suffix, _OTHERWISE)
        raise DataError(f"{path}: unknown file type; expected one of {', '.join(SUFFIXES)}, each also with .gz; {how}")
    return records(readers[suffix](_read_bytes(path), str(path)), bad_records)


def records(rows: Iterator[_Row | DataError], bad_records: str) -> list[Record]:
    """Rows as records, out of the shapes of tools."""
    return sound((_record(row, number) for number, row in enumerate(rows, start=1)), bad_records)


def _check_size(size: int, count: int, where: str) -> None:
    if size > MOST_BYTES or count > MOST_RECORDS:
        raise DataError(
            f"{where}: more than {MOST_RECORDS:,} records, or {MOST_BYTES // 2**20:,} MiB when unpacked; cut the file"
        )


def _record(row: _Row | DataError, number: int) -> Record | DataError:
    if isinstance(row, DataError):
        return row
    where, fields = row
    _check_size(0, number, where)
    if (longest := max(map(len, fields), default=0)) > _LONGEST_NAME:
        return DataError(f"{where}: a field whose name has {longest:,} characters; expected at most {_LONGEST_NAME}")
    try:
        return Record(where, {intern(name): value for name, value in flat(fields).items()})
    except DataError as error:
        return DataError(f"{where}: {error}")


def _read_bytes(path: Path) -> bytes:
    with open_file(path) as handle:
        packed = path.suffix.lower() == ".gz" or handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        try:
            # Never more than that: a few megabytes can unpack to terabytes.
            data = (gzip.GzipFile(fileobj=handle) if packed else handle).read(MOST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read ({error})") from None
    _check_size(len(data), 0, str(path))
    for start, found in _MAGIC.items():
        if data.startswith(start):
            raise DataError(f"{path}: {found}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # Excel's "Unicode text"
        data = data.decode("utf-16", errors="replace").encode()
    return data.removeprefix(BOM)


def _is_lines(data: bytes) -> bool:
    """Whether the first of several lines is a JSON document of its own."""
    start = re.search(rb"\S[^\n]*", data)
    if start is None or len(start[0]) > LONGEST_LINE or re.compile(rb"\S").search(data, start.end()) is None:
        return False
    try:
        json.loads(start[0])
    except (ValueError, RecursionError):
        return False
    return True


def _jsonl_rows(data: bytes, where: str) -> Iterator[_Row | DataError]:
    if re.match(rb"\s*\[", data) and not _is_lines(data):
        yield from _document_rows(data, where)
        return
    for number, line in enumerate(io.BytesIO(data), start=1):
        place = f"{where}:{number}"
        try:
            row = parse_line(line, place, nan=True)
        except DataError as error:
            yield error
        else:
            if row is not None:
                yield place, row


def _json_rows(data: bytes, where: str) -> Iterator[_Row | DataError]:
    return _jsonl_rows(data, where) if _is_lines(data) else _document_rows(data, where)


def _document_rows(data: bytes, where: str) -> Iterator[_Row | DataError]:
    if len(data) > LONGEST_DOCUMENT:
        most = LONGEST_DOCUMENT // 2**20
        raise DataError(f"{where}: one JSON document of more than {most} MiB; save it as JSON lines")
    document = parse_json(_decode(data, where), where, nan=True)
    try:
        rows = rows_of(document)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    for number, row in enumerate(rows, start=1):
        place = f"{where}: record {number}"
        yield (
            (place, row)
            if isinstance(row, dict)
            else DataError(f"{place}: found {type(row).__name__}, expected an object")
        )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}:{line}: not UTF-8 ({error.reason}); {AS_UTF8}") from None


def _parquet_rows(data: bytes, where: str) -> Iterator[_Row | DataError]:
    import datasets
    import pyarrow
    import pyarrow.parquet

    batches, size = [], 0
    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        _check_size(0, file.metadata.num_rows, where)
        for batch in file.iter_batches(1024):  # a text that is stored once may stand in every row
            size += batch.nbytes
            _check_size(size, 0, where)
            batches.append(batch)
        table = pyarrow.Table.from_batches(batches, file.schema_arrow)
        rows = datasets.Dataset(table)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a Parquet file ({first_line(error)})") from None
    yield from dataset_rows(rows, where)


def dataset_rows(data: "Dataset", where: str) -> Iterator[_Row]:
    """The rows of a data set, absent values left out and class numbers replaced by their names."""
    import datasets
    import pyarrow

    try:
        data.data.validate(full=True)  # text that is no UTF-8, and offsets that lead nowhere
    except pyarrow.ArrowException as error:
        raise DataError(f"{where}: cannot be read ({first_line(error)})") from None
    kinds = {name: getattr(kind, "feature", kind) for name, kind in data.features.items()}  # of lists, their members'
    classes = {name: kind for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)}
    for number, row in enumerate(data):
        yield f"{where}: row {number}", _named(row, classes)


def _named(row: dict[str, object], classes: "dict[str, ClassLabel]") -> dict[str, object]:
    """A row without absent values, with class numbers replaced by their names (-1 means unlabelled)."""
    return {
        name: _names(value, classes[name]) if name in classes else value
        for name, value in row.items()
        if value is not None and value == value and not (name in classes and value == -1)  # NaN is not itself
    }


def _names(value: object, kind: "ClassLabel") -> object:
    if isinstance(value, list):
        return [_names(member, kind) for member in value]
    return kind.int2str(value) if isinstance(value, int) and value >= 0 else value


def first_line(error: Exception) -> str:
    """The beginning of what another library says."""
    return (str(error).strip().splitlines() or [""])[0][:200]
