"""Damage to a good file, drawn by hypothesis: to its bytes, to the values in it, or to what lies in its place."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

DEEP, HUGE = 400, 100_000
VALUES = (
    *("null", "true", "false", "0", "-1", "1.5", "-0.0", "1e308", "-1e308", "18446744073709551616", "9" * 5000),
    *("1e999", "NaN", "Infinity", "-Infinity", '""', '"   "', r'"\u0000"', r'"\ud800"', r'"x\u2028y"', r'"\ufeff"'),
    *(r'"\u001b[31m"', r'"<b>|\n"', '"3"', '"x"', f'"{"x" * HUGE}"', "[]", "{}", "[1]", '["a"]', '{"a": 1}', "[null]"),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * HUGE, "[" * HUGE + "]" * HUGE),
)
YAML_VALUES = (
    *(
        "2020-99-99",
        "2020-01-01",
        "!!set {a}",
        "!!binary aGk=",
        "&a [*a]",
        "!!timestamp x",
        "!!int x",
        "!!bool x",
        "0x_",
    ),
    *(
        "*b",
        "!!python/name:os.system",
        "{<<: [1]}",
        ".nan",
        "-.inf",
        "~",
        "@",
        "%",
        "'",
        "|",
        "? [a]",
        "1:99",
        "!!float x",
    ),
)
JUNK = (
    *(
        b"\x00",
        b"\x00" * 4096,
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        "\u2028".encode(),
        b"\r",
        b"\n",
        b"\n\n",
        b"{",
        b"}",
        b"[",
    ),
    *(
        b"]",
        b'"',
        b"'",
        b",",
        b":",
        b"\\",
        b"#",
        b"\t",
        b"1e999",
        b"NaN",
        b"[" * HUGE,
        b"9" * 5000,
        b"x" * HUGE,
        b"---\n",
    ),
)
PLACES = ("missing", "folder", "pipe", "loop", "unreadable", "zipped", "utf-16", "bomb")


@dataclass(frozen=True)
class Damage:
    """What is to lie at a path: bytes, or something else than a plain file of them."""

    content: bytes
    place: str = ""

    def put(self, path: Path) -> None:
        """Put it there, in place of what is there."""
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        if self.place == "folder":
            path.mkdir()
        elif self.place == "pipe":
            os.mkfifo(path)
        elif self.place == "loop":
            path.symlink_to(path)
        elif self.place != "missing":
            path.write_bytes(self.content)
            path.chmod(0 if self.place == "unreadable" else 0o644)


@st.composite
def damages(draw: st.DrawFn, good: bytes, form: str) -> Damage:
    """Damage to a file of the form json, jsonl, yaml or bytes."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        place = draw(st.sampled_from(PLACES))
        content = {
            "zipped": gzip.compress(good),
            "utf-16": good.decode("utf-8", "replace").encode("utf-16"),
            "bomb": gzip.compress(b"{}\n" * HUGE),
        }
        return Damage(content.get(place, good), place)
    if form != "bytes" and kind < 12:
        return Damage(draw(_values(good, form)))
    for _ in range(draw(st.integers(1, 3))):
        good = draw(_bytes(good))
    return Damage(good)


@st.composite
def _bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Other bytes at a place: flipped, cut, doubled, or junk."""
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 40)))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: data[:start],
        lambda: data[:start] + data[end:],
        lambda: data[:end] + data[start:],
        lambda: data[:start] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[start:end]) + data[end:],
        lambda: data[:start] + draw(st.sampled_from(JUNK)) + data[end:],
        lambda: data[:start] + draw(st.binary(max_size=30)) + data[start:],
    )
    return draw(st.sampled_from(kinds))()


@st.composite
def _values(draw: st.DrawFn, good: bytes, form: str) -> bytes:
    """One or two values of the tree replaced, left out, doubled or wrapped; or keys renamed."""
    lines = good.decode().splitlines() if form == "jsonl" else [good.decode()]
    row = draw(st.integers(0, len(lines) - 1))
    tree = yaml.safe_load(lines[row]) if form == "yaml" else json.loads(lines[row])
    odd = VALUES + (YAML_VALUES if form == "yaml" else ())
    marks: dict[str, str] = {}
    for number in range(draw(st.integers(1, 2))):
        marks[f'"@{number}@"'] = draw(st.sampled_from(odd))
        tree = _changed(draw, tree, f"@{number}@")
    text = json.dumps(tree)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    lines[row] = text
    if form == "jsonl" and draw(st.integers(0, 9)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), text)
    return "\n".join(lines).encode() + b"\n"


def _changed(draw: st.DrawFn, tree: Any, mark: str) -> Any:
    """The tree with one value changed; an odd one goes where the mark stands."""
    places = list(_places(tree))
    if not places:
        return mark
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    action = draw(st.integers(0, 9))
    if action < 6:
        holder[key] = mark
    elif action == 6:
        del holder[key]
    elif action == 7:
        holder[key] = [holder[key], mark]
    elif action == 8:
        holder[key] = {"a": holder[key]}
    elif isinstance(holder, dict):
        holder[draw(st.sampled_from(("", "x", "type", "\ud800", mark)))] = holder.pop(key)
    else:
        holder.append(holder[key])
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (dict or list, key or index) of the tree."""
    members = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, member in members for place in [(tree, key), *_places(member)]]
