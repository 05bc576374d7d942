"""The published files, where they are present: counts, prompts, and that gold is unreachable in real data too."""

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.beside import beside

from icm.examples import TaskData
from icm.files import read_jsonl, write_json, write_jsonl
from icm.tasks import DataSource, load_task


def invert_csv(target: Path) -> Path:
    swapped = {"Correct Answers": "Incorrect Answers", "Best Answer": "Best Incorrect Answer"}
    swapped |= {value: key for key, value in swapped.items()}
    with beside("data/truthfulqa/TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as handle:
        rows = [{name: row[swapped.get(name, name)] for name in row} for row in csv.DictReader(handle)]
    target /= "TruthfulQA.csv"
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(reversed(rows))
    return target


def invert_mc(target: Path) -> Path:
    rows = json.loads(beside("data/truthfulqa/mc_task.json").read_text())
    for row in rows:
        for name in ("mc1_targets", "mc2_targets"):
            row[name] = {choice: 1 - label for choice, label in row[name].items()}
    write_json(target / "mc_task.json", rows)
    return target / "mc_task.json"


def invert_praxis(target: Path) -> Path:
    rows = json.loads(beside("data/truthfulqa/praxis_train.json").read_text())
    # consistency_id is made up from gold in published files: whatever it says, it must not matter
    write_json(
        target / "praxis_train.json", [{**r, "label": 1 - r["label"], "consistency_id": r["label"]} for r in rows]
    )
    return target / "praxis_train.json"


def invert_gsm8k(target: Path) -> Path:
    rows = [row for _, row in read_jsonl(beside("data/gsm8k/example_model_solutions.jsonl"))]
    for row in rows:
        for value in row.values():
            if isinstance(value, dict):
                value["is_correct"] = not value["is_correct"]
        row["ground_truth"] = "A: 0"
    write_jsonl(target / "example_model_solutions.jsonl", rows)
    return target / "example_model_solutions.jsonl"


def invert_hh(target: Path) -> Path:
    with gzip.open(beside("data/hh_rlhf/harmless-base-test.jsonl.gz"), "rt", encoding="utf-8") as handle:
        rows: list[dict[str, Any]] = [json.loads(line) for line in handle]
    write_jsonl(target / "harmless-base-test.jsonl", [{"chosen": r["rejected"], "rejected": r["chosen"]} for r in rows])
    return target / "harmless-base-test.jsonl"


def invert_reviews(target: Path) -> Path:
    other = {"positive": "negative", "negative": "positive"}
    rows = [row for _, row in read_jsonl(beside("data/sentiment/amazon_reviews.jsonl"))]
    write_jsonl(target / "amazon_reviews.jsonl", [{**row, "label": other[row["label"]]} for row in rows])
    return target / "amazon_reviews.jsonl"


FILES: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "csv": ("truthfulqa/TruthfulQA.csv", "truthfulqa", invert_csv),
    "mc_task": ("truthfulqa/mc_task.json", "truthfulqa", invert_mc),
    "praxis": ("truthfulqa/praxis_train.json", "truthfulqa", invert_praxis),
    "gsm8k": ("gsm8k/example_model_solutions.jsonl", "gsm8k", invert_gsm8k),
    "hh": ("hh_rlhf/harmless-base-test.jsonl.gz", "comparison", invert_hh),
    "amazon": ("sentiment/amazon_reviews.jsonl", "classification", invert_reviews),
}


@pytest.mark.parametrize("name", FILES)
def test_inverted_gold_loads_the_same_examples(name: str, tmp_path: Path) -> None:
    file, task, invert = FILES[name]
    settings: dict[str, Any] = {"holdout": 0.3, "part": "test", "max_examples": 300}
    plain = load_task(DataSource(str(beside(f"data/{file}")), **settings))
    other = load_task(DataSource(str(invert(tmp_path)), **settings))
    assert plain.dataset == other.dataset and plain.dataset.task == task
    assert plain.dataset.fingerprint == other.dataset.fingerprint
    assert len(plain.gold) > 50 and plain.gold.keys() == other.gold.keys()
    assert not any(plain.gold[key] == other.gold[key] for key in plain.gold)


def load(name: str, **settings: Any) -> TaskData:
    return load_task(DataSource(str(beside(f"data/{FILES[name][0]}")), **settings))


def test_truthfulqa_files_hold_the_same_claims() -> None:
    table, targets, rows = load("csv"), load("mc_task"), load("praxis")
    assert len({e.group for e in table.dataset}) == len({e.group for e in targets.dataset}) == 790
    claims = {e.id for e in targets.dataset}
    assert len(claims & {e.id for e in table.dataset}) > 0.95 * len(claims)
    assert len(rows.dataset) == 256 and len({e.group for e in rows.dataset}) == 64
    assert Counter(rows.gold.values()) == {"True": 113, "False": 143}
    published = {(e.group, e.metadata["claim"]): table.gold.get(e.id) for e in table.dataset}
    ours = {(e.group, e.metadata["claim"].removesuffix(".")): rows.gold[e.id] for e in rows.dataset}
    agree = [ours[key] == published[key] for key in ours if key in published]
    assert len(agree) > 100 and sum(agree) / len(agree) > 0.95, "gold is read the wrong way round"


def test_sizes_and_prompts() -> None:
    assert len(load("amazon").dataset) == 892 and Counter(load("amazon").gold.values())["positive"] == 446
    replies = load("hh")
    assert len(replies.dataset) == 2 * (2_312 - 4)  # four records have an empty reply
    assert Counter(replies.gold.values()) == {"True": 2_308, "False": 2_308}
    solutions = load("gsm8k", max_examples=400)
    assert len(solutions.dataset) in range(397, 401)
    for data in (replies, solutions):
        assert all(
            e.input.endswith("\nI think this Claim is") and "<<" not in e.metadata["completion"] for e in data.dataset
        )
        assert all(e.metadata["completion"].strip() in e.input for e in data.dataset)
