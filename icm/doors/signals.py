"""SIGINT and SIGTERM end a command in the same way, within seconds, and leave no child behind."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

GRACE = 8.0
"""Seconds from a signal to the end; `docker stop` kills after 10."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
# Asks for SIGTERM when the parent dies, unless it is dead already, and becomes the command. A process of its own rather
# than `preexec_fn`, which is not safe in a program that has threads.
_TETHER = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit({128 + signal.SIGTERM})
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Signals:
    """The signal that ends this command, if there was one."""

    received: int | None = None

    @property
    def code(self) -> int:
        """Exit code, as a shell gives it."""
        return 128 + (self.received or signal.SIGINT)


@contextmanager
def obeying() -> Iterator[Signals]:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt, later ones change nothing. What has not ended `GRACE`
    seconds later, because the main thread is deep in a library, is killed with its children. A signal that was ignored
    before (nohup) stays so. Does nothing outside the main thread."""
    signals, ended = Signals(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if signals.received is None:
            signals.received = number
            raise KeyboardInterrupt

    # Bytes come here at once, even while the main thread does not come to run its handlers.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.getsignal(number) for number in _STOPPING}
    woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader, ended), daemon=True).start()
    try:
        for number in _STOPPING:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield signals
    finally:
        # After a signal the time runs on to the end of the process, which may wait for threads, and no other signal
        # ends it in another way.
        for number, handler in before.items():
            signal.signal(number, handler if signals.received is None else signal.SIG_IGN)
        signal.set_wakeup_fd(woken)
        if signals.received is None:
            ended.set()
            writer.close()


def _end_in_time(reader: socket.socket, ended: threading.Event) -> None:
    with reader:  # open to the end: each further signal writes to it
        number = 0
        while number not in _STOPPING:
            found = reader.recv(1)
            if not found:
                return
            number = found[0]
        if not ended.wait(GRACE):
            kill(psutil.Process().children(recursive=True), wait=1.0)
            os._exit(128 + number)


def end(processes: Iterable[psutil.Process], grace: float = GRACE) -> None:
    """Ask processes to end, wait, and kill those that have not."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    kill(psutil.wait_procs(processes, timeout=grace)[1])


def kill(processes: Iterable[psutil.Process], wait: float = GRACE) -> None:
    """Kill processes, and wait until they are gone, so many seconds at most."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=wait)


def tethered(command: Sequence[str]) -> list[str]:
    """The command such that it gets SIGTERM when this process dies, in whatever way. As it is where that cannot be had
    (only Linux can)."""
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *command]


def tether() -> None:
    """Get SIGTERM when the parent dies (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
