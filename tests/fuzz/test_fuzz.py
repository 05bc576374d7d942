"""Every reader against damage of every kind: one line or success, soon, and nothing half-written.

pytest tests/fuzz --fuzz-examples 20000 -rP        # a long run, and its figures
pytest tests/fuzz --hypothesis-seed 7              # the short part of every test run, with other inputs
"""

import filecmp
import gzip
import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given, settings
from support.mutations import Damage, damages
from support.readers import READERS, Reader, stand_in, write_good

from icm.tasks import formats
from train.checkpoints import newest_complete

PLACE = re.compile(r":\d+|: (row|record|line) \d+|field|label|empty|no records|number|recursion|more than")
SLOWEST = 5.0
"""Seconds of processor time that one input may take; waiting ends after six times as many."""


class HangError(BaseException):
    """An input took too long. No Exception, so that nobody takes it for one."""


@contextmanager
def in_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise HangError

    before = [signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, SLOWEST)
    signal.setitimer(signal.ITIMER_REAL, 6 * SLOWEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stand_in(patch, tokenizer)
        write_good(folder)
        yield folder


def check(reader: Reader, name: str, damage: Damage, code: int, errors: str) -> None:
    """Success, or one line that says what is wrong, and where in a file that can be read."""
    assert code in (0, 2), errors
    said = [line for line in errors.splitlines() if line.startswith(("error: ", "icm: error: "))]
    assert len(said) >= 1 if code == 2 else not said, errors
    assert "Traceback" not in errors
    for line in said:
        assert len(line) < 1500, line
        assert not reader.named or Path(name).name.partition(".")[0] in line, line
        assert damage.place or not reader.placed or PLACE.search(line), line


def check_whole(folder: Path, made: list[Path]) -> None:
    """What was written is whole: no temporary file is left, and JSON can be read to its end."""
    for path in made:
        assert not path.name.endswith(".tmp") and not path.name.startswith(".merged"), path
        if path.suffix == ".json" and path.is_file():
            json.loads(path.read_text())
        if path.suffix == ".jsonl" and path.is_file():
            assert all(map(json.loads, path.read_text().split("\n")[:-1])), path


def restore(folder: Path, good: Path, kept: set[Path], target: Path) -> list[Path]:
    """Remove what an input left in the folder, which is returned, and put back what a run took or changed; where the
    input lies, the next one will."""
    made = [path for path in folder.rglob("*") if path.relative_to(folder) not in kept]
    check_whole(folder, made)
    for path in made:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    for path in sorted(kept - {target}):
        if (good / path).is_dir():
            (folder / path).mkdir(exist_ok=True)
        elif not (folder / path).is_file() or not filecmp.cmp(good / path, folder / path):
            shutil.copy2(good / path, folder / path)
    return made


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, good: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    reader, total = READERS[name], request.config.getoption("--fuzz-examples")
    folder = tmp_path / "here"
    shutil.copytree(good, folder)
    target = next(path.relative_to(folder) for path in folder.glob(reader.target))
    whole, kept = (folder / target).read_bytes(), {path.relative_to(folder) for path in folder.rglob("*")}
    inputs, refused, slowest = 0, 0, 0.0

    def read(damage: Damage) -> None:
        nonlocal inputs, refused, slowest
        damage.put(folder / target)
        begun = time.process_time()
        with in_time():
            code, errors = reader.read(folder / target)
        slowest = max(slowest, time.process_time() - begun)
        check(reader, str(target), damage, code, errors)
        restore(folder, good, kept, target)
        inputs, refused = inputs + 1, refused + (code == 2)

    share = reader.share / sum(other.share for other in READERS.values())
    draw = settings(
        max_examples=max(3, round(total * share)),
        deadline=None,
        database=None,
        derandomize=request.config.getoption("--hypothesis-seed") is None,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert reader.read(folder / target) == (0, ANY)
        restore(folder, good, kept, target)
        draw(given(damages(whole, reader.form))(read))()
    print(f"{name:30} {inputs:6} inputs, {refused:6} refused, slowest {slowest:.1f} s of processor time")


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [{"k": value}]
    return value


def row(number: int, name: str, value: object) -> Callable[[bytes], bytes]:
    """Another value in a row of a trace."""

    def edit(good: bytes) -> bytes:
        lines = good.splitlines()
        lines[number] = json.dumps({**json.loads(lines[number]), name: value}).encode()
        return b"\n".join(lines) + b"\n"

    return edit


def entry(name: str, value: object = None, gone: bool = False) -> Callable[[bytes], bytes]:
    """Another value for a key of an object, or none."""

    def edit(good: bytes) -> bytes:
        found = {key: old for key, old in json.loads(good).items() if key != name}
        return json.dumps(found if gone else {**found, name: value}).encode()

    return edit


def stage(name: str, value: object) -> Callable[[bytes], bytes]:
    """Another value in every stage of a manifest."""

    def edit(good: bytes) -> bytes:
        stages = json.loads(good)["stages"]
        return json.dumps({"stages": {key: {**record, name: value} for key, record in stages.items()}}).encode()

    return edit


def always(content: bytes) -> Callable[[bytes], bytes]:
    return lambda good: content


FOUND: tuple[tuple[str, Callable[[bytes], bytes], str], ...] = (
    ("adapter's training", entry("model", gone=True), "field 'model': expected text"),
    ("adapter's training", entry("model", "\0"), "ad adapts \\x00, but the model is"),
    ("adapter's training", entry("label_source", gone=True), "field 'label_source': expected text"),
    ("adapter's training", entry("label_source", nested(30)), "field 'label_source': expected text"),
    ("evaluation", always(b"engine:\n  a: !!timestamp 2020-99-99\n"), "ev.yaml:2: not valid YAML"),
    ("evaluation", always(b"engine:\n  a: 2020-99-99\n"), "conditions: none are given"),
    ("evaluation", always(b"a: " + b"[" * 5000), "ev.yaml: not valid YAML"),
    ("experiment", always(b"name:\n  a: " + b"[" * 5000), "e.yaml: not valid YAML"),
    ("experiment", always(b"a: !!int x\n"), "e.yaml: not valid YAML"),
    ("manifest", lambda good: good[:30] + b"\xef" + good[30:], "exp/pipeline.json: not UTF-8"),
    ("manifest", stage("settings", [1]), "exp/pipeline.json: stages."),
    ("manifest", stage("settings", 1.5), "exp/pipeline.json: stages."),
    ("manifest", stage("inputs", "x"), "exp/pipeline.json: stages."),
    ("layout of the machine", always(b"num_processes: null\n"), "machine.yaml: num_processes: found None"),
    ("merge", entry("peft_type", ""), "peft_type: found ''"),
    ("merge", entry("peft_type", {}), "peft_type: found a dict"),
    ("merge", entry("target_modules", ""), "target_modules: found ''"),
    ("merge", entry("base_model_name_or_path", gone=True), "names no base model"),
    ("merge", entry("base_model_name_or_path", nested(100)), "base_model_name_or_path: found a list"),
    ("merge", entry("base_model_name_or_path", "icm"), "model icm: not among the models"),
    ("merge", lambda good: good[:9] + b"\xfd" + good[9:], "adapter_config.json: not UTF-8"),
    ("settings", lambda good: good.replace(b"output_dir: made", b'output_dir: "\\uD800"'), "half a character"),
    ("trace, resumed", lambda good: b"\x87" + good, "r.trace.jsonl:1: not UTF-8"),
    ("trace, resumed", row(1, "preferences", {"a": ["1e999"]}), "r.trace.jsonl:2: field 'preferences'"),
    ("trace, resumed", row(1, "preferences", {"a": [nested(20)]}), "r.trace.jsonl:2: field 'preferences'"),
    ("trace, resumed", row(1, "changes", "x"), "r.trace.jsonl:2: field 'changes'"),
    ("trace, resumed", row(1, "changes", {"id": "bad"}), "row 1 of restart 0, batch 0 in the trace does not fit"),
    ("trace, resumed", row(1, "type", "end"), "r.trace.jsonl:2: field 'iterations'"),
    ("eval_source", always(b'{"dataset": 3}'), "eval_source, 'dataset': found 3"),
    ("eval_source", always(b'{"dataset": "reviews", "holdout": "x"}'), "eval_source, 'holdout': found 'x'"),
    ("recipe", always(b"2020-01-01: 3\n"), "unknown key '2020-01-01'"),
    ("recipe", always(b"a: !!int x\n"), "rec.yaml: not valid YAML"),
    ("recipe", always(b"a: !!timestamp 1\n"), "rec.yaml:1: not valid YAML"),
    ("written claims", always(b'{"question": "What is 0 + 0?", "generated": ["\\ud800"]}\n'), "no lone surrogates"),
    ("experiment", lambda good: good.replace(b"max_examples: 5", b"max_examples: [5]"), "eval.data.max_examples"),
    ("experiment", lambda good: good.replace(b"max_iterations: 3", b"final_orders: 99999"), "at most 10,000"),
    ("data, jsonl", always(b'{"text": "' + b"x" * 2**24 + b'"}\n'), "d.jsonl:1: a line of more than 16 MiB"),
    ("data, json", always(b"[" + b" " * 2**21 + b"]"), "d.json: one JSON document of more than 2 MiB"),
    ("data, json", always(b"[" + b"9" * 5000 + b"]"), "d.json: a number of thousands of digits is out of range"),
    ("data, parquet", lambda good: good.replace(b"note 0 of 0", b"\xeeote 0 of 0"), "d.parquet: cannot be read"),
    ("data, csv", always(b"text,label\n" + b"note,bad\n" * 9 + b"more," + b"x" * 201), "d.csv:11"),
    ("data, csv", lambda good: b"\0" * 5000 + good, "a field whose name has"),
    ("written claims", always(b'{"question": "What is 0 + 0?", "generated": [[["x"]]]}\n'), "expected a list of texts"),
    (".env", always(b"\0" * 5000), "holds a zero byte"),
    (".env", always(b"ICM_MODEL=" + b"9" * 5000), "name too long"),
    ("data, gz", always(gzip.compress(bytes(2**22 + 1))), "d.csv.gz: more than 5,000,000 records, or 4 MiB"),
    ("server's completion", always(gzip.compress(b" " * 2**26)), "more than 32 MiB"),
    ("server's chat", always(gzip.compress(b" " * 2**26)), "more than 32 MiB"),
)  # fmt: skip
"""Reader, damage, and what is said of it: what ended in a traceback, or took all memory, once."""


@pytest.mark.parametrize(("name", "edit", "said"), FOUND, ids=[f"{name} {said}" for name, _, said in FOUND])
def test_what_was_found_before(
    name: str, edit: Callable[[bytes], bytes], said: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, folder = READERS[name], tmp_path / "here"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    target = next(folder.glob(reader.target))
    # As small as tells the same: a gigabyte takes seconds to read.
    monkeypatch.setattr(formats, "MOST_BYTES", 2**22 if name == "data, gz" else formats.MOST_BYTES)
    monkeypatch.setattr(formats, "LONGEST_DOCUMENT", 2**21)
    Damage(edit(target.read_bytes())).put(target)
    with in_time():
        code, errors = reader.read(target)
    check(reader, target.name, Damage(b""), code, errors)
    assert code == 2 and said in errors


def test_a_broken_checkpoint_is_none(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(good / "out", tmp_path / "out")
    mark = tmp_path / "out/checkpoint-3/complete.json"
    assert newest_complete(tmp_path / "out") == mark.parent
    mark.write_text('{"files": ""}')
    assert newest_complete(tmp_path / "out") is None
