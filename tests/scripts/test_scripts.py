"""The measuring scripts print what they promise, and the cost of scoring stays within its bounds."""

import json
import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script with arguments in this process, where torch is loaded already; returns what it prints."""

    def run_script(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def measured(run: Run, *arguments: object) -> dict[str, Any]:
    return json.loads(run("benchmark.py", *arguments, "--json"))


def test_cost_of_a_sweep(run: Run) -> None:
    small, large = (measured(run, "scoring", "--examples", count) for count in (64, 128))
    for found in (small, large):
        count, length = found["examples"], found["mean_demonstration_tokens"]
        assert found["computed_tokens"] <= 1.15 * count * (math.log2(count) + 1) * length
    assert large["computed_tokens"] <= 2.5 * small["computed_tokens"]
    natural, plain = (measured(run, "scoring", "--examples", 64, "--order", order) for order in ("natural", "plain"))
    assert small["computed_tokens"] < natural["computed_tokens"] / 4 < plain["computed_tokens"] / 7
    assert plain["computed_tokens"] == plain["prompt_tokens"]


def test_cost_of_many_results(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    found = json.loads(run("benchmark_scale.py", "analysis", "--results", 3, "--examples", 8, "--json"))
    assert found["step"] == "icm analyze" and found["count"] == 3 and found["peak_mib"] > 0


def test_cost_of_growth(run: Run) -> None:
    found = measured(run, "growth", "--from", 8, "--to", 96)
    steps = sum(range(9, 97)) * found["mean_demonstration_tokens"]  # one demonstration a leaf and step
    assert 2 * steps <= found["computed_tokens"] <= 2.6 * steps


def test_cost_of_answers(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "mc_task.json"
    answers = {"It is a fruit": 1, "It is a stone": 0}
    file.write_text(json.dumps([{"question": "What is a fig?", "mc1_targets": answers, "mc2_targets": answers}]))
    found = measured(run, "multiple-choice", "--questions", file, "--model", tiny_model)
    assert (found["questions"], found["answers"], found["prompts"]) == (1, 2, 4)
    assert 0 < found["computed_tokens"] < found["prompt_tokens"] and found["mc1"] in (0, 1) and 0 < found["mc2"] < 1


def test_quality_table_is_made_once(
    run: Run, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "quality"
    words: list[object] = ["--models", tiny_model, "--engine", "transformers", "--seeds", 0]
    words += ["--examples", 6, "--test-examples", 6, "--iterations", 4]
    labelers = ["random", "bootstrap", "icm", "golden"]
    first = run("quality_table.py", *words, "--output", folder, "--labelers", *labelers)
    (cell,) = folder.glob("*/reviews/*")
    figures = json.loads((cell / "results.json").read_text())["results"]
    made = {path: path.stat().st_mtime_ns for path in cell.rglob("*") if path.is_file()}
    again = run("quality_table.py", *words, "--output", folder, "--labelers", *labelers)
    assert {path: path.stat().st_mtime_ns for path in cell.rglob("*") if path.is_file()} == made
    lines = again.splitlines()
    assert lines == first.splitlines()[-len(lines) :]
    found = [line.split(" | ") for line in lines[2:6]]
    assert [cells[4] for cells in found] == labelers and list(figures) == labelers
    assert [cells[7] for cells in found] == [f"{figures[name]['acc,none']:.3f}" for name in labelers]
    assert [cells[9] for cells in found] == [f"{figures[name]['acc,batch']:.3f}" for name in labelers]
    assert found[3][6] == "1.000"
    assert int(found[2][13].replace(",", "")) > 0 and float(found[2][14].strip(" |")) < 1

    # The next script trains on these label files: on all of a golden twin, and on as many of each of its labels.
    monkeypatch.syspath_prepend(SCRIPTS)
    words[0], targets = "--model", ["all", "surest half", "soft"]
    lines = run(
        "training_targets.py", *words, "--output", folder, "--labelers", "icm", "--targets", *targets
    ).splitlines()
    found = [line.strip("| ").split(" | ") for line in lines[2:8]]
    assert [cells[1:3] for cells in found] == [
        [f"icm {whose}", name] for whose in ("labels", "gold") for name in targets
    ]
    assert all(0 <= float(cells[place]) <= 1 for cells in found for place in (4, 5, 6))
    assert float(found[3][6]) > 0.5, "what was trained on true labels of six examples knows most of them"


def test_quality_table_pairs_icm_with_the_other_labelers() -> None:
    script = runpy.run_path(str(SCRIPTS / "quality_table.py"))
    accuracy = {"random": 0.5, "zero-shot": 0.7, "bootstrap": 0.8, "icm": 0.86, "golden": 0.9}

    def row(seed: int, labeler: str) -> Any:
        # ICM is 0.05 and 0.07 better than bootstrap: mean 0.06, standard error 0.01, t(1) = 12.71.
        right = accuracy[labeler] + (0.02 * seed - 0.01) * (labeler == "icm")
        return script["Row"]("reviews", "m", seed, labeler, 64, 96, right, right, right, 10, 100)

    rows = [row(seed, labeler) for seed in (0, 1) for labeler in accuracy]
    lines = script["comparison"](rows).splitlines()
    assert lines[0].startswith("| 2 cells |")
    assert "| icm | 0.860 | 0.860 | 90% | 0.860 | 90% |  |  | 10 | 0.100 |" in lines
    assert any(line.startswith("| icm − bootstrap | +0.060 [-0.067, +0.187] |") for line in lines)
