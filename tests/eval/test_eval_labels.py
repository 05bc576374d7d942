"""Demonstrations: the same examples for every condition, other labels; nothing shared with the held-out set."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.evaluation_data import TEST, TRAIN

from eval.conditions.answers import Answer, AnswerFile, Batch
from eval.conditions.surface import SurfaceCues
from eval.experiment import Experiment
from eval.labels import LabelFile, choose, labels_for, ordered, with_gold
from eval.settings import parse_settings
from icm.config import LabelSource
from icm.errors import ConfigError, DataError
from icm.examples import ICMExample, LabelSpace, Relations
from icm.results.format import read_result, write_result
from icm.results.record import RunRecord
from icm.tasks import load_task
from icm.tasks.source import DataSource

SPACE = LabelSpace(("negative", "positive"))
MANY: tuple[LabelSource, ...] = ("labels", "gold", "random", "perturbed")
HELD_OUT = DataSource(**TEST)


def loaded(path: str) -> LabelFile:
    return with_gold(path, read_result(path), HELD_OUT)


def with_items(file: LabelFile, count: int) -> LabelFile:
    return replace(file, result=replace(file.result, labeled_examples=file.result.labeled_examples[:count]))


def test_conditions_differ_in_labels_alone(label_file: Callable[..., str]) -> None:
    file = loaded(label_file())
    chosen = choose([file], 24, seed=7)
    labels = {source: labels_for(source, chosen, file, SPACE, 7) for source in MANY}
    assert all([example for example, _ in found] == list(chosen) for found in labels.values())
    gold = [file.gold[example.id] for example in chosen]
    errors = {
        name: sum(label != right for (_, label), right in zip(found, gold, strict=True))
        for name, found in labels.items()
    }
    assert errors["gold"] == 0
    assert errors["perturbed"] == errors["labels"] > 0
    assert labels["perturbed"] != labels["labels"]
    assert [label for _, label in labels["random"]].count("positive") == 12


def test_choice_is_common_to_all_files_and_drawn_by_the_seed(label_file: Callable[..., str]) -> None:
    files = [loaded(label_file(name, wrong)) for name, wrong in (("icm", 5), ("bootstrap", 3))]
    files[1] = with_items(files[1], 20)
    assert {example.id for example in choose(files, 64, 0)} == set(files[1].labels) and len(files[1].labels) == 20
    assert choose(files, 10, 0) == choose(files, 10, 0) != choose(files, 10, 1)
    with pytest.raises(ConfigError, match="no example in common"):
        choose([files[0], with_items(files[1], 0)], 4, 0)


def test_orders_differ_and_repeat(label_file: Callable[..., str]) -> None:
    file = loaded(label_file())
    shown = labels_for("labels", choose([file], 16, 0), file, SPACE, 0)
    assert sorted(map(str, ordered(shown, 0, 0))) == sorted(map(str, shown))
    assert ordered(shown, 0, 0) == ordered(shown, 0, 0) != ordered(shown, 0, 1)


def test_an_evaluation_on_the_training_part_is_refused(
    label_file: Callable[..., str], settings_file: Callable[..., Path]
) -> None:
    path = settings_file(
        [{"name": "ICM", "kind": "many-shot", "labels_from": "file"}],
        labels=[label_file()],
        data={"dataset": "reviews", "part": "train", "max_examples": 20},
    )
    with pytest.raises(DataError, match="also in the held-out set"):
        _ = Experiment(parse_settings(["--config", str(path)])).runs


def test_labels_of_another_task_are_refused(
    label_file: Callable[..., str], settings_file: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    rows = [{"text": f"text {n}", "label": str(n % 2 == 0), "split": "test"} for n in range(4)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset": str(other), "task_type": "classification"}
    path = settings_file([{"name": "Base", "kind": "zero-shot"}], labels=[label_file()], data=data)
    with pytest.raises(DataError, match=r"other\.jsonl: the prompt of .*icm\.jsonl does not fit it: .*'(True|False)'"):
        _ = Experiment(parse_settings(["--config", str(path)])).runs


def test_a_file_without_a_source_takes_gold_from_the_training_part_of_the_held_out_data(
    label_file: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "bare.jsonl"
    write_result(path, replace(read_result(label_file()), record=RunRecord()))
    gold = loaded(str(path)).gold
    assert gold == load_task(replace(TRAIN, max_examples=None)).gold
    test_alone = tmp_path / "test.jsonl"
    test_alone.write_text('{"text": "Fine.", "label": "positive", "split": "test"}\n')
    assert with_gold(str(path), read_result(path), DataSource(str(test_alone), part="test")).gold == {}


def test_adapters_must_be_there_and_belong_to_the_labels(
    label_file: Callable[..., str], settings_file: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    tuned = {"name": "FT", "kind": "fine-tuned", "labels_from": "gold", "adapters": [str(folder)]}
    settings = parse_settings(["--config", str(settings_file([tuned], labels=[label_file()]))])
    folder.mkdir()
    lora = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}

    def trained(source: str, model: str = "tiny-llama") -> str:
        return json.dumps({"model": model, "label_source": source, "labels_sha256": "x", "labels": "y"})

    for name, text, expected in (
        ("adapter_config.json", json.dumps(lora), "no adapter_config.json"),
        ("adapter_model.safetensors", "\x02" + "\0" * 7 + "{}", "no adapter_model.safetensors"),
        ("train_results.json", trained("labels"), None),
    ):
        if expected:
            with pytest.raises(ConfigError, match=expected):
                _ = Experiment(settings).runs
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="was trained on label_source labels, but labels_from is gold"):
        _ = Experiment(settings).runs
    (folder / "train_results.json").write_text(trained("gold"), encoding="utf-8")
    with pytest.raises(ConfigError, match="was trained on another label file"):
        _ = Experiment(settings).runs
    (folder / "train_results.json").write_text(trained("gold", "meta-llama/Llama-3.1-8B"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"adapts meta-llama/Llama-3\.1-8B, but the model is"):
        _ = Experiment(settings).runs
    for record in ("{}", json.dumps({"model": "tiny-llama", "label_source": [1]}), "\x00"):
        (folder / "train_results.json").write_text(record, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"condition 'FT': .*train_results\.json"):
            _ = Experiment(settings).runs


def test_identity_is_content_not_paths(label_file: Callable[..., str], settings_file: Callable[..., Path]) -> None:
    many = [{"name": "ICM", "kind": "many-shot", "labels_from": "file"}]

    def identity(path: str, **settings: object) -> object:
        found = Experiment(parse_settings(["--config", str(settings_file(many, labels=[path], **settings))]))
        return found.runs[0].identity

    first = identity(label_file("one", 5))
    assert identity(label_file("two", 5)) == first
    assert identity(label_file("one", 4)) != first
    assert identity(label_file("one", 5), shots=12) != first
    assert identity(label_file("one", 5), data={"dataset": "reviews", "part": "test", "max_examples": 20}) != first


def test_surface_cues_learn_words_and_are_blind_to_the_question() -> None:
    def claim(place: int, word: str) -> ICMExample:
        text = f" {word} thing number {place}"
        return ICMExample(f"Question {place}?{text}", {"completion": text}, Relations(group=str(place // 2)))

    words = ["never", "always"]
    training = tuple(claim(place, words[place % 2]) for place in range(60))
    labels = tuple(("False", "True")[place % 2] for place in range(60))
    held_out = [claim(place, words[place % 2]) for place in range(60, 80)]
    batch = next(SurfaceCues(training, labels, LabelSpace()).answer(held_out, None))  # type: ignore[arg-type]
    found = [answer.log_probs[0] > answer.log_probs[1] for answer in batch.answers if answer.log_probs]
    assert found == [place % 2 == 1 for place in range(60, 80)]


def test_answers_survive_a_torn_line_and_are_counted_once(tmp_path: Path) -> None:
    def batch(*keys: str) -> Batch:
        return Batch(tuple(Answer(key, (-0.5, -1.5), prompt_hash=key) for key in keys), {"prompts": len(keys)})

    file = AnswerFile(tmp_path, "x", {"a": 1})
    with file.appending():
        file.add(batch("a", "b"))
        file.add(batch("c"))
    raw = file.path.read_bytes()
    file.path.write_bytes(raw[:-9])
    again = AnswerFile(tmp_path, "x", {"a": 1})
    assert again.unanswered("abcd") == ["c", "d"]
    with again.appending():
        again.add(batch("c", "d"))
    whole = AnswerFile(tmp_path, "x", {"a": 1})
    assert whole.unanswered("abcd") == []
    assert whole.usage == {"prompts": 4}
    assert whole.answers["d"].log_probs == (-0.5, -1.5)
    assert AnswerFile(tmp_path, "x", {"a": 2}).unanswered("a") == ["a"]


def test_failed_items_are_asked_again_only_while_the_condition_is_incomplete(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path, "x", {})
    with file.appending():
        file.add(Batch((Answer("a", error="HTTP 500"), Answer("b", label="yes"))))
        assert file.unanswered("abc") == ["a", "c"]
        file.add(Batch((Answer("c", label="no"),)))
    assert AnswerFile(tmp_path, "x", {}).unanswered("abc") == []
