"""What vLLM's worker processes print, kept out of the way until one of them fails and the cause is wanted."""

import logging
import os
import re
import sys
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_CAUSE = re.compile(r"(?:^|[\s\]])(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception|Interrupt)): (.+)$")
# What processes say of each other's failures.
_SECOND_HAND = ("EngineDeadError", "Engine core initialization failed", "WorkerProc initialization failed")
_SHOWN = 300


class WorkerOutput:
    """A file that takes the standard output and error of processes started in `taken`, as long as they live."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the engine
        weakref.finalize(self, self._file.close)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Both streams of this process and of those that it starts go to the file; its own come back at the end."""
        sys.stdout.flush()
        sys.stderr.flush()
        kept = [(stream, os.dup(stream)) for stream in (1, 2)]
        try:
            for stream, _ in kept:
                os.dup2(self._file.fileno(), stream)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)

    def cause(self, error: Exception) -> str:
        """One line: what the worker that failed said last, else the error itself. The whole goes to the debug log."""
        # The processes share the file's position, so it is not moved.
        size = os.fstat(self._file.fileno()).st_size
        text = os.pread(self._file.fileno(), size, 0).decode(errors="replace")
        logger.debug("vLLM's processes said:\n%s", text)
        said = [found for line in text.splitlines() if (found := _CAUSE.search(line)) and not _second_hand(line)]
        if said:
            return f"{said[-1][1]}: {said[-1][2]}"[:_SHOWN]
        own = " ".join(str(error).split())[:_SHOWN]
        if not own or _second_hand(f"{type(error).__name__}: {own}"):
            return "a process ended without a word, often for lack of memory; see --log-level DEBUG"
        return own


def _second_hand(line: str) -> bool:
    return any(words in line for words in _SECOND_HAND)
