"""Markdown that holds together whatever texts it shows, and names fit for publication."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from icm.text import visible

_MARKS = re.compile(r"[\\`*\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # an underscore within a word begins nothing
_FILE_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".safetensors", ".gguf")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; its cells are Markdown, `literal` makes them plain text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def facts_table(facts: Mapping[str, object]) -> str:
    """A table of names and values without a head; both are shown as they are written."""
    return table(("", ""), [[literal(str(cell)) for cell in fact] for fact in facts.items()])


def _cell(value: object) -> str:
    return "<br>".join(str(value).replace("|", "\\|").splitlines())


def literal(text: str) -> str:
    """Text that Markdown shows as it is, HTML, links and images included."""
    return "<br>".join(_MARKS.sub(r"\\\g<0>", html.escape(visible(text), quote=False)).splitlines())


def public_name(name: str) -> str:
    """A hub or built-in name as it is; of a local path the last part, since the rest is nobody's business."""
    return PureWindowsPath(name.rstrip("/\\")).name or "." if is_local_name(name) else name


def is_local_name(name: str) -> bool:
    """Whether a name is that of a file or folder, here or on another machine, rather than one of the hub."""
    if name.startswith(("/", ".", "~")) or "\\" in name or re.match(r"[A-Za-z]:|file:", name):
        return True
    return name.count("/") > 1 or name.lower().endswith(_FILE_ENDINGS) or local_path(name) is not None


def local_path(name: str) -> Path | None:
    """The file or folder of that name on this machine; None also for what can be the name of none."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long; ~somebody who is not here; a zero byte
        return None
