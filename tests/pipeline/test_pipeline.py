"""Experiment files are strict, stages are the documented commands, and plans say what they take."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from icm.cli import make_parser
from icm.commands.parser import canonical_arguments, given_settings
from icm.errors import ConfigError, DataError
from icm.labelling.settings import resolve_settings
from icm.pipeline.checks import check_gold, check_later_stages, held_out_writing
from icm.pipeline.evaluation import eval_settings
from icm.pipeline.experiment import PipelineConfig, read_experiment
from icm.pipeline.forecast import plan_pipeline
from icm.pipeline.iteration import rounds_of
from icm.pipeline.run import run_pipeline
from icm.pipeline.stages import Stage, make_stages, train_words
from icm.results.origin import same_data
from icm.tasks import DataSource, load_task
from icm.tasks.written import stand_ins
from train.arguments import batch_split, read_settings

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "configs/experiments").glob("*.yaml"))

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"dataset": "reviews", "max_examples": 8},
    "model": {"model": "embedded", "engine": "transformers"},
    "search": {"max_iterations": 3, "initial_examples": 4},
    "label": {"algorithms": ["icm"], "seeds": [5]},
    "train": {
        "recipe": "configs/train/demo_sft.yaml",
        "accelerate": "configs/accelerate/cpu.yaml",
        "label_sources": ["labels"],
        "overrides": {"max_steps": 1},
    },
    "eval": {
        "data": {"max_examples": 8},
        "shots": 4,
        "conditions": [
            {"name": "Many-shot ICM", "kind": "many-shot", "labels_from": "file"},
            {"name": "Fine-tuned ICM", "kind": "fine-tuned", "labels_from": "file"},
        ],
    },
}


MANY_SHOT = SMALL["eval"]["conditions"][:1]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in experiment files are relative to the repository."""
    monkeypatch.chdir(ROOT)


