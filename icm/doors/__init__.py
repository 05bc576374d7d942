"""How commands end: exit codes, signals, one run a name. Every door (`icm`, train, eval) is opened by `door`."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icm.doors.signals import obeying
from icm.errors import ICMError
from icm.text import log_visibly, say

USER_ERROR = 2
BROKEN_PIPE = 141
_LONG = 300  # characters of a path in a message
# What is no fault of the program: no room, no quota, a file that may not grow, a disk that fails.
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def door(name: str, body: Callable[[], object], after: str = "", speaks: bool = True) -> int:
    """Run a command.

    Args:
        name: starts its messages.
        body: the command; returns its exit code, anything but a number counts as 0.
        after: what to do after an interruption that does not say it itself.
        speaks: whether it prints messages; of many ranks one does.

    Returns:
        The body's exit code; 2 for what a user can mend, in one line; 130 after Ctrl-C and 143 after SIGTERM.
    """

    def fail(message: str, code: int) -> int:
        if speaks:
            with suppress(OSError):  # nobody may be left to read it
                say(f"{name}: {' '.join(message.split(chr(10)))}", error=True)
        return code

    log_visibly()
    if not sys.stderr.isatty():  # a bar in a log file is a page of fragments; stages say lines instead
        os.environ.setdefault("TQDM_DISABLE", "1")
    with obeying() as signals:
        try:
            code = body()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except ICMError as error:
            return fail(str(error), USER_ERROR)
        except BrokenPipeError:  # `icm list | head`: the reader has left
            _silence()
            return BROKEN_PIPE
        except OSError as error:
            return fail(_storage_error(error), USER_ERROR)
        except KeyboardInterrupt as interrupt:
            return fail(str(interrupt) or f"interrupted{after}", signals.code)
        except Exception:
            # What a library makes of an interruption in the middle of an import or of a callback.
            if signals.received is None:
                raise
            return fail(f"interrupted{after}", signals.code)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """A disk that is full or broken, which libraries tell in words of their own, is an OSError of `folder`."""
    try:
        yield
    except Exception as error:
        number = _storage_number(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error


def _storage_number(error: Exception) -> int | None:
    """The number of the system's error: what is written in Rust names it, PyTorch does not and may be out of room."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _STORAGE and error.filename is None else None
    named = re.search(r"\(os error (\d+)\)", str(error))
    if named:
        return int(named[1]) if int(named[1]) in _STORAGE else None
    return errno.ENOSPC if "PytorchStreamWriter failed" in str(error) else None


def _storage_error(error: OSError) -> str:
    """The line for a path that the user named, or for storage that is full or broken; any other error of the system is
    our bug, and raised."""
    if error.filename is not None:
        name = str(error.filename)
        return f"{name if len(name) < _LONG else f'{name[:_LONG]}…'}: {error.strerror}"
    if error.errno not in _STORAGE:
        raise error
    _silence()
    return f"standard output, or a file of a library: {error.strerror}; make room, and run the same command again"


def _silence() -> None:
    """What is still to be printed goes nowhere: at exit it would fail a second time."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
