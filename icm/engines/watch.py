"""The guard's own program (see `guard.py`): waits for a process to die, and then kills what bears its mark.

A title that a process gives itself, as vLLM's do, overwrites the environment that others see. So marks are looked for
while the watched process lives, soon after each start, and once more when it is dead.
"""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

_PAUSE = 0.5  # seconds; a title comes seconds after a start


def marked(processes: Iterable[psutil.Process], mark: bytes) -> set[psutil.Process]:
    """Those whose environment shows the mark."""
    found = set()
    for process in processes:
        with suppress(OSError, psutil.Error):
            if mark in _environment(process):
                found.add(process)
    return found


def _environment(process: psutil.Process) -> bytes:
    """As the system shows it: psutil reads Linux's up to the first gap, and a title makes one."""
    if sys.platform.startswith("linux"):
        return Path(f"/proc/{process.pid}/environ").read_bytes()
    return "\0".join(f"{name}={value}" for name, value in process.environ().items()).encode()


def below(number: int) -> list[psutil.Process]:
    """Descendants of the process of that number."""
    try:
        return psutil.Process(number).children(recursive=True)
    except psutil.Error:
        return []


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that is dead and not yet waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def main(parent: int, mark: bytes) -> None:
    """Wait for `parent`, then kill until nothing with the mark is left."""
    known: set[psutil.Process] = set()
    while os.getppid() == parent:
        known = set(filter(alive, known)) | marked(below(parent), mark)
        time.sleep(_PAUSE)
    while True:
        known |= marked(psutil.process_iter(), mark)
        known |= {child for process in known for child in below(process.pid)}
        left = list(filter(alive, known))
        if not left:
            return
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].encode())
