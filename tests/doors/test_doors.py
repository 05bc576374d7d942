"""How commands end: one line and an exit code for what a user can mend, and one way for all signals."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from icm.doors import door, storing
from icm.doors.locks import BusyError, held
from icm.errors import ICMError

ROOT = Path(__file__).parents[2]


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ICMError("data.jsonl:3: no text\nat all"), 2, "x: data.jsonl:3: no text at all"),
        (PermissionError(errno.EACCES, "Permission denied", "out/a.jsonl"), 2, "x: out/a.jsonl: Permission denied"),
        (KeyboardInterrupt(), 130, "x: interrupted; run it again"),
        (KeyboardInterrupt("continue with: y"), 130, "x: continue with: y"),
    ],
)
def test_the_end_of_a_command(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert door("x", raising(error), "; run it again") == code
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("ours"), OSError(errno.ENOTCONN, "not a path"), ZeroDivisionError()])
def test_our_own_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        door("x", raising(error))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_full_disk_in_the_words_of_a_library_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        with storing(Path("out")):
            raise RuntimeError(f"Error while serializing: I/O error (os error {number})")

    assert door("x", body) == 2
    assert capsys.readouterr().err == f"x: out: {os.strerror(number)}\n"


def test_what_only_looks_like_a_full_disk_is_no_full_disk() -> None:
    with pytest.raises(RuntimeError), storing(Path("out")):
        raise RuntimeError("refused (os error 111)")


FULL = (
    "x: standard output, or a file of a library: No space left on device; make room, and run the same command again\n"
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("lines", [1, 5000])
def test_a_full_standard_output_is_one_line(lines: int) -> None:
    code = f"import sys; from icm.doors import door; sys.exit(door('x', lambda: print('y' * 99 * {lines}) or 0))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith(FULL) and done.stderr.count("\n") == 1


WAITING = """
import ctypes, sys, time
from icm.doors import door, signals
signals.GRACE = 0.5
lock = ctypes.CDLL(None).pthread_mutex_lock
def ready(): print("ready", flush=True)
def body():
    {wait}
sys.exit(door("x", body, "; again"))
"""
WAITS = {
    "asleep": "ready(); time.sleep(60)",
    "in a library": "ready(); mutex = ctypes.create_string_buffer(64); lock(mutex); lock(mutex)",
    "swallowed": "\n    try: ready(); time.sleep(60)\n    except KeyboardInterrupt: time.sleep(60)",
    "threads": """
        import concurrent.futures
        concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 60); ready(); time.sleep(60)""",
    "turned into another error": "\n    try: ready(); time.sleep(60)\n    except KeyboardInterrupt: raise ImportError",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("wait", WAITS)
def test_a_signal_ends_a_command_wherever_it_is(wait: str, number: signal.Signals) -> None:
    words = [sys.executable, "-c", WAITING.format(wait=WAITS[wait])]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # from the line to the wait
    process.send_signal(number)
    process.send_signal(number)  # a second one changes nothing
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said == ("" if wait in ("in a library", "swallowed") else "x: interrupted; again\n")


def test_a_signal_that_was_ignored_stays_so() -> None:
    code = WAITING.format(wait="ready(); time.sleep(0.5); return 0")
    words = ["sh", "-c", f"trap '' INT; exec {sys.executable} -c \"$0\"", code]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


PARENT = """
import subprocess, sys, time
from icm.doors.signals import tethered
child = subprocess.Popen(tethered([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]))
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    said = [parent.stdout.readline().strip() for _ in range(2)]
    child = psutil.Process(int(next(word for word in said if word != "up")))
    parent.kill()
    parent.wait()
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "folder" / ".lock"
    with held(lock, "busy"):
        with pytest.raises(BusyError, match="busy"), held(lock, "busy"):
            pass
        assert lock.exists()
    assert not (tmp_path / "new").exists()
    with held(lock, "busy"):
        (lock.parent / "result").touch()
    assert [path.name for path in lock.parent.iterdir()] == ["result"]


HOLDER = """
import sys, time; from pathlib import Path
from icm.doors.locks import held
with held(Path(sys.argv[1]), ""): print(1, flush=True); time.sleep(60)
"""


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "l")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    with pytest.raises(BusyError), held(tmp_path / "l", "busy"):
        pass
    process.kill()
    process.wait()
    with held(tmp_path / "l", "busy"):
        pass
