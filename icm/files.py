"""The one place that reads and writes files: atomic whole files, append-only JSONL, fingerprints."""

import hashlib
import importlib
import json
import math
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, BinaryIO

from icm.errors import DataError

BOM = b"\xef\xbb\xbf"
"""What some editors put before UTF-8."""
AS_UTF8 = "save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`"
LONGEST_LINE = 16 * 2**20
"""Bytes of one record. Python needs up to 25 times as much memory for what stands in them."""
LONGEST_DOCUMENT = 128 * 2**20
"""Bytes of one JSON document: a file that cannot be read line by line."""
JsonObject = dict[str, Any]
"""A JSON object whose values are checked where they are read."""


def import_from_here(name: str) -> ModuleType:
    """The module of that import path, which may lie in the current folder.

    The folder is looked at last and for this import alone: nothing in it hides, or is taken for, a library.
    """
    here = str(Path.cwd())
    sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(here)]


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors of the system that name no file, such as a full disk, are those of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file in `path`'s folder; on success fsync it and rename it to `path`.

    A reader sees the old file or the whole new one, never a part. On an exception nothing is left behind. A device or a
    pipe is written to as it is.

    Raises:
        OSError: `path` cannot be written (no room, no right, …); its `filename` is `path`.
    """
    path = Path(path)
    with naming(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open(mode, encoding=None if "b" in mode else "utf-8") as handle:
                yield handle
            return
        with _replacing(path, mode) as handle:
            yield handle


@contextmanager
def _replacing(path: Path, mode: str) -> Iterator[IO[Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = str(path)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def dump_json(value: object, *, indent: int | None = None) -> str:
    """JSON with non-ASCII text kept readable. NaN and infinity are refused: they are not JSON."""
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)


def write_json(path: str | Path, value: object) -> None:
    """Write one JSON document atomically."""
    with atomic_write(path) as handle:
        handle.write(dump_json(value, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[JsonObject]) -> None:
    """Write one JSON object a line, atomically."""
    with atomic_write(path) as handle:
        handle.writelines(dump_json(row) + "\n" for row in rows)


def append_jsonl(handle: IO[str], *rows: JsonObject) -> None:
    """Append rows at once and flush them, so that a killed process loses at most what it was writing."""
    with naming(handle.name):
        handle.write("".join(dump_json(row) + "\n" for row in rows))
        handle.flush()


@contextmanager
def appending(path: str | Path) -> Iterator[IO[str]]:
    """Open a log for `append_jsonl`."""
    with naming(path), Path(path).open("a", encoding="utf-8") as handle:
        yield handle


@contextmanager
def open_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading. Every file that somebody else may have written is opened here.

    Raises:
        DataError: it cannot be read, or is no file: a folder, or a pipe or device, which could be waited on for ever.
    """
    try:
        # Not opened before it is known to be a file: opening a pipe waits for somebody who writes.
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            raise DataError(f"{path}: found {'a directory' if stat.S_ISDIR(mode) else 'a pipe or device'}; give a file")
        handle = Path(path).open("rb")  # noqa: SIM115
    except DataError:
        raise
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    with handle:
        yield handle


def read_text(path: str | Path, most: int = LONGEST_DOCUMENT) -> str:
    """The text of a file of at most so many bytes. Raises DataError, see `open_file`."""
    with open_file(path) as handle:
        raw = handle.read(most + 1)
    if len(raw) > most:
        raise DataError(f"{path}: longer than {most // 2**10:,} KiB; is it the right file?")
    return _decoded(raw.removeprefix(BOM), str(path))


def read_object(path: str | Path) -> JsonObject:
    """The one JSON object in a file. Raises DataError that starts with the file's name."""
    return parse_object(read_text(path), str(path))


def read_jsonl(path: str | Path) -> Iterator[tuple[int, JsonObject]]:
    """Yield (line number from 1, object). Blank lines are skipped.

    Raises:
        DataError: not readable, not UTF-8, not JSON, NaN or infinity, or not an object; names the file and the line.
    """
    with open_file(path) as handle:
        yield from parse_jsonl(bounded_lines(handle), str(path))


