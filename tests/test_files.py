"""Logs are cut where their writing was, errors of storage name a file, and devices stay what they are."""

import errno
import os
import stat
from pathlib import Path

import pytest

from icm.files import append_jsonl, appending, atomic_write, cut_log, naming, read_log

ROW = b'{"a": 1}\n'


@pytest.mark.parametrize(
    "end",
    [b"", b'{"a"', bytes(4096), b'{"a"' + bytes(4096), bytes(10) + b"\n", bytes(10) + ROW, b'{"\x85\x0b": 1'],
    ids=["whole", "cut", "zeros", "cut and zeros", "zeros with an end", "zeros in front of a row", "odd breaks"],
)
def test_a_log_ends_with_its_last_whole_line(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(ROW * 2 + end)
    assert [row for _, row in read_log(path)] == [{"a": 1}] * 2
    cut_log(path)
    assert path.read_bytes() == ROW * 2
    cut_log(path, 1)
    assert path.read_bytes() == ROW


def test_line_breaks_of_unicode_stay_in_a_row(tmp_path: Path) -> None:
    rows = [{"text": f"a{mark}b"} for mark in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"]
    with appending(tmp_path / "log") as log:
        append_jsonl(log, *rows)
    assert [row for _, row in read_log(tmp_path / "log")] == rows
    cut_log(tmp_path / "log", 8)
    assert [row for _, row in read_log(tmp_path / "log")] == rows[:8]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error, appending(tmp_path / "log") as log:
        append_jsonl(log, {"a": 1})
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "log"))
    with pytest.raises(OSError, match="No space left") as error, atomic_write(tmp_path / "log") as handle:
        handle.write("a")
    assert error.value.filename == str(tmp_path / "log")


def test_an_error_that_names_its_file_keeps_it() -> None:
    with pytest.raises(FileNotFoundError) as error, naming("other"):
        Path("nowhere").stat()
    assert error.value.filename == "nowhere"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(pipe) as handle:
        handle.write("through")
    assert os.read(reader, 99) == b"through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
