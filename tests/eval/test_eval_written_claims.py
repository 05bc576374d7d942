"""Questions whose claims a model writes, through all stages: labels, gold twin, evaluation, analysis."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.run import main
from icm.labelling import run
from icm.labelling.settings import resolve_settings
from icm.results.analysis import analyze_file
from icm.results.format import ICMResult, read_result
from icm.results.twins import twin
from icm.tasks import load_task
from train.check import check_overlap

CONDITIONS: list[dict[str, Any]] = [
    {"name": "Zero-shot Base", "kind": "zero-shot"},
    {"name": "Majority", "kind": "majority"},
    {"name": "Golden", "kind": "many-shot", "labels_from": "gold"},
    {"name": "ICM", "kind": "many-shot", "labels_from": "labels"},
]


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {i} plus {i}?", "answer": f"#### {2 * i}"} for i in range(12)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {"dataset": str(path), "task_type": "gsm8k", "holdout": 0.4}


@pytest.fixture
def label(tmp_path: Path, tiny_model: Path, data: dict[str, Any]) -> Callable[[], Path]:
    """Labels the data with the tiny model, at random: the claims are what matters."""
    given = {
        **data,
        "model": str(tiny_model),
        "engine": "transformers",
        "dtype": "float32",
        "algorithm": "random",
        "generation_max_tokens": 6,
        "generation_temperature": 1.0,
        "output_dir": str(tmp_path / "labels"),
        "output_name": "sums",
    }
    return lambda: run.label(resolve_settings(given, environ={}))


def killed(*_: object) -> ICMResult:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_kill_between_writing_and_labelling_loses_no_claim(
    tmp_path: Path, label: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(run, "run_labeling", killed)
        with pytest.raises(KeyboardInterrupt):
            label()
    kept = {path: path.read_bytes() for path in (tmp_path / "labels/generated").iterdir()}
    assert {path.suffix for path in kept} == {".json", ".jsonl"}
    result = read_result(label())
    assert result.record.usage["generated_tokens"] == 0
    assert {path: path.read_bytes() for path in (tmp_path / "labels/generated").iterdir()} == kept


@pytest.mark.slow
def test_written_claims_go_all_the_way(
    tmp_path: Path, tiny_model: Path, data: dict[str, Any], label: Callable[[], Path]
) -> None:
    labels = label()
    result = read_result(labels)
    source = result.record.data.source
    assert source is not None and source.claims is not None and Path(source.claims).is_file()
    assert load_task(source).dataset.fingerprint == result.record.data.fingerprint
    gold = twin(result, "gold", 0)
    assert [item.example.id for item in gold.labeled_examples] == [item.example.id for item in result.labeled_examples]
    assert check_overlap(result, str(labels), None).questions == 12 - len({i.group for i in result.dataset})
    found = analyze_file(labels).accuracy
    assert found is not None and found.total == len(result.labeled_examples)

    settings: dict[str, Any] = {
        "data": {**data, "part": "test"},
        "engine": {"model": str(tiny_model), "engine": "transformers", "dtype": "float32"},
        "generation": {"generation_max_tokens": 6, "generation_temperature": 1.0},
        "labels": [str(labels)],
        "shots": 4,
        "output_dir": str(tmp_path / "out"),
        "conditions": CONDITIONS,
    }
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["--config", str(path)]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["results"]) == {"zero-shot-base", "majority", "golden", "icm"}
    kept = Path(results["config"]["data"]["claims"])
    assert kept.parent == tmp_path / "out/generated" and len(kept.read_text().splitlines()) == 12 - len(
        {item.group for item in result.dataset}
    )
    # A second evaluation reads what the first one wrote, whether it is named or in the same folder.
    (tmp_path / "out/results.json").unlink()
    path.write_text(yaml.safe_dump({**settings, "data": {**settings["data"], "claims": str(kept)}}))
    assert main(["--config", str(path), "--output_dir", str(tmp_path / "named")]) == 0
    assert not (tmp_path / "named/generated").exists()
    assert json.loads((tmp_path / "named/results.json").read_text())["task_hashes"] == results["task_hashes"]


@pytest.mark.slow
def test_what_is_wrong_is_told_before_a_model_writes(
    tmp_path: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = {
        "name": "Tuned",
        "kind": "fine-tuned",
        "labels_from": "labels",
        "adapters": ["no"],
        "files": ["no.jsonl"],
    }
    settings = {"data": {**data, "part": "test"}, "output_dir": str(tmp_path / "out"), "conditions": [adapter]}
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["--config", str(path)]) == 2
    assert "no.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
