"""A result file of codelion/icm goes the whole way: report, export, training, evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_runs import train_here, weights

from eval.run import main as evaluate
from icm.cli import main as icm
from icm.files import write_jsonl
from icm.tasks.drawing import group_id, in_part
from icm.tasks.source import DataSource

HEADER: dict[str, Any] = {
    "type": "icm_metadata",
    "timestamp": "20240115_143022",
    "score": 41.5,
    "iterations": 1000,
    "convergence_info": {"final_temperature": 0.001, "labeled_count": 12},
}


def sums() -> list[dict[str, Any]]:
    """Synthetic claims as codelion/icm writes them, two of a question, with gold in the metadata."""
    rows = []
    for number in range(24):
        for right in (True, False):
            claim = f"{number} + 17 = {number + 17 + (not right)}"
            text = f"Question: What is {number} + 17?\nClaim: {claim}\nI think this Claim is [True/False]"
            rows.append({"input": text, "metadata": {"gold_label": str(right), "task": "math"}})
    return rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data set, which the evaluation halves."""
    write_jsonl(tmp_path / "sums.jsonl", sums())
    return tmp_path / "sums.jsonl"


@pytest.fixture
def labels(data: Path, tmp_path: Path, tiny_model: Path) -> Path:
    """A result file of theirs: 12 claims of the training half, every fourth label wrong."""
    source = DataSource(str(data), holdout=0.5)
    train_half = [row for row in sums() if in_part(group_id(row["input"].partition("\n")[0]), source)][:12]
    rows = []
    for place, row in enumerate(train_half):
        gold = row["metadata"]["gold_label"]
        label = gold if place % 4 else {"True": "False", "False": "True"}[gold]
        rows.append({"type": "icm_example", **row, "label": label})
    header = {**HEADER, "metadata": {"model_name": str(tiny_model), "task_type": "math", "dataset_size": 12}}
    write_jsonl(tmp_path / "theirs.jsonl", [header, *rows])
    return tmp_path / "theirs.jsonl"


def run_evaluation(labels: Path, data: Path, model: Path, conditions: list[dict[str, Any]]) -> int:
    settings = {
        "data": {"dataset": str(data), "holdout": 0.5, "part": "test"},
        "engine": {"model": str(model), "engine": "transformers", "dtype": "float32"},
        "labels": [str(labels)],
        "shots": 2,
        "output_dir": str(labels.parent / "evaluation"),
        "conditions": conditions,
    }
    path = labels.parent / "eval.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return evaluate(["--config", str(path)])


def test_reports_and_exports(labels: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert icm(["analyze", "--result-file", str(labels)]) == 0
    told = capsys.readouterr().out
    assert f"model        {tiny_model}" in told and "does not name its data source" in told
    for form, rows in (("sft", 12), ("dpo", 12), ("csv", 12), ("json", 12)):
        output = labels.with_name(f"export.{form}")
        assert icm(["export", "--input-path", str(labels), "--output-path", str(output), "--format", form]) == 0
        assert f"{rows} rows written" in capsys.readouterr().out
    document = json.loads(labels.with_name("export.json").read_text())
    assert document["metadata"]["convergence_info"] == HEADER["convergence_info"]
    assert document["metadata"]["timestamp"] == HEADER["timestamp"]


@pytest.mark.slow
def test_training_on_the_labels(
    labels: Path, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(labels, tmp_path / "adapter", num_train_epochs=1) == 0
    assert weights(tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert f"| labelling model | {tiny_model.name} |" in card and "| data | not stated in the label file |" in card
    assert train_here(labels, tmp_path / "golden", label_source="gold") == 2
    assert f"error: {labels}: does not say where its examples come from" in capsys.readouterr().err


@pytest.mark.slow
def test_gold_of_a_named_source_trains_the_golden_twin(labels: Path, data: Path, tmp_path: Path) -> None:
    header, *rows = (json.loads(line) for line in labels.read_text().splitlines())
    named = labels.with_name("named.jsonl")
    write_jsonl(named, [header | {"data": {"source": {"dataset": str(data), "holdout": 0.5}}}, *rows])
    assert train_here(named, tmp_path / "golden", label_source="gold", num_train_epochs=1) == 0
    assert "golden twin" in (tmp_path / "golden" / "README.md").read_text()


def test_evaluation_with_gold_of_the_training_half(labels: Path, data: Path, tiny_model: Path) -> None:
    many = [{"name": s, "kind": "many-shot", "labels_from": s} for s in ("labels", "gold", "random", "perturbed")]
    zero_shot = {"name": "zero", "kind": "zero-shot"}
    assert run_evaluation(labels, data, tiny_model, [zero_shot, {"name": "most", "kind": "majority"}, *many]) == 0
    found = json.loads((labels.parent / "evaluation" / "results.json").read_text())["results"]
    assert found["gold"]["demonstration_label_accuracy"] == [1.0]
    assert found["labels"]["demonstration_label_accuracy"] == found["perturbed"]["demonstration_label_accuracy"]


def test_evaluation_on_other_data_refuses_what_needs_gold(
    labels: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = labels.with_name("other.jsonl")
    write_jsonl(other, [row | {"input": row["input"].replace("+ 17", "+ 170")} for row in sums()])
    shown = {"name": "found", "kind": "many-shot", "labels_from": "labels"}
    assert run_evaluation(labels, other, tiny_model, [shown]) == 0
    assert run_evaluation(labels, other, tiny_model, [shown, {**shown, "name": "g", "labels_from": "gold"}]) == 2
    told = capsys.readouterr().err
    assert f"error: {labels}: no gold label for 2 of 2 examples" in told and "Traceback" not in told


def test_labels_of_held_out_questions_are_refused(
    labels: Path, data: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    held_out = DataSource(str(data), holdout=0.5, part="test")
    asked = (row["input"].partition("\n")[0] for row in sums())
    question = next(question for question in asked if in_part(group_id(question), held_out))
    rows[1]["input"] = f"{question}\nClaim: another one\nI think this Claim is [True/False]"
    write_jsonl(labels, rows)
    assert run_evaluation(labels, data, tiny_model, [{"name": "zero", "kind": "zero-shot"}]) == 2
    assert "1 of 12 labelled examples belong to questions that are also in the held-out set" in capsys.readouterr().err
