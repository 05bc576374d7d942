"""Log messages of a command: to standard error, and to a file if asked. Undone when the command ends."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icm.labelling.options import OutputConfig

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def logging_to(output: OutputConfig) -> Iterator[None]:
    """Handle this package's messages from `output.log_level` up, and other libraries' from WARNING up.

    At DEBUG theirs start at INFO. Below that they log requests, whose headers could hold a token.
    """
    root, own = logging.getLogger(), logging.getLogger("icm")
    levels = root.level, own.level
    terminal = logging.StreamHandler()
    terminal.addFilter(_not_printed_yet)
    handlers: list[logging.Handler] = [terminal]
    if output.log_file is not None:
        Path(output.log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(output.log_file, encoding="utf-8"))
    root.setLevel(logging.INFO if output.log_level == "DEBUG" else logging.WARNING)
    own.setLevel(output.log_level)
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
        handler.setLevel(output.log_level)
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(levels[0])
        own.setLevel(levels[1])
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _not_printed_yet(record: logging.LogRecord) -> bool:
    """False for libraries that print their messages themselves, such as huggingface_hub."""
    return not logging.getLogger(record.name.partition(".")[0]).handlers
