"""One run a name: a lock that the system drops when its process ends, in whatever way."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from icm.errors import ConfigError


class BusyError(ConfigError):
    """Another run holds the name."""


@contextmanager
def held(lock: Path, busy: str | None) -> Iterator[None]:
    """Hold a lock file. Its folder is made, and removed again if nothing else was written there.

    Args:
        busy: message for where another run holds it; None waits for that run's end.

    Raises:
        BusyError: another run holds it.
    """
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(lock, timeout=-1 if busy is None else 0)
    try:
        file.acquire()
    except Timeout:
        raise BusyError(busy) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: who waits for it finds that it is gone
        file.release()
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
