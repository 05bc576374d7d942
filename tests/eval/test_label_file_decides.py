"""The label file decides the prompt of an evaluation, and its data and model where the settings name none."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_runs import train_here
from transformers import AutoTokenizer

from eval.conditions.answers import prompt_hash
from eval.experiment import Experiment
from eval.held_out import read_settings
from eval.run import main
from icm.cli import main as icm
from icm.errors import ConfigError, DataError
from icm.files import write_jsonl
from icm.results.format import read_result, write_result
from icm.results.record import PromptRecord, RunRecord
from icm.results.training_rows import sft_rows
from icm.tasks import load_task

MOODS = {"positive": " happy", "negative": " sad"}
NUMBERS = {"0": " negative", "1": " positive"}
STARS = {str(count): f" {count}" for count in range(1, 6)}
TWEET = "Tweet: {text} Mood:"

LabelMaker = Callable[..., Path]


def write_data(path: Path, labels: Iterable[Any], count: int = 30) -> Path:
    named = list(labels)
    rows = [
        {"text": f"note {n} is {'grim' if n % 2 else 'fine'}", "label": named[n % len(named)]} for n in range(count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)
    return path


@pytest.fixture
def labelled(tmp_path: Path, tiny_model: Path) -> LabelMaker:
    """Runs `icm run` with random labels."""

    def make(data: Path | str, *words: str, name: str = "l", folder: Path = tmp_path / "made") -> Path:
        engine = ["--model", str(tiny_model), "--engine", "transformers", "--dtype", "float32"]
        output = ["--output-dir", str(folder), "--output-name", name, "--algorithm", "random"]
        assert icm(["run", "--dataset", str(data), *engine, *output, *words]) == 0
        return folder / f"{name}.jsonl"

    return make


def asked(template: str | None, verbalisers: dict[str, str]) -> list[str]:
    texts = ["--verbalisers", *(f"{label}={text}" for label, text in verbalisers.items())]
    named = [] if verbalisers == STARS else texts
    return [*(["--template", template] if template else []), *named, "--holdout", "0.4"]


def samples(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / f"samples_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def scores(model: Path, prompt: str, verbalisers: Iterable[str]) -> list[float]:
    """Log-probabilities of whole verbalisers behind a prompt, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    asked, found = tokenizer(prompt).input_ids, []
    for text in verbalisers:
        label = tokenizer(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logs = network(torch.tensor([asked + label])).logits[0].log_softmax(-1)
        found.append(sum(float(logs[len(asked) - 1 + place, token]) for place, token in enumerate(label)))
    return found


@pytest.mark.parametrize(
    ("template", "verbalisers", "labels", "start", "end"),
    [
        (TWEET, MOODS, ("positive", "negative"), "Tweet: note ", " Mood:"),
        (None, NUMBERS, (1, 0), "Text: note ", "\nLabel:"),
        (None, STARS, (5, 3, 1, 4, 2), "Text: note ", "\nLabel:"),
    ],
    ids=["template", "integers", "stars"],
)
def test_an_evaluation_needs_the_label_file_alone(
    labelled: LabelMaker,
    tmp_path: Path,
    tiny_model: Path,
    template: str | None,
    verbalisers: dict[str, str],
    labels: tuple[Any, ...],
    start: str,
    end: str,
) -> None:
    file = labelled(write_data(tmp_path / "notes.jsonl", labels), *asked(template, verbalisers))
    made = read_result(file)
    own = replace(made.record.data.source or pytest.fail("no source"), part="test")
    held_out = load_task(own)
    assert main(["--labels", str(file), "--shots", "8", "--output_dir", str(tmp_path / "out")]) == 0
    for name in ("zero-shot-base", "many-shot-random", "many-shot-labels", "many-shot-golden"):
        rows = samples(tmp_path / "out", name)
        assert {row["doc_id"] for row in rows} == set(held_out.gold)
        for row in rows:
            text = row["doc"]["input"]
            assert text == f"{start}{row['doc']['text'].removeprefix('note ')}{end}"
            assert row["target"] == held_out.gold[row["doc_id"]] in verbalisers
    base = samples(tmp_path / "out", "zero-shot-base")[0]
    texts = [verbalisers[label] for label in made.label_space.labels]
    asked_ids = AutoTokenizer.from_pretrained(tiny_model)(base["doc"]["input"]).input_ids
    assert base["prompt_hash"] == prompt_hash([asked_ids]), "the very bytes of the template, and nothing else"
    learnt = [(row["prompt"], row["completion"]) for row in sft_rows(made).rows]
    assert learnt == [(item.example.input, verbalisers[item.label]) for item in made.labeled_examples]
    assert base["log_probs"] == pytest.approx(scores(tiny_model, base["doc"]["input"], texts), abs=1e-4)
    config = json.loads((tmp_path / "out" / "results.json").read_text())["config"]
    assert config["data"]["template"] == made.record.template and config["data"]["verbalisers"] == verbalisers
    assert (config["engine"]["model"], config["data"]["max_examples"]) == (str(tiny_model), None)


@pytest.mark.slow
def test_an_adapter_is_asked_the_prompt_that_it_was_trained_on(
    labelled: LabelMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = labelled(write_data(tmp_path / "notes.jsonl", MOODS), *asked(TWEET, MOODS))
    adapter = tmp_path / "adapter"
    assert train_here(file, adapter, label_source="gold", max_steps=30) == 0
    told = capsys.readouterr().err
    assert "Mood:" in told and (" happy" in told or " sad" in told)
    tuned = {"name": "Tuned", "kind": "fine-tuned", "labels_from": "gold", "adapters": [str(adapter)]}
    settings = tmp_path / "eval.yaml"
    settings.write_text(yaml.safe_dump({"conditions": [{"name": "Base", "kind": "zero-shot"}, tuned]}))
    words = ["--config", str(settings), "--labels", str(file), "--output_dir", str(tmp_path / "out")]
    assert main(words) == 0
    base, tuned_rows = samples(tmp_path / "out", "base"), samples(tmp_path / "out", "tuned")
    for one, other in zip(base, tuned_rows, strict=True):
        assert other["doc"]["input"].startswith("Tweet: ") and one["prompt_hash"] == other["prompt_hash"]
        # Thirty steps on " happy" and " sad" in this very place make them likely there.
        assert max(other["log_probs"]) > max(one["log_probs"]) + 3


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write_data(tmp_path / "notes.jsonl", MOODS)


def settings_of(tmp_path: Path, file: Path, data: dict[str, Any] | None, **more: Any) -> list[str]:
    content = {"conditions": [{"name": "Base", "kind": "zero-shot"}], **({"data": data} if data else {}), **more}
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(content))
    return ["--config", str(path), "--labels", str(file)]


def experiment(words: list[str]) -> Experiment:
    return Experiment(read_settings(words))


def test_a_data_section_keeps_what_it_says(labelled: LabelMaker, notes: Path, tmp_path: Path) -> None:
    file = labelled(notes, *asked(TWEET, MOODS), "--max-examples", "6")
    whole = experiment(["--labels", str(file)])
    assert 6 < len(whole.examples) < 20 and not whole.data.gold.keys() & read_result(file).labels.keys()
    few = experiment(settings_of(tmp_path, file, {"max_examples": 3}))
    assert len(few.examples) == 3 and {e.id for e in few.examples} <= {e.id for e in whole.examples}
    named = {"dataset": str(notes), "holdout": 0.4, "part": "test"}
    assert experiment(settings_of(tmp_path, file, named)).examples == whole.examples
    equal = {**named, "template": TWEET + " ", "verbalisers": dict(reversed(MOODS.items()))}
    assert experiment(settings_of(tmp_path, file, equal)).examples == whole.examples
    other = write_data(tmp_path / "other" / "others.jsonl", MOODS, count=8)
    for words in ([], ["--data.split", "train"]):
        rest = experiment([*settings_of(tmp_path, file, None), "--data.dataset", str(other), *words])
        assert len(rest.examples) == 8 and all(e.input.startswith("Tweet: ") for e in rest.examples)
    rows = [json.loads(line) for line in other.read_text(encoding="utf-8").splitlines()]
    write_jsonl(other, [{**row, "split": "test" if place < 3 else "train"} for place, row in enumerate(rows)])
    assert len(experiment([*settings_of(tmp_path, file, None), "--data.dataset", str(other)]).examples) == 3


def test_gold_is_compared_with_where_all_labelled_examples_have_it(
    labelled: LabelMaker, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = labelled(notes, *asked(TWEET, MOODS), "--max-examples", "6")
    plain, chat, *others = read_settings(["--labels", str(file)]).conditions
    assert (plain.kind, chat.kind) == ("zero-shot", "chat")
    assert [c.labels_from for c in others] == ["random", "labels", "gold"]
    base = read_settings(["--labels", str(file), "--engine.model", "embedded:gemma-3-270m"]).conditions
    assert base == [plain, *others]
    assert "left out Zero-shot Chat: no chat template of embedded:gemma-3-270m is here" in capsys.readouterr().err
    rows = [json.loads(line) for line in notes.read_text().splitlines()]
    bare = [item.example.input for item in read_result(file).labeled_examples[1:]]
    write_jsonl(notes, [row if TWEET.format(**row) not in bare else {"text": row["text"]} for row in rows])
    assert read_settings(["--labels", str(file)]).conditions == [plain, chat, *others[:-1]]
    assert "left out Many-shot Golden: 5 of 6 labelled examples have no gold" in capsys.readouterr().err
    asked_for = settings_of(
        tmp_path, file, None, conditions=[{"name": "G", "kind": "many-shot", "labels_from": "gold"}]
    )
    with pytest.raises(DataError, match="no gold label for 5 of 6"):
        _ = experiment(asked_for).runs


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"template": "Text: {text}"},
            rf"data\.template: found 'Text: {{text}}', but .*l\.jsonl was made with '{TWEET}'",
        ),
        (
            {"verbalisers": {"positive": " good", "negative": " bad"}},
            r"data\.verbalisers: found .* good.*made with .* happy",
        ),
    ],
    ids=["template", "verbalisers"],
)
def test_another_prompt_than_the_label_files_is_refused(
    labelled: LabelMaker, notes: Path, tmp_path: Path, data: dict[str, Any], message: str
) -> None:
    file = labelled(notes, *asked(TWEET, MOODS))
    with pytest.raises(ConfigError, match=message) as caught:
        _ = experiment(settings_of(tmp_path, file, data)).runs
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [("body", "text"), ("Body", "text"), ("text", "extra")])
def test_other_data_have_the_text_in_the_column_of_the_labelled_ones_or_in_text(
    labelled: LabelMaker, tmp_path: Path, columns: tuple[str, str]
) -> None:
    rows = [{"body": f"note {n}", "text": f"title {n}", "label": ("positive", "negative")[n % 2]} for n in range(24)]
    write_jsonl(tmp_path / "made.jsonl", rows)
    file = labelled(tmp_path / "made.jsonl", "--text-field", "body", "--template", TWEET)
    new = [{columns[0]: f"new note {n}", columns[1]: "else", "label": row["label"]} for n, row in enumerate(rows)]
    write_jsonl(tmp_path / "held-out.jsonl", new)
    found = experiment(["--labels", str(file), "--data.dataset", str(tmp_path / "held-out.jsonl")])
    assert {example.input for example in found.examples} == {f"Tweet: new note {n} Mood:" for n in range(24)}
    assert found.source.text_field == ("body" if columns[0].lower() == "body" else None)


