"""Iterative labelling: what each round learns and labels, the one file at the end, what a second start does."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_runs import ROOT, TINY

from icm.cli import main as icm
from icm.cli import make_parser
from icm.commands.parser import canonical_arguments, given_settings
from icm.errors import ConfigError, ResumeError
from icm.files import parse_json, write_jsonl
from icm.labelling.settings import resolve_settings
from icm.pipeline.checks import check_later_stages
from icm.pipeline.experiment import PipelineConfig, read_experiment
from icm.pipeline.forecast import plan_pipeline
from icm.pipeline.iteration import main as merge_command
from icm.pipeline.manifest import StageRecord, digests, flat, write_manifest
from icm.pipeline.run import run_pipeline
from icm.pipeline.stages import Stage, make_stages
from icm.results.format import LabeledExample, example_row, read_result, trace_path
from icm.tasks import load_task
from icm.tasks.source import DataSource
from train.iterate import experiment
from train.iterate import main as door

RECIPE = {"recipe": "configs/train/demo_sft.yaml", "accelerate": "configs/accelerate/cpu.yaml"}


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def write(folder: Path, reviews: Path, **changes: Any) -> Path:
    content = {
        "output_dir": str(folder / "out"),
        "data": {"dataset": str(reviews), "holdout": 0.25, "max_examples": 40},
        "model": {"model": "embedded", "engine": "transformers"},
        "label": {"seeds": [5], "rounds": 3},
        "train": RECIPE,
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def source_of(stage: Stage) -> DataSource:
    """What the `icm run` command of a stage labels."""
    arguments = make_parser()[0].parse_args(canonical_arguments(stage.command[3:]))
    return resolve_settings(given_settings(arguments), environ={}).data


def label_by_hand(path: Path, source: DataSource, wrong: int = 4) -> None:
    """Write labels as if a model had found them; every `wrong`-th is false."""
    data = load_task(source)
    space, items = data.dataset.label_space, []
    for place, example in enumerate(data.dataset):
        gold = data.gold[example.id]
        other = next(label for label in space.labels if label != gold)
        items.append(LabeledExample(example, other if place % wrong == 0 else gold, 1.0))
    header = {
        "type": "icm_metadata",
        "task": data.dataset.task,
        "label_space": {"labels": space.labels, "verbalisers": space.verbalisers},
        "data": {"source": asdict(source)},
    }
    write_jsonl(path, [header, *map(example_row, items)])


def ids(path: str | Path) -> list[str]:
    return [item.example.id for item in read_result(path).labeled_examples]


def run_by_hand(stages: Sequence[Stage]) -> None:
    """Label by hand, merge by the real command, and check what each model would learn before it labels."""
    learnt: set[str] = set()
    for stage in stages:
        kind = stage.name.split()[0]
        if kind == "train":
            learnt = set(ids(stage.command[stage.command.index("--labels") + 1]))
        elif "icm.pipeline.iteration" in stage.command:
            assert merge_command(stage.command[3:]) == 0
        else:
            label_by_hand(stage.outputs[0], source_of(stage))
            assert not learnt & set(ids(stage.outputs[0]))


@pytest.mark.parametrize(
    ("scheme", "sizes"), [("grow", {"round2": 14, "round3": 27}), ("kfold", {"fold1": 26, "fold2": 27, "fold3": 27})]
)
def test_a_round_never_learns_what_it_labels_and_all_labels_are_merged_once(
    tmp_path: Path, reviews: Path, scheme: str, sizes: dict[str, int]
) -> None:
    config = read_experiment(
        write(
            tmp_path,
            reviews,
            label={"seeds": [5], "rounds": 3, "scheme": scheme, "algorithms": ["bootstrap"]},
            train={**RECIPE, "algorithms": ["bootstrap"], "label_sources": ["gold"]},
        )
    )
    *stages, twin = make_stages(config)
    run_by_hand(stages)
    folder, merged = config.output_dir / "rounds", config.output_dir / "labels/bootstrap_seed5.jsonl"
    assert {name: len(ids(folder / f"bootstrap_seed5_{name}_training.jsonl")) for name in sizes} == sizes
    whole = load_task(config.settings("bootstrap", 5).data)
    assert ids(merged) == [example.id for example in whole.dataset]
    assert read_result(merged).record.data.source == config.settings("bootstrap", 5).data
    right = [item.label == whole.gold[item.example.id] for item in read_result(merged).labeled_examples]
    assert right.count(False) == 12  # 4 of each part's 13 or 14
    assert twin.name == "train bootstrap_seed5_gold" and twin.inputs[0] == merged


def test_rounds_are_the_documented_stages(tmp_path: Path, reviews: Path, tiny_model: Path) -> None:
    label = {"seeds": [5], "rounds": 2, "algorithms": ["icm", "random"]}
    model = {"model": str(tiny_model), "engine": "transformers", "dtype": "float32"}  # the plan measures its speed
    config = read_experiment(write(tmp_path, reviews, label=label, model=model))
    stages = make_stages(config)
    assert [stage.name for stage in stages] == [
        "label icm_seed5_round1",
        "merge icm_seed5_round2_training",
        "train icm_seed5_round2_adapter",
        "label icm_seed5_round2",
        "label icm_seed5",
        "label random_seed5",
        "train icm_seed5_labels",
        "train icm_seed5_gold",
    ]
    adapter = config.output_dir / "rounds/icm_seed5_round2_adapter"
    assert stages[3].command[stages[3].command.index("--adapter") + 1] == str(adapter)
    assert stages[3].inputs == (reviews, tiny_model, adapter, adapter / "train_results.json")
    assert [source_of(stage).slice for stage in (stages[0], stages[3])] == ["1/2", "2/2"]
    # A round's model keeps clear of the evaluation's questions like every other.
    assert '"part": "test"' in stages[2].command[stages[2].command.index("--eval_source") + 1]
    assert "in 2 rounds (grow)" in plan_pipeline(config)


def test_self_training_asks_all_of_a_model_that_has_learnt_the_labels_before(tmp_path: Path, reviews: Path) -> None:
    label = {"seeds": [5], "rounds": 3, "scheme": "self-training", "algorithms": ["bootstrap"]}
    train = {**RECIPE, "algorithms": ["bootstrap"], "label_sources": ["gold"]}
    *stages, _ = make_stages(read_experiment(write(tmp_path, reviews, label=label, train=train)))
    assert [stage.name.split()[0] for stage in stages] == ["label", *["merge", "train", "label"] * 2, "label"]
    asked = [stage for stage in stages if stage.trace is not None]
    values = [stage.command[stage.command.index("--algorithm") + 1] for stage in asked]
    assert values == ["bootstrap", "zero-shot", "zero-shot"]
    assert ["--adapter" in stage.command for stage in asked] == [False, True, True]
    for number, stage in enumerate(stages):
        if stage in asked:
            label_by_hand(stage.outputs[0], source_of(stage), wrong=number + 2)
        elif "icm.pipeline.iteration" in stage.command:
            assert merge_command(stage.command[3:]) == 0
    first, second, third = (read_result(stage.outputs[0]).labels for stage in asked)
    assert read_result(stages[1].outputs[0]).labels == first and read_result(stages[4].outputs[0]).labels == second
    assert read_result(stages[-1].outputs[0]).labels == third != second and len(third) == len(ids(asked[0].outputs[0]))


@pytest.mark.parametrize("ask", [plan_pipeline, run_pipeline])
def test_rounds_do_not_write_claims_of_their_own(tmp_path: Path, ask: Callable[[PipelineConfig], object]) -> None:
    questions = tmp_path / "questions.jsonl"
    write_jsonl(questions, [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}"} for n in range(20)])
    label = {"rounds": 2, "scheme": "self-training"}
    path = write(tmp_path, questions, label=label, data={"dataset": str(questions), "holdout": 0.25})
    with pytest.raises(ConfigError, match=r"label\.rounds: a model writes the claims of .*; write them once"):
        ask(read_experiment(path))


def test_another_number_of_rounds_is_refused(tmp_path: Path, reviews: Path) -> None:
    finished = make_stages(read_experiment(write(tmp_path, reviews, label={"seeds": [5]})))[0]
    run_by_hand([finished])
    record = StageRecord(flat(finished.settings), {}, {str(finished.outputs[0]): "-"})
    write_manifest(tmp_path / "out", {finished.name: record})
    with pytest.raises(ResumeError, match="'label icm_seed5' was made differently"):
        run_pipeline(read_experiment(write(tmp_path, reviews)))
    first = make_stages(read_experiment(write(tmp_path, reviews)))[0]
    write_manifest(tmp_path / "out", {first.name: StageRecord(flat(first.settings), {}, {})})
    with pytest.raises(ResumeError, match=r"round1' was made differently: data\.slice was '1/3', is '1/4'"):
        run_pipeline(read_experiment(write(tmp_path, reviews, label={"seeds": [5], "rounds": 4})))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"label": {"rounds": 0}}, r"label\.rounds: found 0, expected 1 to 10,000"),
        ({"label": {"scheme": "kfold"}}, r"label\.scheme: found kfold, but one round"),
        ({"label": {"scheme": "self-training"}}, r"label\.scheme: found self-training, but one round"),
        ({"label": {"rounds": 2, "scheme": "tree"}}, r"label\.scheme: found 'tree'"),
        ({"train": None}, r"label\.rounds: .* section train"),
        ({"data": {"slice": "1/2"}}, r"data\.slice: not set here; give label\.rounds"),
        ({"train": {**RECIPE, "overrides": {"use_peft": False}}}, r"label\.rounds: .* trains no adapter"),
    ],
)
def test_mistakes(tmp_path: Path, reviews: Path, changes: dict[str, Any], expected: str) -> None:
    path = write(tmp_path, reviews, **changes)
    with pytest.raises(ConfigError, match=expected):
        check_later_stages(config := read_experiment(path), make_stages(config))


def test_files_that_cannot_be_merged(tmp_path: Path, reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = DataSource(str(reviews), max_examples=12, slice="1/2")
    label_by_hand(tmp_path / "one.jsonl", source)
    label_by_hand(tmp_path / "other.jsonl", DataSource(str(reviews), max_examples=20, slice="2/2"))
    one, other, output = (str(tmp_path / name) for name in ("one.jsonl", "other.jsonl", "merged.jsonl"))
    for words, message in [
        ([one, other], "labels other data than"),
        ([one, one], "is in an earlier file too"),
        ([one, "--without", "1/2"], "hold no other example"),
        ([one, "--without", "3/2"], "slice: found '3/2', expected J/N"),
    ]:
        assert merge_command([*words, "--output", output]) == 2
        assert message in capsys.readouterr().err and not Path(output).exists()


def test_the_door_describes_an_experiment(tmp_path: Path, reviews: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.yaml"
    data = {"dataset": str(reviews), "holdout": 0.25}
    content = {"data_params": data, "search_params": {"algorithm": "bootstrap"}, "system_params": {"seed": 3}}
    settings.write_text(yaml.safe_dump(content))
    recipes = Path(RECIPE["recipe"]), Path(RECIPE["accelerate"])
    config = experiment(settings, *recipes, tmp_path / "out", 4, "kfold")
    check_later_stages(config, make_stages(config))
    assert config.settings("bootstrap", 3).data == DataSource(str(reviews), holdout=0.25, seed=3)
    names = [stage.name for stage in make_stages(config)]
    assert names[0] == "label bootstrap_seed3_base"
    assert names[-4:] == ["label bootstrap_seed3", "train bootstrap_seed3_labels", "train bootstrap_seed3_gold", "eval"]
    settings.write_text(yaml.safe_dump({"data_params": {"dataset": str(reviews)}}))
    *_, twin = make_stages(experiment(settings, *recipes, tmp_path / "out", 2, "grow"))
    assert twin.name == "train icm_seed42_gold" and "--eval_source" not in twin.command
    words = ["--settings", settings, "--train_config", recipes[0], "--output_dir", tmp_path / "out", "--rounds", "1"]
    assert door(list(map(str, words))) == 2
    assert "--rounds: found 1" in capsys.readouterr().err


@pytest.mark.slow
def test_two_rounds_from_records_to_figure_with_a_kill_in_between_and_no_repetition(
    tmp_path: Path, reviews: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums come in the same order, whatever runs beside
    overrides = {name: value for name, value in TINY.items() if name != "config"} | {"bf16": False, "max_steps": 3}
    path = write(
        tmp_path,
        reviews,
        data={"dataset": str(reviews), "holdout": 0.25, "max_examples": 24},
        model={"model": str(tiny_model), "engine": "transformers", "dtype": "float32"},
        search={"max_iterations": 6},
        label={"seeds": [5], "rounds": 2, "algorithms": ["icm", "random"]},
        train={**RECIPE, "recipe": TINY["config"], "overrides": overrides},
        eval={
            "data": {"max_examples": 12},
            "shots": 4,
            "conditions": [
                {"name": "Shown", "kind": "many-shot", "labels_from": "labels"},
                {"name": "Tuned", "kind": "fine-tuned", "labels_from": "labels"},
                {"name": "Twin", "kind": "fine-tuned", "labels_from": "gold"},
            ],
        },
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "icm", "pipeline", "--jobs", "2", "--config", str(path)]
    started = subprocess.Popen(command, start_new_session=True)
    while not (out / "rounds/icm_seed5_round2_adapter/run.json").exists():
        assert started.poll() is None
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    first = (out / "rounds/icm_seed5_round1.jsonl").read_bytes()
    config = read_experiment(path)
    assert icm(command[3:]) == 0
    assert (out / "rounds/icm_seed5_round1.jsonl").read_bytes() == first
    whole = load_task(config.settings("icm", 5).data).dataset
    assert ids(out / "labels/icm_seed5.jsonl") == [example.id for example in whole]
    second = parse_json((out / "rounds/icm_seed5_round2.jsonl").read_text().splitlines()[0], "round 2")
    assert second["model"]["adapter"] == str(out / "rounds/icm_seed5_round2_adapter")
    results = parse_json((out / "results.json").read_text(), "results.json")
    assert {"shown", "tuned", "twin"} == set(results["results"]) and (out / "figure_1.png").is_file()
    assert (out / "rounds/icm_seed5_round2.trace.jsonl").is_file() and (out / "eval.yaml").is_file()
    assert (out / "adapters/icm_seed5_labels/adapter_model.safetensors").is_file()
    # What has run beside others, made again alone, is the same; and so all that reads it stands.
    labels, twin, made = out / "labels/random_seed5.jsonl", out / "adapters/icm_seed5_gold", written(out)
    before, rows = digests([labels, twin / "train_results.json"]), labels.read_bytes().splitlines()[1:]
    labels.unlink()
    trace_path(labels).unlink()
    shutil.rmtree(twin)
    assert icm([*command[3:], "--jobs", "1"]) == 0
    assert digests([labels, twin / "train_results.json"]) == before and labels.read_bytes().splitlines()[1:] == rows
    remade = {path for path, changed in written(out).items() if changed != made[path]}
    assert remade <= {labels, trace_path(labels), *twin.rglob("*")} and len(remade) > 2


def written(folder: Path) -> dict[Path, int]:
    """When the files were written; that of the pipeline is written anew."""
    files = (path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".safetensors"))
    return {path: path.stat().st_mtime_ns for path in files if path.name != "pipeline.json"}