def write(folder: Path, *changes: tuple[str, Any]) -> Path:
    """The small experiment with settings replaced: ("search.alpha", 3), or removed: ("train", None)."""
    content = yaml.safe_load(yaml.safe_dump({**SMALL, "output_dir": str(folder / "out")}))
    for name, value in changes:
        *sections, last = name.split(".")
        place = content
        for section in sections:
            place = place[section]
        if value is None:
            del place[last]
        else:
            place[last] = value
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sarch", {}, ["unknown key 'sarch'", "did you mean search?"]),
        ("data.max_exampels", 8, ["data: unknown key 'max_exampels'", "did you mean max_examples?"]),
        ("data.part", "test", ["data.part", "the stages choose it"]),
        ("search.seed", 3, ["search.seed", "label.seeds"]),
        ("search.alpha", "high", ["search.alpha: found 'high'", "number"]),
        ("search.alpha", -1.0, ["alpha: found -1.0", "above 0"]),
        ("search", [1], ["search: found [1]", "mapping"]),
        ("label.algorithms", ["icm", "simulated"], ["label.algorithms[1]: found 'simulated'"]),
        ("label.seeds", [1, 1], ["label.seeds: found [1, 1]", "distinct"]),
        ("label.seeds", [], ["label.seeds: found []", "at least one"]),
        ("label.preset", "codelyon", ["codelyon", "codelion"]),
        ("train.recipe", None, ["train.recipe", "required"]),
        ("train.recipe", "configs/train/no.yaml", ["train.recipe: no file configs/train/no.yaml"]),
        ("train.algorithms", ["bootstrap"], ["train.algorithms: bootstrap is not one of label.algorithms"]),
        ("train.overide", {}, ["train: unknown key 'overide'", "did you mean overrides?"]),
        ("eval.data.holdot", 0.1, ["eval.data: unknown key 'holdot'", "did you mean holdout?"]),
        ("eval.conditions", [], ["eval.conditions: found []"]),
        ("eval.conditions", ["many-shot"], ["eval.conditions[0]: found 'many-shot'", "mapping"]),
    ],
)
def test_mistakes_are_one_line_that_names_file_and_key(
    tmp_path: Path, name: str, value: Any, expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        read_experiment(write(tmp_path, (name, value)))
    assert all(part in str(error.value) for part in expected), error.value
    assert "\n" not in str(error.value)


def test_sections_have_the_parts_names_and_the_older_ones_say_the_same(tmp_path: Path) -> None:
    older = read_experiment(write(tmp_path))
    sections = [("engine", SMALL["model"]), ("model", None), ("output", {"output_dir": older.output_dir.as_posix()})]
    path = write(tmp_path, *sections, ("output_dir", None))
    assert replace(read_experiment(path), path=older.path) == older
    assert older.given["model"] == "embedded" and "output_dir" not in older.given
    with pytest.raises(ConfigError, match=r"output_dir: found 'a', but output\.output_dir is 'b'"):
        read_experiment(write(tmp_path, ("output_dir", "a"), ("output", {"output_dir": "b"})))
    with pytest.raises(ConfigError, match=r"output\.output_name: not set here; the stages choose it"):
        read_experiment(write(tmp_path, ("output", {"output_name": "b"})))


def test_a_changed_base_of_a_recipe_is_a_changed_input(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"extends: {ROOT / 'configs/train/demo_sft.yaml'}\nseed: 3\n", encoding="utf-8")
    stages = make_stages(read_experiment(write(tmp_path, ("train.recipe", str(recipe)))))
    (inputs,) = [stage.inputs for stage in stages if stage.name.startswith("train ")]
    assert {"recipe.yaml", "demo_sft.yaml"} <= {path.name for path in inputs}


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"a: [", "not valid YAML"), (b"- a\n", "expected a mapping"), (b"\xff\xfe\xff", "UTF-8"), (b"", "found None")],
)
def test_files_that_hold_no_experiment(tmp_path: Path, text: bytes, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=expected) as error:
        read_experiment(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        read_experiment(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("eval.shotz", 4)], ["eval", "unknown key 'shotz'", "shots"]),
        ([("eval.shots", 0)], ["shots"]),
        (
            [("data.template", "A: {text}"), ("eval.data", {"template": "B: {text}"})],
            ["eval.data.template: found 'B: {text}', but data.template is 'A: {text}'"],
        ),
        ([("train", None)], ["'Fine-tuned ICM'", "no adapter is trained"]),
        ([("train.label_sources", ["gold"])], ["'Fine-tuned ICM'", "no adapter is trained"]),
    ],
)
def test_what_the_evaluation_refuses_is_refused_before_labelling(
    tmp_path: Path, changes: list[tuple[str, Any]], expected: list[str]
) -> None:
    config = read_experiment(write(tmp_path, *changes))
    with pytest.raises(ConfigError) as error:
        run_pipeline(config)
    assert all(part in str(error.value) for part in expected), error.value
    assert not config.output_dir.exists()


@pytest.mark.parametrize("ask", [plan_pipeline, run_pipeline])
def test_data_without_a_test_part_are_refused_with_the_key_that_makes_one(
    tmp_path: Path, ask: Callable[[PipelineConfig], object]
) -> None:
    data = tmp_path / "notes.csv"
    data.write_text("text,label\n" + "".join(f"note {n},{'ab'[n % 2]}\n" for n in range(12)))
    path = write(tmp_path, ("data", {"dataset": str(data)}), ("train", None), ("eval.conditions", MANY_SHOT))
    config = read_experiment(path)
    with pytest.raises(ConfigError, match=r"experiment\.yaml: the held-out data of eval: split: found ") as error:
        ask(config)
    assert "here data.holdout, or eval.data.split" in str(error.value) and not config.output_dir.exists()
    held_out_writing(read_experiment(write(tmp_path, ("data", {"dataset": str(data), "holdout": 0.4}))))


