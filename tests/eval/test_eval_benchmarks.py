"""Tasks of lm-evaluation-harness through the evaluation, offline, against `lm_eval` run by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import save_tiny_llama

from eval.benchmarks.tasks import BenchmarkTasks
from eval.run import main
from eval.settings import BenchmarkConfig
from icm.errors import ConfigError

pytest.importorskip("lm_eval", reason="needs icm[benchmarks]")

ROOT = Path(__file__).parents[2]
TASKS = "tests/support/benchmarks"
ASKED = {"tasks": ["icm_test_capitals", "icm_test_sums"], "include_path": TASKS}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task files name their data from there."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A LoRA adapter that changes what the tiny model says."""
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "lora")


def make_adapter(model: Path, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    settings = LoraConfig(r=8, lora_alpha=64, init_lora_weights=False, target_modules="all-linear")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), settings).save_pretrained(folder)
    return folder


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def conditions(adapter: Path) -> list[dict[str, Any]]:
    tuned = {"name": "Tuned", "kind": "fine-tuned", "labels_from": "labels", "adapters": [str(adapter)]}
    return [{"name": "Base", "kind": "zero-shot"}, tuned]


def by_hand(folder: Path, model: Path, adapter: Path | None) -> dict[str, Any]:
    """What the harness's own command writes."""
    peft = f",peft={adapter}" if adapter else ""
    words = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32{peft}", "--device", "cpu"]
    words += ["--tasks", ",".join(ASKED["tasks"]), "--include_path", TASKS, "--output_path", str(folder)]
    subprocess.run([sys.executable, "-m", "lm_eval", *words, "--log_samples", "--batch_size", "1"], check=True)
    (written,) = folder.glob("*/results_*.json")
    samples = {
        task: [json.loads(line) for path in folder.glob(f"*/samples_{task}_*.jsonl") for line in path.open()]
        for task in ASKED["tasks"]
    }
    return {**json.loads(written.read_text(encoding="utf-8")), "samples": samples}


