"""Markdown that holds together whatever texts it shows, and names fit for publication."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; its cells are Markdown, `literal` makes them plain text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def facts_table(facts: Mapping[str, object]) -> str:
    """A table of names and values without a head."""
    return table(("", ""), facts.items())


def _cell(value: object) -> str:
    return "<br>".join(str(value).replace("|", "\\|").splitlines())


def literal(text: str) -> str:
    """Text that Markdown shows as it is, HTML included."""
    escaped = html.escape(text, quote=False)
    for mark in "\\`*_[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return "<br>".join(escaped.splitlines())


def public_name(name: str) -> str:
    """A hub or built-in name as it is; of a local path the last part, since the rest is nobody's business."""
    local = Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists() or "\\" in name
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] if local else name