@pytest.mark.parametrize("ask", [plan_pipeline, run_pipeline])
@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            ["labels", "gold"],
            "yaml: train.label_sources; eval.conditions, 'Golden': 12 of 12 examples of .* have no true",
        ),
        (["labels"], "yaml: eval.conditions, 'Golden': 12 of 12 examples of .* no true label; leave true labels out"),
    ],
)
def test_true_labels_that_are_not_there_are_missed_before_labelling(
    tmp_path: Path, sources: list[str], expected: str, ask: Callable[[PipelineConfig], object]
) -> None:
    data, golden = tmp_path / "notes.csv", {"name": "Golden", "kind": "many-shot", "labels_from": "gold"}
    held_out = tmp_path / "held.csv"
    data.write_text("text\n" + "".join(f"note {n}\n" for n in range(12)))
    held_out.write_text("text,label\n" + "".join(f"page {n},{'ab'[n % 2]}\n" for n in range(12)))
    config = read_experiment(
        write(
            tmp_path,
            ("data", {"dataset": str(data), "task_type": "classification", "verbalisers": {"a": " a", "b": " b"}}),
            ("eval.data", {"dataset": str(held_out)}),
            ("eval.conditions", [*SMALL["eval"]["conditions"], golden]),
            ("train.label_sources", sources),
        )
    )
    with pytest.raises(ConfigError, match=expected):
        ask(config)
    assert not config.output_dir.exists()


@pytest.mark.parametrize("ask", [plan_pipeline, run_pipeline])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            "body,text\n" + "".join(f"page {n},x\n" for n in range(8)),
            "held-out data of eval: .*no item has a gold label",
        ),
        ("text,label\npage 1,c\npage 2,d\n", r"eval: .*unknown labels .*\(eval\.data\.label_map 'c=NAME'"),
        ("text,label\nnote 3,b\npage 1,a\npage 2,b\n", "held-out data of eval: .*1 of .* labelled examples belong"),
    ],
)
def test_held_out_files_that_cannot_be_evaluated_are_refused_before_labelling(
    tmp_path: Path, rows: str, expected: str, ask: Callable[[PipelineConfig], object]
) -> None:
    data, held_out = tmp_path / "notes.csv", tmp_path / "held.csv"
    data.write_text("body,text,label\n" + "".join(f"note {n},title,{'ab'[n % 2]}\n" for n in range(12)))
    held_out.write_text(rows)
    source = {"dataset": str(data), "task_type": "classification", "verbalisers": {"a": " a", "b": " b"}}
    source |= {"template": "{text}", "text_field": "body"}
    changes = [("data", source), ("eval.data", {"dataset": str(held_out)}), ("eval.conditions", MANY_SHOT)]
    with pytest.raises(DataError, match=expected):
        ask(read_experiment(write(tmp_path, *changes, ("train", None))))


def test_another_held_out_file_is_taken_whole_whatever_the_holdout(tmp_path: Path) -> None:
    data, held_out = tmp_path / "notes.csv", tmp_path / "held.csv"
    data.write_text("body,label\n" + "".join(f"note {n},{'ab'[n % 2]}\n" for n in range(24)))
    held_out.write_text("text,label\n" + "".join(f"page {n},{'ab'[n % 2]}\n" for n in range(9)))
    source = {"dataset": str(data), "holdout": 0.4, "template": "{text}", "text_field": "body"}
    changes = [("data", source), ("eval.data", {"dataset": str(held_out)}), ("eval.conditions", MANY_SHOT)]
    asked = eval_settings(read_experiment(write(tmp_path, *changes, ("train", None))))["data"]
    assert len(load_task(DataSource(**asked)).dataset) == 9 and asked["template"] == "{text}"


