"""Gold is unreachable, for every task: gold removed, shuffled or inverted loads the same bytes."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support.task_formats import FORMATS, VERBALISERS, Gold, Row

from icm.examples import ICMDataset, LabelSpace, TaskData
from icm.files import read_jsonl, write_jsonl
from icm.tasks import DataSource, load_task
from icm.tasks.base import Item, Record, Task
from icm.tasks.builtin import reviews, synthetic
from icm.tasks.lookup import task_names

GOLD_WORDS = {"label", "gold", "gold_label", "is_correct", "chosen", "rejected", "answer", "answerKey", "target"}
N = 48

BUILT_IN = {"reviews", "synthetic"}


def seen_by_search(dataset: ICMDataset) -> bytes:
    """Everything of a data set that the search, or anything it writes, can read."""
    rows = [[e.id, e.input, dict(e.metadata), asdict(e.relations)] for e in dataset]
    space = dataset.label_space
    return json.dumps([rows, dataset.fingerprint, space.labels, space.verbalisers, dataset.name, dataset.task]).encode()


def golds(mode: str) -> Gold:
    plain = [i // 2 % 2 for i in range(N)]
    if mode == "shuffled":
        random.Random(3).shuffle(plain)
    if mode == "removed":
        return [None] * N
    return [1 - g for g in plain] if mode == "inverted" else plain


def load(name: str, rows: Sequence[Row], folder: Path, **settings: Any) -> TaskData:
    write_jsonl(folder / "data.jsonl", rows)
    source = DataSource(str(folder / "data.jsonl"), name, verbalisers=VERBALISERS.get(name), **settings)
    return load_task(source)


def test_every_task_is_covered() -> None:
    assert set(FORMATS) | BUILT_IN == set(task_names())


@pytest.mark.parametrize("settings", [{}, {"holdout": 0.4, "part": "test"}, {"max_examples": 25, "seed": 5}])
@pytest.mark.parametrize("name", FORMATS)
def test_gold_does_not_reach_the_examples(name: str, settings: Any, tmp_path: Path) -> None:
    make = FORMATS[name]
    plain = load(name, [make(i, g) for i, g in enumerate(golds("plain"))], tmp_path / "plain", **settings)
    assert set(plain.gold) == {e.id for e in plain.dataset} and len(set(plain.gold.values())) == 2
    for mode in ("removed", "shuffled", "inverted"):
        rows = [make(i, g) for i, g in enumerate(golds(mode))]
        random.Random(mode).shuffle(rows)  # nor does the order of the file
        other = load(name, rows, tmp_path / mode, **settings)
        assert seen_by_search(other.dataset) == seen_by_search(plain.dataset), mode
        assert dict(other.gold) != dict(plain.gold), "the test has not changed the gold labels"
        assert (len(other.gold) == 0) == (mode == "removed")


@pytest.mark.parametrize("name", FORMATS)
def test_metadata_holds_no_gold(name: str, tmp_path: Path) -> None:
    data = load(name, [FORMATS[name](i, g) for i, g in enumerate(golds("plain"))], tmp_path)
    assert not GOLD_WORDS & {key for example in data.dataset for key in example.metadata}


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"prepared", "bigbench_hard"}))
def test_auto_finds_the_task_with_and_without_gold(name: str, tmp_path: Path) -> None:
    for mode in ("plain", "removed"):
        write_jsonl(tmp_path / "data.jsonl", [FORMATS[name](i, g) for i, g in enumerate(golds(mode))])
        data = load_task(DataSource(str(tmp_path / "data.jsonl"), verbalisers=VERBALISERS.get(name)))
        assert data.dataset.task == name


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["math", "comparison"])
def test_synthetic_gold_does_not_reach_the_examples(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DataSource(f"synthetic:{kind}", size=40, seed=seed, max_examples=30)
    plain = load_task(source)
    made = synthetic.records(replace(source, size=40))
    flipped = [Record(r.where, {**r.fields, "label": str(r.fields["label"] == "False")}) for r in made]
    monkeypatch.setattr(synthetic, "TASK", replace(synthetic.TASK, records=lambda _: flipped))
    other = load_task(source)
    assert seen_by_search(other.dataset) == seen_by_search(plain.dataset)
    assert {k: str(v == "False") for k, v in other.gold.items()} == dict(plain.gold)


@pytest.mark.parametrize("part", ["train", "test"])
def test_review_gold_does_not_reach_the_examples(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DataSource("reviews", part=part, max_examples=50)
    plain = load_task(source)
    other_label = {"positive": "negative", "negative": "positive"}
    rows = [{**row, "label": other_label[row["label"]]} for _, row in read_jsonl(reviews.DATA)]
    write_jsonl(tmp_path / "reviews.jsonl", rows)
    monkeypatch.setattr(reviews, "DATA", tmp_path / "reviews.jsonl")
    other = load_task(source)
    assert seen_by_search(other.dataset) == seen_by_search(plain.dataset)
    assert {k: other_label[v] for k, v in other.gold.items()} == dict(plain.gold)


def test_this_file_would_catch_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(record: Record) -> list[Item]:
        label = record.truth("label")
        return [Item({"text": record.text("text"), "hint": str(label)}, label, record.text("text"))]

    module = type("module", (), {"TASK": Task("leaky", leaky, (), "{text}", label_space=LabelSpace())})
    monkeypatch.setitem(__import__("sys").modules, "outside.leaky", module)
    seen = []
    for flip in (0, 1):
        write_jsonl(tmp_path / "data.jsonl", [{"text": str(i), "label": (i + flip) % 2} for i in range(4)])
        seen.append(seen_by_search(load_task(DataSource(str(tmp_path / "data.jsonl"), "outside.leaky")).dataset))
    assert seen[0] != seen[1]


@pytest.mark.parametrize("known", [1, 5, N])
@pytest.mark.parametrize("name", ["classification", "prepared", "boolq", "ifeval"])
def test_gold_does_not_decide_whether_examples_load(
    name: str, known: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One class only, and records mostly without a label: a warning, and the same examples."""
    plain = load(name, [FORMATS[name](i, g) for i, g in enumerate(golds("plain"))], tmp_path / "plain")
    caplog.clear()
    one = load(name, [FORMATS[name](i, 0 if i < known else None) for i in range(N)], tmp_path / "one")
    assert seen_by_search(one.dataset).replace(b"one", b"plain") == seen_by_search(plain.dataset).replace(
        b"one", b"plain"
    )
    assert len(one.gold) == known and len(set(one.gold.values())) == 1
    assert ("one class only" in caplog.text) == (known > 1)
    assert (f"{known} of {N} examples have a label" in caplog.text) == (known < N)