def bounded_lines(handle: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is too long to be a record, as much as `parse_line` needs to say so."""
    while line := handle.readline(LONGEST_LINE + 1):
        yield line
        while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            line = handle.readline(LONGEST_LINE + 1)


def read_log(path: str | Path) -> Iterator[tuple[int, JsonObject]]:
    """`read_jsonl` over an append-only log, which may not exist yet: the line that a killed process was writing has
    no end and is passed over."""
    yield from parse_jsonl(_whole_lines(_content(path)).split(b"\n")[:-1], str(path))


def cut_log(path: str | Path, lines: int | None = None) -> None:
    """Cut what is no whole line off the end of an append-only log, before more is appended; `lines` keeps the first
    ones alone."""
    raw = _content(path)
    whole = b"".join(line + b"\n" for line in _whole_lines(raw).split(b"\n")[:-1][:lines])
    if len(whole) < len(raw):
        with atomic_write(path, "wb") as handle:
            handle.write(whole)


def _whole_lines(raw: bytes) -> bytes:
    """The lines that were written to their end. After a power cut a file may end in zeros, which JSON never holds."""
    written = raw.partition(b"\0")[0]
    return written[: written.rfind(b"\n") + 1]


def _content(path: str | Path) -> bytes:
    if not Path(path).exists():
        return b""
    with open_file(path) as handle:
        return handle.read()


def parse_jsonl(lines: Iterable[bytes], where: str) -> Iterator[tuple[int, JsonObject]]:
    """`read_jsonl` over the raw lines of any source; `where` names it in messages."""
    for number, raw in enumerate(lines, start=1):
        row = parse_line(raw.removeprefix(BOM) if number == 1 else raw, f"{where}:{number}")
        if row is not None:
            yield number, row


def parse_line(raw: bytes, where: str, nan: bool = False) -> JsonObject | None:
    """The object on a line of JSONL, None if it is blank; `where` and `nan` are those of `parse_json`."""
    if len(raw) > LONGEST_LINE:
        raise DataError(f"{where}: a line of more than {LONGEST_LINE // 2**20} MiB, which is no record; cut the file")
    text = _decoded(raw, where).strip()
    return parse_object(text, where, nan) if text else None


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason}); {AS_UTF8}") from None


def parse_object(text: str, where: str, nan: bool = False) -> JsonObject:
    """Parse one JSON object; arguments and errors are those of `parse_json`."""
    value = parse_json(text, where, nan)
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def parse_json(text: str, where: str, nan: bool = False) -> Any:
    """Parse one JSON document, refusing infinity; `where` starts the message of the DataError.

    Args:
        nan: read NaN, which tables write for an absent value, as null; refuse it otherwise.
    """
    try:
        return _decoder(nan).decode(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from None
    except ValueError as error:
        long = "digits) for integer" in str(error)  # Python's own words name its switch
        raise DataError(f"{where}: {'a number of thousands of digits is out of range' if long else error}") from None


@cache
def _decoder(nan: bool) -> json.JSONDecoder:
    # With hooks of its own json.loads makes a decoder for each document, and a large file has a million.
    return json.JSONDecoder(parse_constant=_nan_as_null if nan else _refuse_constant, parse_float=_finite_float)


def _nan_as_null(name: str) -> float | None:
    return None if name == "NaN" else _refuse_constant(name)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON allows; remove the record or give the value")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:40]} is out of range")
    return value


def fingerprint(value: object) -> str:
    """SHA-256 (first 16 hex digits) of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(_canonical(value)).hexdigest()[:16]


def fingerprint_of_rows(rows: Iterable[object], *rest: object) -> str:
    """`fingerprint([list(rows), *rest])`, a row at a time."""
    digest = hashlib.sha256(b"[[")
    for number, row in enumerate(rows):
        digest.update((b", " if number else b"") + _canonical(row))
    digest.update(b"]" + b"".join(b", " + _canonical(value) for value in rest) + b"]")
    return digest.hexdigest()[:16]


def _canonical(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="surrogatepass")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