@pytest.mark.slow
def test_the_numbers_and_samples_of_the_harness_itself(
    settings_file: Callable[..., Path],
    label_file: Callable[..., str],
    tiny_model: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Base and adapter, log-likelihoods and generation; the intervals are paired, and all reports say it."""
    path = settings_file(conditions(adapter), labels=[label_file()], benchmarks=ASKED)
    assert main(["--config", str(path)]) == 0
    out, found = tmp_path / "out", results(tmp_path / "out")
    for name, folder in (("base", None), ("tuned", adapter)):
        theirs = by_hand(tmp_path / name, tiny_model, folder)
        for task in ASKED["tasks"]:
            ours = found["results"][f"{task}-{name}-seed0"]
            assert {key: value for key, value in ours.items() if "," in key} == {
                key: value for key, value in theirs["results"][task].items() if "," in key
            }
            lines = (out / ours["folder"] / f"samples_{task}.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line) for line in lines] == theirs["samples"][task]
    metrics = {(entry["task"], entry["metric"]): entry for entry in found["benchmarks"]}
    assert set(metrics) == {
        ("icm_test_capitals", "acc,none"),
        ("icm_test_capitals", "acc_norm,none"),
        ("icm_test_sums", "exact_match,last-number"),
    }
    capitals = metrics["icm_test_capitals", "acc,none"]
    (pair,) = capitals["comparisons"]
    one, two = (capitals["conditions"][name] for name in ("Base", "Tuned"))
    assert pair["difference"]["value"] == pytest.approx(one["value"] - two["value"])
    assert pair["difference"]["low"] <= pair["difference"]["value"] <= pair["difference"]["high"]
    assert one["low"] < one["value"] < one["high"] and capitals["items"] == 12
    assert metrics["icm_test_sums", "exact_match,last-number"]["n-shot"] == 2
    for text in (capsys.readouterr().out, (out / "results.md").read_text(), (out / "report.html").read_text()):
        assert "icm_test_sums, exact_match (last-number), 10 items, 2 shots" in text
    assert [path.name for path in sorted(out.glob("*.png"))] == [f"figure_{number}.png" for number in range(1, 5)]


def test_each_adapter_is_held_against_its_own_base(
    settings_file: Callable[..., Path], label_file: Callable[..., str], adapter: Path, tmp_path: Path
) -> None:
    """Labels of one model train another: gaps and benchmark differences start at the model that was trained."""
    other = save_tiny_llama(tmp_path / "other", initializer_range=0.3)
    tuned = str(make_adapter(other, tmp_path / "other-lora"))
    both = [
        *conditions(adapter),
        {"name": "Other", "kind": "zero-shot", "model": str(other)},
        *(
            {"name": f"Other {source}", "kind": "fine-tuned", "labels_from": source, "adapters": [tuned]}
            | {"model": str(other)}
            for source in ("labels", "gold")
        ),
    ]
    asked = {**ASKED, "tasks": ["icm_test_capitals"], "limit": 5}
    assert main(["--config", str(settings_file(both, labels=[label_file()], benchmarks=asked))]) == 0
    found = results(tmp_path / "out")
    assert found["gap_recovered"].keys() == {"Other labels"}
    gap = found["gap_recovered"]["Other labels"]
    assert (gap["from"], gap["to"]) == ("Other", "Other gold")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8").partition("acc, 5 items")[2]
    rows = {row.split("|")[1].strip(): row.split("|")[4].strip() for row in text.splitlines() if "|" in row}
    assert rows["Base"] == rows["Other"] == "" and all(rows[name] for name in ("Tuned", "Other labels", "Other gold"))


def test_killed_between_tasks_it_goes_on(settings_file: Callable[..., Path], tiny_model: Path, tmp_path: Path) -> None:
    """What has finished is read, not run again; the end is the same as of a run that nothing stopped."""
    path = settings_file([{"name": "Base", "kind": "zero-shot"}], benchmarks=ASKED)
    command = [sys.executable, "eval/run.py", "--config", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as process:
        for _ in range(2400):
            if done := list((tmp_path / "out" / "benchmarks").glob("*/results.json")):
                break
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    first = {file: file.stat().st_mtime_ns for file in done}
    assert first and not (tmp_path / "out" / "results.json").exists()
    assert main(["--config", str(path)]) == 0
    found = results(tmp_path / "out")
    assert len(found["benchmarks"]) == 3 and all(file.stat().st_mtime_ns == first[file] for file in first)
    again = settings_file([{"name": "Base", "kind": "zero-shot"}], benchmarks=ASKED, output_dir=str(tmp_path / "new"))
    assert main(["--config", str(again)]) == 0
    assert results(tmp_path / "new")["benchmarks"] == found["benchmarks"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"tasks": ["gsm9k"]}, "benchmarks.tasks: no task 'gsm9k'; did you mean gsm8k?"),
        ({"tasks": ["icm_test_sums"], "include_path": "nowhere"}, "benchmarks.include_path: no folder nowhere"),
        ({"tasks": []}, "benchmarks.tasks: found [], expected at least one"),
        ({"tasks": ["icm_test_sums"], "include_path": TASKS, "conditions": ["Majority"]}, "'Majority' is majority"),
        ({**ASKED, "conditions": ["Nobody"]}, "unknown condition 'Nobody'"),
    ],
)
def test_what_cannot_be_asked_is_one_line_before_a_model_loads(
    settings_file: Callable[..., Path],
    label_file: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    asked: dict[str, Any],
    expected: str,
) -> None:
    both = [{"name": "Base", "kind": "zero-shot"}, {"name": "Majority", "kind": "majority"}]
    assert main(["--config", str(settings_file(both, labels=[label_file()], benchmarks=asked))]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert expected in said[-1] and not (tmp_path / "out" / "answers").exists()


def test_data_that_cannot_be_reached_and_code_of_the_model_are_refused(tmp_path: Path) -> None:
    text = (ROOT / TASKS / "icm_test_sums.yaml").read_text(encoding="utf-8")
    (tmp_path / "gone.yaml").write_text(text.replace("sums.jsonl", "gone.jsonl").replace("icm_test_sums", "gone"))
    (tmp_path / "unsafe.yaml").write_text(text.replace("icm_test_sums", "unsafe") + "unsafe_code: true\n")
    for name, expected in (("gone", "its data or a package it needs cannot be had"), ("unsafe", "runs code")):
        with pytest.raises(Exception, match=expected) as raised:
            _ = BenchmarkTasks(BenchmarkConfig((name,), include_path=str(tmp_path))).benchmarks
        assert "\n" not in str(raised.value)


def test_without_the_harness_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.benchmarks.tasks.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"install it with `pip install icm\[benchmarks\]`"):
        _ = BenchmarkTasks(BenchmarkConfig(("gsm8k",))).benchmarks


def test_a_question_of_a_label_file_is_not_asked() -> None:
    from icm.tasks.drawing import group_id

    settings = BenchmarkConfig(("icm_test_sums",), limit=3, include_path=TASKS)
    (whole,) = BenchmarkTasks(settings).benchmarks
    (rest,) = BenchmarkTasks(settings, frozenset([group_id("What is 7 plus 8?")])).benchmarks
    assert whole.kept is None and rest.kept == {"icm_test_sums": [0, 2, 3]} and rest.left_out == 1
    assert whole.identity != rest.identity
    texts = [item["question"] for item in rest.tasks["icm_test_sums"].eval_docs]
    with pytest.raises(ConfigError, match="nothing is held out"):
        _ = BenchmarkTasks(settings, frozenset(map(group_id, texts))).benchmarks


def test_the_word_problems_are_the_held_out_part_of_those_that_are_labelled() -> None:
    from icm.tasks.drawing import group_id, in_part
    from icm.tasks.source import DataSource

    settings = BenchmarkConfig(("word_problems",), include_path="configs/benchmarks/word_problems")
    (benchmark,) = BenchmarkTasks(settings).benchmarks
    task = benchmark.tasks["word_problems"]
    questions = {item["question"] for item in task.eval_docs}
    labelled = DataSource("synthetic:problems", holdout=0.3)
    assert len(questions) == 150 and benchmark.generates
    assert not any(in_part(group_id(question), labelled) for question in questions)
    item = {"question": "?", "answer": "#### 12"}
    for said, right in (("3 * 4 = 12", 1.0), ("The answer is 12 apples of 30.", 1.0), ("12 + 1 = 13", 0.0)):
        assert task.process_results(item, [said]) == {"exact_match": right}