def test_advice_on_held_out_data_names_the_evaluation_s_options(
    labelled: LabelMaker, notes: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "new.jsonl", [{"text": f"new note {n}", "label": "ab"[n % 2]} for n in range(6)])
    with pytest.raises(DataError, match=r"--data\.label_map 'a=NAME' 'b=NAME'"):
        experiment(["--labels", str(labelled(notes)), "--data.dataset", str(tmp_path / "new.jsonl")]).examples  # noqa: B018


@pytest.mark.parametrize("more", [("--holdout", "0.3"), ()])
def test_another_file_of_the_same_name_is_taken_whole(
    labelled: LabelMaker, notes: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    file = labelled(notes, "--template", TWEET, *more)
    other, copy = tmp_path / "other" / notes.name, tmp_path / "copy" / notes.name
    other.parent.mkdir()
    copy.parent.mkdir()
    rows = [{"text": f"new note {n}", "label": ("positive", "negative")[n % 2]} for n in range(9)]
    write_jsonl(other, rows)
    found = experiment(["--labels", str(file), "--data.dataset", str(other)])
    assert len(found.examples) == 9
    copy.write_bytes(notes.read_bytes())  # the labelled data themselves, wherever they lie
    if more:
        held_out = experiment(["--labels", str(file), "--data.dataset", str(copy)]).examples
        assert held_out == experiment(["--labels", str(file)]).examples


def test_without_label_files_the_model_is_asked_plainly_and_as_chat(tiny_model: Path, tmp_path: Path) -> None:
    data = {"dataset": str(write_data(tmp_path / "held-out.jsonl", MOODS)), "template": TWEET, "verbalisers": MOODS}
    (tmp_path / "mine.json").write_text(json.dumps({"data": data}))
    found = experiment(["--config", str(tmp_path / "mine.json"), "--engine.model", str(tiny_model)])
    assert [(run.config.name, run.config.model) for run in found.runs] == [
        ("Zero-shot Base", None),
        ("Zero-shot Chat", str(tiny_model)),
    ]
    assert len(found.examples) == 30 and found.examples[0].input.startswith("Tweet: note ")
    with pytest.raises(ConfigError, match="conditions: none are given; name label files with --labels, held-out data"):
        experiment(["--engine.model", str(tiny_model)])


def test_label_files_of_two_prompts_are_refused(labelled: LabelMaker, notes: Path, tmp_path: Path) -> None:
    one = labelled(notes, *asked(TWEET, MOODS), name="one")
    for name, template, texts in (
        ("two", "T: {text}", MOODS),
        ("three", TWEET, {"positive": " up", "negative": " down"}),
    ):
        other = labelled(notes, *asked(template, texts), name=name)
        many = {"name": "Other", "kind": "many-shot", "labels_from": "labels", "files": [str(other)]}
        with pytest.raises(DataError, match=rf"{name}\.jsonl: made with the .*, but .*one\.jsonl with "):
            _ = experiment(settings_of(tmp_path, one, None, conditions=[many])).runs


def test_files_that_do_not_say_their_template_leave_it_to_the_settings(
    labelled: LabelMaker, notes: Path, tmp_path: Path
) -> None:
    file = labelled(notes, *asked(TWEET, MOODS))
    result = read_result(file)
    source = result.record.data.source or pytest.fail("no source")
    bare = tmp_path / "bare.jsonl"
    write_result(bare, replace(result, record=RunRecord()))
    named = {"dataset": str(notes), "holdout": 0.4, "template": TWEET}
    assert experiment(settings_of(tmp_path, bare, named)).examples == experiment(["--labels", str(file)]).examples
    with pytest.raises(ConfigError, match=r"data\.dataset: not given, and .*bare\.jsonl does not say"):
        experiment(["--labels", str(bare)])
    assert source.template == TWEET  # files of earlier versions say it here alone
    write_result(bare, replace(result, record=replace(result.record, prompt=PromptRecord())))
    assert experiment(["--labels", str(bare)]).source.template == TWEET


def test_the_template_of_the_file_counts_not_the_task_s_own_of_today(
    labelled: LabelMaker, notes: Path, tmp_path: Path
) -> None:
    file = labelled(notes, *asked("An older default: {text}", MOODS))
    result = read_result(file)
    source = replace(result.record.data.source or pytest.fail("no source"), template=None)
    record = replace(result.record, data=replace(result.record.data, source=source))
    write_result(file, replace(result, record=record))
    found = experiment(["--labels", str(file)])
    assert all(e.input.startswith("An older default: note ") for e in found.examples)
    assert set(found.label_files[str(file)].gold) >= set(result.labels)


def test_a_relative_path_is_looked_for_beside_the_label_file(
    labelled: LabelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    write_data(home / "data" / "notes.jsonl", MOODS)
    monkeypatch.chdir(home)
    file = labelled("data/notes.jsonl", *asked(TWEET, MOODS), folder=home / "results")
    here = experiment(["--labels", str(file)])
    monkeypatch.chdir(tmp_path)
    there = experiment(["--labels", str(file)])
    assert [run.identity for run in there.runs] == [run.identity for run in here.runs]
    moved = tmp_path / "elsewhere" / "notes.jsonl"
    moved.parent.mkdir()
    shutil.move(home / "data" / "notes.jsonl", moved)
    assert main(["--labels", str(file)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert (
        message.startswith("error: ")
        and f"{file}: names its data as 'data/notes.jsonl', relative to where `icm run` ran" in message
    )
    assert "--data.dataset FOLDER/notes.jsonl" in message
    told = experiment(["--labels", str(file), "--data.dataset", str(moved)])
    assert [run.identity for run in told.runs] == [run.identity for run in here.runs]


def test_data_without_a_test_part_is_said_to_have_none(labelled: LabelMaker, notes: Path) -> None:
    file = labelled(notes, "--template", TWEET)
    with pytest.raises(
        DataError, match=r"notes\.jsonl: has no test split, so nothing is held out; label with --holdout"
    ):
        _ = experiment(["--labels", str(file)]).runs


def test_the_model_is_the_labeler_s_unless_one_is_named(labelled: LabelMaker, notes: Path, tiny_model: Path) -> None:
    file = labelled(notes, *asked(TWEET, MOODS))
    found = read_settings(["--labels", str(file), "--engine.max_model_len", "99"]).engine
    assert (found.model, found.engine, found.dtype, found.max_model_len) == (
        str(tiny_model),
        "transformers",
        "float32",
        99,
    )
    named = read_settings(["--labels", str(file), "--engine.model", "embedded"]).engine
    assert (named.model, named.engine, named.dtype) == ("embedded", "auto", "auto")