def test_the_labelled_file_spelt_otherwise_keeps_its_holdout_and_files_are_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data, held_out = tmp_path / "notes.csv", tmp_path / "held.csv"
    for file in (data, held_out):
        file.write_text("text,label\n" + "".join(f"{file.stem} {n},{'ab'[n % 2]}\n" for n in range(24)))
    source = {"dataset": "~/notes.csv", "holdout": 0.4, "template": "{text}"}
    for name, holdout in ((f"{tmp_path}/./notes.csv", 0.4), (str(held_out), 0.0)):
        changes = [("data", source), ("eval.data", {"dataset": name}), ("eval.conditions", MANY_SHOT), ("train", None)]
        config = read_experiment(write(tmp_path, *changes))
        assert eval_settings(config)["data"]["holdout"] == holdout
        label, *_, evaluation = make_stages(config)
        assert data in label.inputs and Path(name) in evaluation.inputs


@pytest.mark.parametrize(("name", "same"), [("org/data", True), ("other/data", False), ("data", False)])
def test_names_of_the_hub_are_compared_whole(name: str, same: bool) -> None:
    assert same_data(name, "org/data") == same


def test_where_some_true_labels_are_missing_it_is_said_before_labelling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "notes.csv"
    data.write_text("text,label\n" + "".join(f"note {n},{'ab'[n % 2] if n > 1 else ''}\n" for n in range(12)))
    changes = [("data", {"dataset": str(data)}), ("eval", None), ("train.label_sources", ["labels", "perturbed"])]
    check_gold(read_experiment(write(tmp_path, *changes)))
    assert "train.label_sources: 2 of 12 examples" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"learning_rte": 0.1}, r"learning_rte.*did you mean.*learning_rate"),
        (
            {"total_batch_size": 12, "per_device_train_batch_size": 8},
            r"total_batch_size: found 12, expected a multiple",
        ),
    ],
)
def test_what_the_training_refuses_is_refused_before_labelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any], expected: str
) -> None:
    config = read_experiment(write(tmp_path, ("train.overrides", overrides)))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=expected):
        check_later_stages(config, make_stages(config))
    assert os.environ["WORLD_SIZE"] == "3"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_recipes_fit_the_ranks_of_their_layout(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = read_experiment(path).train
    assert train is not None
    layout = yaml.safe_load(Path(train.accelerate).read_text())
    monkeypatch.setenv("WORLD_SIZE", str(layout["num_processes"]))
    words = train_words({"labels": "-", **train.overrides})
    assert all(batch_split(read_settings(["--config", train.recipe, *words])).values())


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_label_command_resolves_to_the_settings_that_are_recorded(path: Path) -> None:
    config = read_experiment(path)
    label_stages = [stage for stage in make_stages(config) if stage.trace is not None]
    runs = [(algorithm, seed) for algorithm in config.label.algorithms for seed in config.label.seeds]
    runs = [(step.algorithm or algorithm, seed) for algorithm, seed in runs for step in rounds_of(config.label)]
    for stage, (algorithm, seed) in zip(label_stages, runs, strict=True):
        assert stage.command[:4] == (sys.executable, "-m", "icm", "run")
        arguments = parsed(stage)
        settings = resolve_settings(given_settings(arguments), preset=arguments.preset)
        expected = config.settings(algorithm, seed)
        assert settings.search == expected.search
        assert replace(settings.data, slice=None) == expected.data  # a round's own
        assert replace(settings.engine, adapter=None) == expected.engine
        assert Path(settings.output.output_dir, f"{settings.output.output_name}.jsonl") == stage.outputs[0]


def parsed(stage: Stage) -> argparse.Namespace:
    """The `icm run` command line of a stage."""
    parser, _ = make_parser()
    return parser.parse_args(canonical_arguments(stage.command[3:]))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_shipped_experiments_are_accepted_by_the_evaluation(path: Path) -> None:
    config = read_experiment(path)
    check_later_stages(config, [stage for stage in make_stages(config) if stage.name == "eval"])
    settings = eval_settings(config)
    assert settings["data"]["part"] == "test"
    made = {str(file) for stage in make_stages(config) for file in stage.outputs}
    for condition in settings["conditions"]:
        assert set(condition.get("files", [])) <= made
        assert {f"{folder}/train_results.json" for folder in condition.get("adapters", [])} <= made


@pytest.mark.parametrize(("size", "gpus"), [("8b", 1), ("70b", 4)])
def test_the_documented_gpu_runs(size: str, gpus: int) -> None:
    config = read_experiment(ROOT / f"configs/experiments/truthfulqa_llama3.1_{size}.yaml")
    settings = config.settings("icm", 0)
    assert settings.engine.model == f"meta-llama/Llama-3.1-{size.upper()}"
    assert settings.engine.tensor_parallel_size == gpus and settings.engine.gpu_memory_utilization == 0.9
    assert settings.data.dataset == "truthful_qa" and settings.data.max_examples == 256
    assert settings.search.max_iterations == 1500 and settings.search.batch_size == 256
    assert (settings.search.alpha, settings.search.initial_temperature) == (1.0, 1.0)


def test_twins_share_examples_with_the_labels_they_are_compared_with(tmp_path: Path) -> None:
    changes = [("label.seeds", [3, 4]), ("train.label_sources", ["labels", "gold"])]
    drawn = read_experiment(write(tmp_path, *changes))
    assert trained(drawn) == ["icm_seed3_labels", "icm_seed4_labels", "icm_seed3_gold", "icm_seed4_gold"]
    whole = read_experiment(write(tmp_path, *changes, ("data.max_examples", None)))
    assert trained(whole) == ["icm_seed3_labels", "icm_seed4_labels", "icm_seed3_gold"]


def test_algorithms_that_label_the_same_examples_share_their_twin(tmp_path: Path) -> None:
    tuned = [
        {"name": f"{algorithm} {source}", "kind": "fine-tuned", "labels_from": source, "algorithm": algorithm}
        for algorithm in ("icm", "bootstrap")
        for source in ("labels", "gold")
    ]
    both = ["icm", "bootstrap"]
    changes = [("label.algorithms", both), ("train.algorithms", both), ("label.seeds", [3]), ("eval.conditions", tuned)]
    config = read_experiment(write(tmp_path, *changes, ("train.label_sources", ["labels", "gold"])))
    assert trained(config) == ["icm_seed3_labels", "icm_seed3_gold", "bootstrap_seed3_labels"]
    adapters = [Path(name).name for made in eval_settings(config)["conditions"] for name in made["adapters"]]
    assert adapters == ["icm_seed3_labels", "icm_seed3_gold", "bootstrap_seed3_labels", "icm_seed3_gold"]


def trained(config: PipelineConfig) -> list[str]:
    return [stage.name.removeprefix("train ") for stage in make_stages(config) if stage.name.startswith("train ")]


def test_the_plan_says_which_claims_will_be_written(tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(f'{{"question": "What is {n} + 1?", "answer": "#### {n + 1}"}}\n' for n in range(12)))
    source = {"dataset": str(data), "task_type": "gsm8k", "holdout": 0.4}
    changes = {"data": source, "model": {"model": "meta-llama/Llama-3.1-8B"}, "train": None}
    changes |= {"eval.conditions": SMALL["eval"]["conditions"][:1], "generation": {"generation_max_tokens": 40}}
    config = read_experiment(write(tmp_path, *changes.items()))
    assert eval_settings(config)["generation"] == {"generation_max_tokens": 40}
    first, second = (line for line in plan_pipeline(config).splitlines() if line.startswith("to be written"))
    held_out = load_task(replace(config.settings("icm", 5).data, part="test"), stand_ins).written
    assert f"4 for each of {12 - len(held_out)} questions, at most 40 tokens each" in first
    assert "8 claims, 4 for each of 2 questions" in second  # eval.data.max_examples is 8
    assert "generation" not in eval_settings(read_experiment(write(tmp_path)))


def test_the_plan_of_a_model_that_is_not_here_says_what_each_stage_takes_of_gpus(tmp_path: Path) -> None:
    conditions = [*SMALL["eval"]["conditions"], {"name": "Zero-shot", "kind": "zero-shot"}]
    path = write(
        tmp_path,
        ("model", {"model": "meta-llama/Llama-3.1-70B", "engine": "vllm", "tensor_parallel_size": 4}),
        ("train.recipe", "configs/train/sft_lora.yaml"),
        ("train.accelerate", "configs/accelerate/zero3.yaml"),
        ("eval.conditions", conditions),
        ("label.workers", 2),
    )
    lines = plan_pipeline(read_experiment(path)).splitlines()
    starts = [
        next(place for place, line in enumerate(lines) if line.startswith(f"{kind}, "))
        for kind in ("icm", "train", "eval")
    ]
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        stage = lines[start:end]
        for cards, fits in (("on 1 H100 ", False), ("on 4 H100 ", True)):
            place = next(n for n, line in enumerate(stage) if line.startswith(cards))
            assert all(word in stage[place] for word in ("GiB a card", "host ", " h: ", " tokens at "))
            assert [*stage, ""][place + 1].startswith("WARNING") is not fits
    # 4 shots and 8 items, then 8 items without an adapter and 8 with one, of as many tokens as a demonstration has.
    tokens = float(next(line for line in lines if line.startswith("mean demonstration")).split()[2])
    *_, scored, over = lines
    assert over.startswith("over 2 workers ") and over.endswith(", each on 4 H100")
    assert int(scored.split(" h: ")[1].split()[0].replace(",", "")) == pytest.approx(28 * tokens, abs=2)


def test_a_variant_trains_the_same_labels_by_another_recipe(tmp_path: Path) -> None:
    """Its adapters have names of their own, conditions ask for it, and a model that is not the labeler's is named."""
    sft = {"name": "sft", "recipe": "configs/train/sft_answers.yaml", "overrides": {"model_name_or_path": "org/other"}}
    tuned = {"name": "Tuned", "kind": "fine-tuned", "labels_from": "labels"}
    asked = [tuned, {**tuned, "name": "Other", "variant": "sft"}]
    changes = (("train.label_sources", ["labels", "random"]), ("train.variants", [sft]), ("eval.conditions", asked))
    config = read_experiment(write(tmp_path, *changes))
    stages = {stage.name: stage for stage in make_stages(config) if stage.name.startswith("train ")}
    assert list(stages) == ["train icm_seed5_labels", "train icm_seed5_random", "train icm_seed5_labels_sft"]
    command = stages["train icm_seed5_labels_sft"].command
    assert {"configs/train/sft_answers.yaml", "org/other"} <= {*command} and "--max_steps" not in command
    plain, other = eval_settings(config)["conditions"]
    assert plain["adapters"] == [str(tmp_path / "out/adapters/icm_seed5_labels")] and "model" not in plain
    assert other["adapters"] == [str(tmp_path / "out/adapters/icm_seed5_labels_sft")] and other["model"] == "org/other"
    assert "variant" not in other
    for changes, expected in (
        ([("train.variants", [{**sft, "name": "a b"}])], "expected distinct plain words"),
        ([("train.variants", [sft, sft])], "expected distinct plain words"),
        ([("train.variants", [{**sft, "recipe": "no.yaml"}])], "no file no.yaml"),
        ([("eval.conditions", asked)], "variant 'sft' is not one of train.variants"),
    ):
        with pytest.raises(ConfigError, match=expected):
            make_stages(read_experiment(write(tmp_path, *changes)))


def test_the_plan_says_what_is_written_and_how_long_that_takes() -> None:
    plan = plan_pipeline(read_experiment("configs/experiments/gsm8k_icm_dpo.yaml"))
    assert "4,000 claims, 4 for each of 1,000 questions, at most 320 tokens each, 1,280,000 in all" in plan
    assert "written on 1 H100" in plan and "1,280,000 tokens at" in plan and "train, each of 2" in plan
