"""What is shown on a terminal, whatever it holds; tests/consistency has those of texts that are compared."""

import ast
import io
import logging
import sys
from pathlib import Path

import pytest

from icm.text import Console, log_visibly, one_line, say, visible

ROOT = Path(__file__).parents[1]
COMMANDS = [
    chr(code) for code in (*range(9), *range(11, 32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), 0x2066, 0x2069)
]
HARMLESS = "tab\t, line\n, Zoë's café, 雨, 👩‍👩‍👧 (joined), فارسی‌ها, ±½ [bold]not bold[/]"


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    for mark in [*COMMANDS, "\u200e", "\u2028", "\ud800", "\ufeff", "\U000e0041"]:
        assert visible(f"a{mark}b") == f"a{mark.encode('unicode_escape').decode()}b"
    assert visible("\x1b]8;;http://evil\x07here\r") == "\\x1b]8;;http://evil\\x07here\\r"
    assert visible(HARMLESS) == HARMLESS and one_line("a\nb\tc") == "a\\nb\\tc"


def test_what_is_printed_logged_and_drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nasty = "".join(COMMANDS)
    say(nasty)
    say(nasty, error=True)
    before = logging.getLogRecordFactory()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    try:
        log_visibly()
        for name in ("icm.tasks", "somebody.else"):
            try:
                raise ValueError(nasty)
            except ValueError:
                logging.getLogger(name).error("read %s", nasty, exc_info=True)
    finally:
        logging.setLogRecordFactory(before)
    drawn = io.StringIO()
    from rich.table import Table

    table = Table(title=nasty)
    table.add_column(nasty)
    table.add_row(nasty)
    console = Console(file=drawn, force_terminal=False)
    console.print(table, nasty)
    console.rule(nasty)
    said = capsys.readouterr()
    assert said.out.count("\\x1b") == 1 and said.err.count("\\x1b") >= 3
    assert not set(COMMANDS) & set(said.out + said.err + drawn.getvalue())


def test_text_that_the_stream_has_no_letters_for_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("Zoë 雨")
    assert stream.buffer.getvalue() == b"Zo\\xeb \\u96e8\n"  # type: ignore[attr-defined]


def test_there_is_no_other_way_to_print() -> None:
    """`print` and rich's own console would show foreign text as it is."""
    found = []
    for path in [path for part in ("icm", "train", "eval") for path in (ROOT / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            imported = node.module if isinstance(node, ast.ImportFrom) else ""
            if name == "print" or imported == "rich.console":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [place.partition(":")[0] for place in found] == ["icm/text.py"]
