"""A thousand bad inputs through `icm run`, `export`, `list` and `analyze`: never a traceback, always file and place.

Each input is a good file with one thing wrong, drawn from (kind of damage, number), so every failure can be repeated.
"""

import json
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.made_results import claims, moods
from transformers import AutoTokenizer

import icm.cli
import icm.labelling.run
from icm.cli import main
from icm.results.format import example_row, metadata_row, trace_path

Row = dict[str, Any]
Damage = Callable[[list[Row], random.Random], list[Any]]

ODD_VALUES: tuple[Any, ...] = (
    None,
    7,
    -1.5,
    True,
    [],
    ["a"],
    {},
    {"a": 1},
    "",
    "   ",
    "\u0000",
    "\ud800",
    "x" * 100_000,
)


def good_records(rng: random.Random) -> list[Row]:
    """A user's data set of one of several tasks."""
    size, form = rng.randint(4, 9), rng.randrange(4)
    label = lambda number: number % 2  # noqa: E731
    if form == 0:
        return [{"text": f"note {n}, rated {n * 3}", "label": ("bad", "good")[label(n)]} for n in range(size)]
    if form == 1:
        return [{"question": f"Is {n} odd?", "choice": f"{n} may be", "label": label(n)} for n in range(size)]
    if form == 2:
        return [
            {"question": f"{n}+1?", "solution": f"it is #### {n + 1}", "is_correct": bool(n % 2)} for n in range(size)
        ]
    return [{"query": f"q{n}", "response_a": f"a{n}", "response_b": f"b{n}", "label": "AB"[n % 2]} for n in range(size)]


def good_result(rng: random.Random) -> list[Row]:
    """The lines of a result file."""
    seed = rng.randrange(1000)
    result = claims(3, 3, seed, algorithm="icm", usage={"seconds": 1.5}) if seed % 2 else moods(seed, 9)
    return [metadata_row(result), *map(example_row, result.labeled_examples)]


def pick(rows: list[Row], rng: random.Random) -> tuple[int, str]:
    place = rng.randrange(len(rows))
    return place, rng.choice(sorted(rows[place]))


def wrong_value(rows: list[Row], rng: random.Random) -> list[Any]:
    place, name = pick(rows, rng)
    rows[place][name] = rng.choice(ODD_VALUES)
    return rows


def missing_field(rows: list[Row], rng: random.Random) -> list[Any]:
    place, name = pick(rows, rng)
    del rows[place][name]
    return rows


def unknown_label(rows: list[Row], rng: random.Random) -> list[Any]:
    place = rng.randrange(len(rows))
    rows[place]["label"] = rng.choice(["", "maybe", "TRUE!", "positive ", 12, [1]])
    return rows


def no_object(rows: list[Row], rng: random.Random) -> list[Any]:
    place = rng.randrange(len(rows))
    return [*rows[:place], rng.choice([None, 3, "text", [1, 2], True]), *rows[place + 1 :]]


def not_a_number(rows: list[Row], rng: random.Random) -> list[Any]:
    place, name = pick(rows, rng)
    rows[place][name] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return rows


def duplicate(rows: list[Row], rng: random.Random) -> list[Any]:
    place = rng.randrange(len(rows))
    return [*rows, {**rows[place], "label": rng.choice([rows[0].get("label"), "other"])}]


def nothing(rows: list[Row], rng: random.Random) -> list[Any]:
    return rows[: rng.choice([0, 1])]


