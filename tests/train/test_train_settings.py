"""Settings, twins and the data guard, before anything is trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.training_runs import ROOT

from icm.errors import ConfigError, DataError, ICMError
from icm.examples import TRUSTED
from icm.files import write_json
from icm.models import resolve_model
from icm.results.format import read_result, write_result
from icm.results.record import RunRecord
from icm.tasks.source import DataSource
from train.arguments import (
    batch_split,
    read_settings,
    setting_names,
    training_arguments,
    training_parser,
    write_resolved,
)
from train.card import _labels
from train.check import check_overlap, flip_probability, make_plan
from train.run import main

MakeLabels = Callable[..., Path]


@pytest.fixture(scope="module")
def labels(make_labels: MakeLabels) -> Path:
    return make_labels(24, "embedded")


def config(folder: Path, text: str) -> list[str]:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


def test_command_line_overrides_the_file(tmp_path: Path) -> None:
    words = config(tmp_path, "labels: a.jsonl\ntotal_batch_size: 16\nlearning_rate: 1e-4\npush_to_hub: true\n")
    settings = read_settings([*words, "--total-batch-size", "64", "--learning_rate=3e-5"])
    assert settings.label_arguments().total_batch_size == 64
    assert settings.first("learning_rate") == "3e-5"
    assert settings.flag("push_to_hub")


def test_eval_source_is_a_mapping_in_the_file(tmp_path: Path) -> None:
    settings = read_settings(config(tmp_path, "labels: a.jsonl\neval_source:\n  dataset: d.csv\n  part: test\n"))
    source = settings.label_arguments().eval_source
    assert source is not None and json.loads(source) == {"dataset": "d.csv", "part": "test"}


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("- labels", [], "expected a mapping"),
        ("labels: [", [], "not valid YAML"),
        ("labels: a\nmethod: ppo", [], "method"),
        ("method: sft", [], "labels"),
        ("labels: a\ntotal_batch_size: many", [], "total_batch_size"),
        ("labels: a\ntotal_batch_size: 0", [], "total_batch_size: found 0"),
        ("labels: a\ngradient_accumulation_steps: 2", [], "follows from total_batch_size"),
        ("labels: a", ["stray"], "stray"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, text: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings([*words, *config(tmp_path, text)]).label_arguments()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "ranks", "at_once", "steps"),
    [(8, 1, 8, 4), (8, 2, 8, 2), (4, 2, 4, 4), (None, 1, 32, 1), (None, 4, 8, 1)],
)
def test_a_step_is_split_by_the_layout(
    monkeypatch: pytest.MonkeyPatch, given: int | None, ranks: int, at_once: int, steps: int
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    rows = [] if given is None else [f"--per_device_train_batch_size={given}"]
    split = batch_split(read_settings(["--labels=a", "--total_batch_size=32", *rows]))
    assert split == {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": steps}


def test_batches_that_do_not_divide_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="multiple"):
        batch_split(read_settings(["--labels=a", "--total_batch_size=32"]))
    with pytest.raises(ConfigError, match="multiple"):
        batch_split(read_settings(["--labels=a", "--total_batch_size=24", "--per_device_train_batch_size=5"]))


def test_overlap_is_refused_by_question(labels: Path, reviews: Path) -> None:
    found = read_result(labels)
    assert check_overlap(found, "l.jsonl", None).evaluation == DataSource(
        str(reviews), "classification", holdout=0.25, part="test"
    )
    with pytest.raises(DataError, match=r"l\.jsonl: 24 of 24 labelled examples belong"):
        check_overlap(found, "l.jsonl", DataSource(dataset=str(reviews)))
    assert check_overlap(replace(found, record=RunRecord()), "l.jsonl", None).evaluation is None


def test_the_held_out_part_is_found_beside_the_label_file_and_whole(labels: Path, reviews: Path) -> None:
    found = read_result(labels)
    drawn = DataSource(dataset=reviews.name, holdout=0.25, max_examples=9, slice="1/3", template="Seen: {text}")
    record = replace(found.record, data=replace(found.record.data, source=drawn))
    moved = replace(found, record=record, file=str(reviews.parent / "results" / "l.jsonl"))
    whole = DataSource(str(reviews), "classification", holdout=0.25, part="test", template="Seen: {text}")
    check = check_overlap(moved, "l.jsonl", None)
    assert check.evaluation == whole and check.questions == check_overlap(found, "l.jsonl", None).questions


def test_eval_source_says_where_the_labelled_data_lies_now_and_what_it_says_counts(
    labels: Path, reviews: Path, tmp_path: Path
) -> None:
    here = reviews.with_name("elsewhere") / reviews.name
    here.parent.mkdir(exist_ok=True)
    here.write_bytes(reviews.read_bytes())

    def evaluation(**source: object) -> DataSource | None:
        words = ["--labels", str(labels), "--output_dir", str(tmp_path / "out"), "--eval_source", json.dumps(source)]
        return make_plan(read_settings(words)).overlap.evaluation

    held_out = DataSource(str(here), "classification", holdout=0.25, part="test")
    assert evaluation(dataset=str(here)) == held_out == evaluation(dataset=str(here), holdout=0.25, part="test")
    assert evaluation(dataset="reviews", part="test") == DataSource(dataset="reviews", part="test")
    with pytest.raises(DataError, match="24 of 24 labelled examples belong"):
        evaluation(dataset=str(here), part="train")


def test_flip_probability_is_the_mean_doubt(labels: Path) -> None:
    found = read_result(labels)
    sure = [replace(item, log_odds=40.0) for item in found.labeled_examples]
    assert flip_probability(replace(found, labeled_examples=sure)) < 1e-12
    odds = [0.0, -1000.0, 1000.0, 2.0]
    mixed = [replace(item, log_odds=x) for item, x in zip(found.labeled_examples, odds, strict=False)]
    assert flip_probability(replace(found, labeled_examples=mixed)) == pytest.approx((0.5 + 1 + 0 + 0.1192029) / 4)
    doubt = [replace(item, log_odds=-3.0) for item in found.labeled_examples]
    assert flip_probability(replace(found, labeled_examples=doubt)) == 0.49
    with pytest.raises(DataError, match="label_smoothing"):
        flip_probability(replace(found, labeled_examples=[replace(item, log_odds=None) for item in doubt]))


@pytest.mark.parametrize("name", ["confidence_margin", "apply_chat_template"])
def test_what_is_said_of_answers_is_refused_for_labels(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}: method sft trains on labels"):
        read_settings(config(tmp_path, f"labels: a\n{name}: 1")).label_arguments()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": "missing.jsonl"}, "missing.jsonl"),
        ({"model_name_or_path": "embedded:none"}, "embedded:none"),
        ({"model_name_or_path": "./no/such/folder"}, "no such folder"),
        ({"eval_source": '{"dataset": "x", "prat": "test"}'}, "eval_source: unknown field 'prat'; expected 'part'"),
        ({"eval_source": "{"}, "eval_source: not valid JSON"),
        ({"report_to": "mlflow"}, "mlflow is not installed"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_plan_finds_bad_settings_before_torch(
    labels: Path, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    values = {"labels": str(labels), "output_dir": str(tmp_path / "out"), **settings}
    with pytest.raises(ICMError, match=message):
        make_plan(read_settings([f"--{name}={value}" for name, value in values.items()]))
    assert not (tmp_path / "out").exists()


def test_model_comes_from_the_label_file(labels: Path, tmp_path: Path) -> None:
    plan = make_plan(read_settings([f"--labels={labels}", f"--output_dir={tmp_path / 'out'}"]))
    assert (plan.model, plan.model_path) == ("embedded", resolve_model("embedded"))
    nameless = tmp_path / "nameless.jsonl"
    write_result(nameless, replace(read_result(labels), record=RunRecord()))
    with pytest.raises(ConfigError, match="model_name_or_path"):
        make_plan(read_settings([f"--labels={nameless}"]))


def test_given_labels_are_counted_in_the_report_and_on_the_card(labels: Path, tmp_path: Path) -> None:
    found = read_result(labels)
    marked = [
        replace(item, example=replace(item.example, metadata={**item.example.metadata, TRUSTED: place < 5}))
        for place, item in enumerate(found.labeled_examples)
    ]
    write_result(labels, replace(found, labeled_examples=marked))
    words = [f"--labels={labels}", f"--output_dir={tmp_path / 'out'}", "--surest=0.5"]
    plan = make_plan(read_settings(words))
    kept = len(plan.result.labeled_examples)
    assert "the surest 50% of each label and all 5 given ones" in plan.report()
    assert f"without gold labels, but for 5 of {kept} that were given" in _labels(plan)
    assert "given" not in _labels(make_plan(read_settings([*words, "--label_source=random"])))


def test_hub_token_is_checked_first(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ICMError, match="HF_TOKEN"):
        make_plan(
            read_settings([f"--labels={labels}", f"--output_dir={tmp_path / 'o'}", "--push_to_hub", "--use_peft"])
        )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--lora_alpa=8", "unknown option --lora_alpa; did you mean --lora_alpha? (see train/run.py --help)"),
        ("--learning_rate=fast", "learning_rate"),
        ("--dtype=float8", "dtype"),
        ("--eval_strategy=epoch", "eval/run.py"),
        ("--save_total_limit=1", "save_total_limit"),
        ("--learning_rate=-1", "learning_rate: found -1.0, expected above 0"),
        ("--num_train_epochs=0", "num_train_epochs: found 0.0, expected above 0"),
        ("--max_steps=-5", "max_steps: found -5, expected at least 1, or -1"),
        ("--lora_r=0", "lora_r: found 0, expected at least 1"),
        ("--lora_dropout=2", "lora_dropout: found 2.0, expected at least 0 and below 1"),
        ("--max_length=12", "would be cut; set max_length to at least"),
    ],
)
def test_unknown_and_wrong_keys_are_one_line(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    recipe = ROOT / "configs" / "train" / "demo_sft.yaml"
    output = tmp_path / "out"
    assert main([f"--config={recipe}", f"--labels={labels}", f"--output_dir={output}", word]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert "unknown" not in last or not before, "names are looked at before anything is said"
    assert last.startswith("error: ") and message in last
    assert not output.exists()


def test_the_names_that_are_known_before_imports_are_those_of_the_classes() -> None:
    parser = training_parser("sft")._option_string_actions | training_parser("dpo_labels")._option_string_actions
    taken = {option.lstrip("-") for option in parser if not option.startswith("--no")} - {"h", "help", "config"}
    assert {name.replace("-", "_") for name in taken} <= set(setting_names())


def test_unknown_key_of_a_file_names_the_file(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = config(tmp_path, f"labels: {labels}\noutput_dir: {tmp_path / 'out'}\nnum_train_epoch: 2\n")
    assert main(words) == 2
    expected = f"{words[1]}: unknown key 'num_train_epoch'; did you mean num_train_epochs?"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["sft_lora", "dpo_robust"])
def test_resolved_settings_are_a_recipe(tmp_path: Path, recipe: str) -> None:
    settings = read_settings([f"--config={ROOT / 'configs' / 'train' / recipe}.yaml", "--labels=a", "--max_steps=-1"])
    arguments = settings.label_arguments()
    training, model = training_arguments(settings, arguments.method, tmp_path)
    write_resolved(tmp_path / "config.yaml", arguments, training, model)
    again = read_settings(["--config", str(tmp_path / "config.yaml")])
    assert again.label_arguments() == arguments
    same_training, same_model = training_arguments(again, arguments.method, tmp_path)
    assert (same_training.to_dict(), same_model) == (training.to_dict(), model)


def test_recipes_have_only_known_keys() -> None:
    for path in sorted((ROOT / "configs" / "train").glob("*.yaml")):
        settings = read_settings(["--config", str(path), "--labels=a"])
        method = settings.label_arguments().method
        known = {action.dest for action in training_parser(method)._actions}
        assert set(settings.values) <= known, path


SECRET = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["--hub_token", "x"], {}),
        (["--hub-token=x"], {}),
        (["--push_to_hub_token", "x"], {}),
        (["--wandb_api_key", "x"], {}),
        (["--model_init_kwargs", '{"token": "x"}'], {}),
        (["--model_init_kwargs", '{"storage_options": {"Secret-Key": "x"}}'], {}),
        (["--run_name", f"run-{SECRET}"], {}),
        (["--model_name_or_path", "https://me:pw@host/model"], {}),
        ([], {"hub_token": "x"}),
        ([], {"model_init_kwargs": {"use_auth_token": "x", "a": 1}}),
        ([], {"report_to": ["none", SECRET]}),
        ([], {"deepspeed": {"x": [{"password": "x"}]}}),
    ],
)
def test_no_secret_is_a_setting(
    words: list[str], recipe: dict[str, object], labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json, config.yaml and the checkpoints' pickled settings hold every setting."""
    write_json(tmp_path / "recipe.json", recipe)
    given = ["--config", str(tmp_path / "recipe.json"), "--labels", str(labels), "--output_dir", str(tmp_path / "out")]
    assert main([*given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "settings are written to files, so they hold no secrets" in line and SECRET not in line and "pw" not in line
    assert not (tmp_path / "out").exists()


def test_what_is_called_a_token_and_is_text_is_a_setting(tmp_path: Path) -> None:
    recipe = {
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "hub_token": None,
        "include_num_input_tokens_seen": "all",
    }
    write_json(tmp_path / "recipe.json", recipe)
    assert read_settings(["--config", str(tmp_path / "recipe.json")]).first("eos_token") == "<|im_end|>"
