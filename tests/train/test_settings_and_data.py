"""Settings, twins, the data guard and the rows, before anything is trained."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.training_runs import ROOT

from icm.errors import ConfigError, DataError, ICMError
from icm.examples import TRUSTED, ICMExample, LabelSpace
from icm.files import write_json
from icm.models import resolve_model
from icm.prompts import PromptEncoder
from icm.results.format import read_result, write_result
from icm.results.record import RunRecord
from icm.tasks.source import DataSource
from train.arguments import (
    Method,
    batch_split,
    read_settings,
    setting_names,
    training_arguments,
    training_parser,
    write_resolved,
)
from train.check import check_overlap, flip_probability, make_plan
from train.rows import LengthStatistics, TokenRow, check_lengths, row_order, show_row, text_rows, token_rows
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


def test_sft_rows_are_the_ids_that_evaluation_scores(labels: Path, tokenizer: object) -> None:
    found = read_result(labels)
    rows = token_rows(text_rows(found, "sft").rows, tokenizer, found, "sft")
    encoder = PromptEncoder(tokenizer, found.label_space)
    for row, item in zip(rows, found.labeled_examples, strict=True):
        label = encoder.labels.sequences[found.label_space.index(item.label)]
        columns = row.columns()
        assert columns["input_ids"] == [*encoder.prefix, *encoder.query(item.example), *label]
        assert columns["labels"] == [-100] * (row.length - len(label)) + [*label]


def test_label_pairs_prefer_the_found_label(labels: Path, tokenizer: object) -> None:
    found = read_result(labels)
    rows = token_rows(text_rows(found, "dpo_labels").rows, tokenizer, found, "dpo_labels")
    labels = PromptEncoder(tokenizer, found.label_space).labels.sequences
    for row, item in zip(rows, found.labeled_examples, strict=True):
        place = found.label_space.index(item.label)
        assert (row.chosen, row.rejected) == (labels[place], labels[1 - place])


@pytest.mark.parametrize("method", ["sft", "dpo_labels"])
@pytest.mark.parametrize("texts", [(" very good", " very bad"), ("1", "10"), (" 0", " 1")])
def test_rows_of_labels_of_several_tokens(
    texts: tuple[str, str], method: Method, labels: Path, tokenizer: object
) -> None:
    """All tokens of a label have loss, the ending among them where one label goes on where another ends."""
    found = read_result(labels)
    found = replace(found, label_space=LabelSpace(found.label_space.labels, texts))
    scored = PromptEncoder(tokenizer, found.label_space).labels.sequences
    for row, item in zip(
        token_rows(text_rows(found, method).rows, tokenizer, found, method), found.labeled_examples, strict=True
    ):
        place = found.label_space.index(item.label)
        assert row.chosen == scored[place] and len(row.chosen) > 1
        assert row.rejected == (None if method == "sft" else scored[1 - place])
        if method == "sft":
            assert [*row.chosen] == [label for label in row.columns()["labels"] if label != -100]


def test_answer_pairs_end_with_the_end_token(answers_file: Path, tokenizer: object) -> None:
    found = read_result(answers_file)
    rows = token_rows(text_rows(found, "dpo_answers").rows, tokenizer, found, "dpo_answers")
    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    assert rows and all(row.chosen[-1] == end and (row.rejected or ())[-1] == end for row in rows)
    assert all(row.chosen != row.rejected for row in rows)


def test_pairs_and_answers_have_a_margin_that_twins_share(answers_file: Path) -> None:
    """Which pairs stay depends on the labeler's log-odds alone: the same for found and other labels."""
    found = read_result(answers_file)
    odds = [0.2, 1.0, 3.0, 0.5]
    items = [replace(item, log_odds=odds[place % 4]) for place, item in enumerate(found.labeled_examples)]
    found = replace(found, labeled_examples=items)
    other = replace(found, labeled_examples=[replace(i, label=str(i.label == "False")) for i in items])
    odds_of = {(i.example.metadata["prompt"], i.example.metadata["completion"]): i.log_odds or 0.0 for i in items}
    kept = set[tuple[str, frozenset[str]]]()
    for result in (found, other):
        rows, every = text_rows(result, "dpo_answers", 2.0), text_rows(result, "dpo_answers").rows
        pairs = {(row["prompt"], frozenset([row["chosen"], row["rejected"]])) for row in rows.rows}
        assert all(sum(odds_of[prompt, text] for text in texts) >= 2 for prompt, texts in pairs)
        assert 0 < len(pairs) < len(every) and rows.dropped["pairs with a margin below 2"] == len(every) - len(pairs)
        kept = kept or pairs
        assert pairs == kept
    rows = text_rows(found, "sft_answers", 0.9)
    right = {(i.example.metadata["prompt"], i.example.metadata["completion"]) for i in items if i.label == "True"}
    assert {(row["prompt"], row["completion"]) for row in rows.rows} == {key for key in right if odds_of[key] >= 0.9}
    assert rows.dropped["answers labelled False, or repeated"]
    unscored = replace(found, labeled_examples=[replace(item, log_odds=None) for item in items])
    assert text_rows(unscored, "dpo_answers").rows and text_rows(unscored, "sft_answers").rows
    with pytest.raises(DataError, match="give no training row"):
        text_rows(unscored, "dpo_answers", 0.1)
    marked = [replace(i, example=replace(i.example, metadata={**i.example.metadata, TRUSTED: True})) for i in items]
    trusted = replace(found, labeled_examples=[replace(item, log_odds=-1.0) for item in marked])
    assert text_rows(trusted, "dpo_answers", 9.0).rows == text_rows(trusted, "dpo_answers").rows