def nested(rows: list[Row], rng: random.Random) -> list[Any]:
    place, name = pick(rows, rng)
    value: Any = "deep"
    for _ in range(rng.choice([50, 400])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    rows[place][name] = value
    return rows


DAMAGES: tuple[Damage, ...] = (
    wrong_value,
    missing_field,
    unknown_label,
    no_object,
    not_a_number,
    duplicate,
    nothing,
    nested,
)


def as_bytes(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows)


def broken_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage below the level of JSON: a torn line, foreign bytes, NUL bytes, another encoding, deep nesting."""
    place = rng.randrange(max(1, len(data)))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: data[:place],
        lambda: data[:place] + bytes([rng.choice([0x80, 0xFF, 0xC3])]) + data[place:],
        lambda: data[:place] + b"\x00" * rng.randint(1, 9) + data[place:],
        lambda: data.decode().encode("utf-16"),
        lambda: data[:place] + rng.choice([b"{", b"]", b'"', b",", b"\\", b"\n"]) + data[place + 1 :],
        lambda: data + b"[" * 100_000 + b"\n",
        lambda: data + b'{"a": 1e999}\n' + b'{"a": ' + b"9" * 5000 + b"}\n",
        lambda: rng.randbytes(rng.randint(1, 300)),
    )
    return rng.choice(kinds)()


def damaged(number: int, good: Callable[[random.Random], list[Row]]) -> bytes:
    rng = random.Random(number)
    rows = good(rng)
    if number % 3 == 0:
        return broken_bytes(as_bytes(rows), rng)
    return as_bytes(rng.choice(DAMAGES)(rows, rng))


@pytest.fixture(autouse=True)
def one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of commands in one process need not each make the parser."""
    monkeypatch.setattr(icm.cli, "make_parser", _parser)


_parser = cache(icm.cli.make_parser)


class ModelLoadedError(Exception):
    """Raised in place of loading a model."""


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is valid comes as far as loading a model, and no further."""

    def load(config: object) -> None:
        raise ModelLoadedError

    monkeypatch.setattr(icm.labelling.run, "create_engine", load)


def outcome(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code (0 also for input that was accepted as far as the model), output, errors."""
    try:
        code = main(arguments)
    except ModelLoadedError:
        code = 0
    found = capsys.readouterr()
    return code, found.out, found.err


def check(code: int, errors: str, name: str, tries: str) -> None:
    """Errors are single lines that name the file, and the place in it or the field."""
    assert code in (0, 2), tries
    lines = [line for line in errors.splitlines() if line.startswith("icm: error: ")]
    assert bool(lines) == (code == 2), (tries, errors)
    assert "Traceback" not in errors, tries
    for line in lines:
        assert len(line) < 1000, (tries, len(line), line[:300])
        assert name in line, (tries, line)
        place = re.search(rf"{re.escape(name)}(:\d+|: row \d+|: record \d+)", line)
        assert place or "no records" in line or "empty" in line or "field" in line or "label" in line, (tries, line)


COUNT = 1000
PARTS = 10


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("part", range(PARTS))
def test_bad_data_sets(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tokenizer: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)  # read once, not 500 times
    refused = 0
    for number in range(part, COUNT // 2, PARTS):
        path = Path(f"data{number}.jsonl")
        path.write_bytes(damaged(number, good_records))
        policy = "refuse" if number // PARTS % 5 else "auto"  # which passes over one bad record
        code, _, errors = outcome(["run", "--dataset", path.name, "--bad-records", policy], capsys)
        check(code, errors, path.name, f"data set {number}")
        refused += code == 2
    assert not Path("icm_results").exists()
    assert refused > COUNT / PARTS / 8  # a test that damages nothing would pass as well


@pytest.mark.parametrize("part", range(PARTS))
def test_bad_results(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = 0
    for number in range(part, COUNT // 2, PARTS):
        folder = tmp_path / f"results{number}"
        folder.mkdir()
        path = folder / f"made{number}.jsonl"
        path.write_bytes(damaged(number + COUNT, good_result))
        codes = {
            command: consult(command, path, number, capsys) for command in ("list", "analyze", "analyze all", "export")
        }
        assert codes["list"] <= codes["analyze all"], number
        refused += codes["list"] == 2
    assert refused > COUNT / PARTS / 8


def consult(command: str, path: Path, number: int, capsys: pytest.CaptureFixture[str]) -> int:
    """Run one command on one result; returns its exit code. A refused export writes nothing."""
    output = path.with_suffix(f".{('json', 'csv', 'sft', 'dpo')[number % 4]}")
    arguments = {
        "list": ["list", "--results-dir", str(path.parent)],
        "analyze": ["analyze", "--result-file", str(path)],
        "analyze all": ["analyze", "--results-dir", str(path.parent)],
        "export": ["export", "--input-path", str(path), "--output-path", str(output), "--format", output.suffix[1:]],
    }[command]
    code, _, errors = outcome(arguments, capsys)
    if not (command == "export" and "nothing to write" in errors):
        check(code, errors, path.name, f"{command} of result {number}")
    if command == "export":
        assert output.exists() == (code == 0), number
    return code


@pytest.mark.parametrize("number", range(60))
def test_bad_traces(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(number)
    path = tmp_path / "made.jsonl"
    path.write_bytes(as_bytes(good_result(rng)))
    decision = {
        "type": "decision",
        "iteration": 1,
        "example": "e",
        "previous": None,
        "proposal": "True",
        "accepted": True,
        "delta": 1.0,
        "utility": -3.0,
        "temperature": 2.0,
        "labelled": 1,
    }
    rows: list[Row] = [{"type": "icm_trace"}, *({**decision, "iteration": n} for n in range(1, 5))]
    data = broken_bytes(as_bytes(rows), rng) if number % 3 == 0 else as_bytes(rng.choice(DAMAGES)(rows, rng))
    trace_path(path).write_bytes(data)
    code, _, errors = outcome(["analyze", "--result-file", str(path)], capsys)
    check(code, errors, trace_path(path).name, f"trace {number}")