@pytest.mark.parametrize("name", ["confidence_margin", "apply_chat_template"])
def test_what_is_said_of_answers_is_refused_for_labels(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}: method sft trains on labels"):
        read_settings(config(tmp_path, f"labels: a\n{name}: 1")).label_arguments()


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m['role'] }}<|/header|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)


def chat_tokenizer(template: str | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded"))
    if template == LLAMA3:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|header|>", "<|/header|>", "<|eot|>"]})
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "asked", "end"),
    [
        (None, "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        (
            LLAMA3,
            "<|im_start|><|header|>user<|/header|>\n\n{question}<|eot|><|header|>assistant<|/header|>\n\n",
            "<|eot|>",
        ),
        (INST, "[INST] {question} [/INST]", "<|im_end|>"),
    ],
    ids=["chatml", "llama3", "inst"],
)
@pytest.mark.parametrize("method", ["sft_answers", "dpo_answers"])
def test_chat_rows_are_turns_of_the_template(
    template: str | None, asked: str, end: str, method: Method, answers_file: Path
) -> None:
    """Decoded: the question in the user's turn, the answer in the assistant's, its end token once and last, loss on
    the answer and that token alone."""
    found, tokenizer = read_result(answers_file), chat_tokenizer(template)
    texts = text_rows(found, method, chat=True).rows
    for row, text in zip(token_rows(texts, tokenizer, found, method, chat=True), texts, strict=True):
        question = text["messages"][-1]["content"]
        assert question.startswith("What is ") and tokenizer.decode(row.prompt).endswith(
            asked.format(question=question)
        )
        chosen = text["completion" if method == "sft_answers" else "chosen"].strip()
        space = " " if template == INST else ""
        assert tokenizer.decode(row.chosen) == space + chosen + end and row.chosen.count(row.chosen[-1]) == 1
        if method == "sft_answers":
            said = [*text["messages"], {"role": "assistant", "content": chosen}]
            whole = tokenizer.apply_chat_template(said, tokenize=False)
            spoken = tokenizer.decode([*row.prompt, *row.chosen])
            assert whole.strip() == spoken
            columns = row.columns()
            assert [token for token in columns["labels"] if token != -100] == [*row.chosen]
            assert columns["input_ids"] == [*row.prompt, *row.chosen]
        else:
            assert tokenizer.decode(row.rejected or ()) == space + text["rejected"].strip() + end


def test_a_dialogue_keeps_its_system_turn_and_is_refused_where_the_template_has_none(answers_file: Path) -> None:
    found = read_result(answers_file)
    said = "System: Be brief.\nHuman: Hi\nAssistant: Hello <|im_end|>\nHuman: What is 3?"
    items = [replace(i, example=replace(i.example, metadata={**i.example.metadata, "question": said}))
             for i in found.labeled_examples]  # fmt: skip
    found = replace(found, labeled_examples=items)
    texts = text_rows(found, "sft_answers", chat=True).rows
    tokenizer = chat_tokenizer(None)
    row = token_rows(texts, tokenizer, found, "sft_answers", chat=True)[0]
    assert tokenizer.decode(row.prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "Hello <|im_end|><|im_end|>\n<|im_start|>user\nWhat is 3?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert row.prompt.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 4  # what the text spells is text
    with pytest.raises(ConfigError, match="refuses a dialogue of system, user, assistant, user"):
        token_rows(texts, chat_tokenizer(INST), found, "sft_answers", chat=True)
    plain = chat_tokenizer(None)
    plain.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        token_rows(texts, plain, found, "sft_answers", chat=True)


def test_labels_without_rows_are_refused(labels: Path, answers_file: Path) -> None:
    found = read_result(answers_file)
    same = [replace(item, label="True") for item in found.labeled_examples]
    with pytest.raises(DataError, match="4 questions whose answers all have the same label"):
        text_rows(replace(found, labeled_examples=same), "dpo_answers")
    with pytest.raises(DataError, match="True and False"):
        text_rows(read_result(labels), "dpo_answers")


def test_truncation_is_refused(tokenizer: object) -> None:
    rows = [TokenRow((1, 2, 3), (4,)), TokenRow(tuple(range(30)), (4, 5), (6,))]
    texts = [{"prompt": "short"}, {"prompt": "the long question"}]
    check_lengths(rows, texts, 32, "max_length")
    with pytest.raises(ConfigError, match=r"row 2 \('the long question'…\) has 32 tokens"):
        check_lengths(rows, texts, 31, "max_length")
    assert LengthStatistics.of(rows) == LengthStatistics(4, 18, 18, 32)


def test_shown_row_marks_the_loss(tokenizer: object) -> None:
    space = LabelSpace(("negative", "positive"))
    encoder = PromptEncoder(tokenizer, space)
    prompt = encoder.query(ICMExample("Review: fine\nSentiment:"))
    text = show_row(TokenRow(prompt, *reversed(encoder.labels.sequences)), tokenizer)
    styled = {text.plain[span.start : span.end].strip(): str(span.style) for span in text.spans}
    assert (styled["positive"], styled["negative"]) == ("bold green", "bold red")
    assert "loss on 2 of" in text.plain


@pytest.mark.parametrize(("rows", "epochs", "batch"), [(40, 3, 8), (37, 5, 8), (5, 1, 32), (33, 0.5, 4)])
def test_row_order_uses_every_row_evenly(rows: int, epochs: float, batch: int) -> None:
    order = row_order(rows, epochs, batch, seed=3)
    counts = Counter(order)
    assert len(order) % batch == 0 and 0 <= len(order) - round(rows * epochs) < batch
    assert max(counts.values()) - min(counts.get(row, 0) for row in range(rows)) <= 1
    assert order == row_order(rows, epochs, batch, seed=3) != row_order(rows, epochs, batch, seed=4)


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
