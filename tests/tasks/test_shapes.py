"""Preference pairs and multiple choice as others publish them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from icm.errors import DataError
from icm.examples import TaskData
from icm.exporters import ICMExporter
from icm.files import write_jsonl
from icm.results.format import ICMResult, LabeledExample
from icm.tasks import DataSource, load_task

Row = dict[str, Any]


def load(rows: Sequence[Mapping[str, Any]], folder: Path, **settings: Any) -> TaskData:
    write_jsonl(folder / "data.jsonl", map(dict, rows))
    return load_task(DataSource(str(folder / "data.jsonl"), **settings))


def claims(data: TaskData) -> dict[str, str | None]:
    """Completion → gold."""
    return {str(e.metadata["completion"]).strip(): data.gold.get(e.id) for e in data.dataset}


# ----------------------------------------------------------------------------------------------------- preferences
def says(role: str, text: object, keys: tuple[str, str] = ("role", "content")) -> Row:
    return dict(zip(keys, (role, text), strict=True))


def parts(text: str) -> list[Row]:
    return [{"type": "text", "text": text}]


SHAREGPT = ("from", "value")
GOOD, BAD, ASK = "Water it weekly.", "No.", "How do I keep a fern?"
PREFERENCES: dict[str, Row] = {
    "texts": {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    "explicit": {
        "prompt": [says("user", ASK)],
        "chosen": [says("assistant", GOOD)],
        "rejected": [says("assistant", BAD)],
    },
    "implicit": {
        "chosen": [says("user", ASK), says("assistant", GOOD)],
        "rejected": [says("user", ASK), says("assistant", BAD)],
    },
    "parts": {
        "prompt": [says("user", parts(ASK))],
        "chosen": [says("assistant", parts(GOOD))],
        "rejected": [says("assistant", parts(BAD))],
    },
    "sharegpt": {
        "conversations": [says("human", ASK, SHAREGPT)],
        "chosen": says("gpt", GOOD, SHAREGPT),
        "rejected": says("gpt", BAD, SHAREGPT),
    },
    "whole sharegpt": {
        "chosen": [says("human", ASK, SHAREGPT), says("gpt", GOOD, SHAREGPT)],
        "rejected": [says("human", ASK, SHAREGPT), says("gpt", BAD, SHAREGPT)],
    },
    "arena": {
        "question_id": "7",
        "model_a": "m",
        "model_b": "n",
        "winner": "model_b",
        "conversation_a": [says("user", ASK), says("assistant", BAD)],
        "conversation_b": [says("user", ASK), says("assistant", GOOD)],
    },
    "kaggle arena": {
        "prompt": ASK,
        "response_a": BAD,
        "response_b": GOOD,
        **{f"winner_{name}": won for name, won in (("model_a", 0), ("model_b", 1), ("tie", 0))},
    },
    "kaggle arena as published": {
        "prompt": json.dumps([ASK]),
        "response_a": json.dumps([BAD]),
        "response_b": json.dumps([GOOD]),
        **{f"winner_{name}": won for name, won in (("model_a", 0), ("model_b", 1), ("tie", 0))},
    },
    "alpaca_eval": {"instruction": ASK, "output_1": BAD, "output_2": GOOD, "preference": 1.9999, "annotator": "x"},
    "paper": {
        "question": ASK,
        "choice": GOOD,
        "choice_2": BAD,
        "label": True,
        "consistency_id": 0,
        "consistency_key": "A>B",
    },
    "safe": {"prompt": ASK, "response_0": BAD, "response_1": GOOD, "better_response_id": 1},
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_every_shape_of_a_pair_is_the_same_pair(name: str, tmp_path: Path) -> None:
    data, plain = load([PREFERENCES[name]], tmp_path), load([PREFERENCES["texts"]], tmp_path)
    assert data.dataset.task == "comparison" and claims(data) == {GOOD: "True", BAD: "False"}
    assert data.dataset.examples == plain.dataset.examples and dict(data.gold) == dict(plain.gold)


@pytest.mark.parametrize("name", ["arena", "kaggle arena", "alpaca_eval", "paper", "safe"])
def test_gold_of_a_pair_can_be_away_and_a_tie_has_none(name: str, tmp_path: Path) -> None:
    row = dict(PREFERENCES[name])
    other = json.loads(json.dumps(row).replace(ASK, "Another?"))
    gold = [
        key for key in row if key in ("winner", "preference", "label", "better_response_id") or key.startswith("winner")
    ]
    bare = load([{key: value for key, value in row.items() if key not in gold}], tmp_path)
    assert len(bare.dataset) == 2 and not bare.gold
    ties: dict[str, Row] = {
        "arena": {"winner": "tie (bothbad)"},
        "kaggle arena": {"winner_model_b": 0, "winner_tie": 1},
        "alpaca_eval": {"preference": 1.5},
        "paper": {"label": "tie"},
    }
    if name in ties:
        data = load([row, {**other, **ties[name]}], tmp_path)
        assert len(data.dataset) == 4 and sorted(data.gold.values()) == ["False", "True"]


def test_the_papers_files_hold_each_pair_in_both_orders(tmp_path: Path) -> None:
    first = PREFERENCES["paper"]
    second = {**first, "choice": BAD, "choice_2": GOOD, "label": False, "consistency_key": "B>A"}
    data = load([first, second], tmp_path)
    assert claims(data) == {GOOD: "True", BAD: "False"} and len(data.dataset) == 2


def test_our_own_conversational_export_is_read_again(tmp_path: Path) -> None:
    data = load([PREFERENCES["texts"]], tmp_path)
    labelled = [LabeledExample(example, data.gold[example.id], 1.0) for example in data.dataset]
    exporter = ICMExporter()
    for conversational in (False, True):
        result = ICMResult(labelled, None, data.dataset.label_space, "comparison")
        exporter.export_to_dpo_format(result, tmp_path / "own.jsonl", conversational=conversational)
        again = load_task(DataSource(str(tmp_path / "own.jsonl")))
        assert again.dataset.task == "comparison" and claims(again) == {GOOD: "True", BAD: "False"}
        (tmp_path / "own.jsonl").unlink()


def test_what_is_no_text_in_a_message_is_named(tmp_path: Path) -> None:
    image = [says("user", [{"type": "image", "image": "a.png"}])]
    with pytest.raises(DataError, match=r"data\.jsonl:1: field 'prompt\[0\]': content: field 'text' is missing"):
        load([{**PREFERENCES["parts"], "prompt": image}], tmp_path)
    with pytest.raises(DataError, match="field 'preference': found 7, expected a number from 1"):
        load([{**PREFERENCES["alpaca_eval"], "preference": 7}], tmp_path)


# -------------------------------------------------------------------------------------------------- multiple choice
Q = "Which is cold?"
LABELLED = [{"text": "fire", "label": "A"}, {"text": "snow", "label": "B"}, {"text": "soup", "label": "C"}]
CHOICES: dict[str, Row] = {
    "mmlu": {"question": Q, "subject": "x", "choices": ["fire", "snow", "soup"], "answer": 1},
    "mmlu csv": {"question": Q, "A": "fire", "B": "snow", "C": "soup", "answer": "B"},
    "arc": {"question": Q, "choices": {"text": ["fire", "snow", "soup"], "label": ["A", "B", "C"]}, "answerKey": "B"},
    "arc numbers": {
        "question": Q,
        "choices": {"text": ["fire", "snow", "soup"], "label": list("123")},
        "answerKey": "2",
    },
    "arc raw": {"id": "1", "question": {"stem": Q, "choices": LABELLED}, "answerKey": "B"},
    "openbookqa": {
        "id": "1",
        "question_stem": Q,
        "choices": {"text": ["fire", "snow", "soup"], "label": list("ABC")},
        "answerKey": "B",
    },
    "list of objects": {"question": Q, "choices": LABELLED, "answerKey": "B"},
    "options": {"question": Q, "options": ["fire", "snow", "soup"], "answer": "snow"},
    "medqa": {"question": Q, "options": {"A": "fire", "B": "snow", "C": "soup"}, "answer": "snow", "answer_idx": "B"},
    "medmcqa": {"question": Q, "opa": "fire", "opb": "snow", "opc": "soup", "cop": 1, "exp": "It is."},
    "option_a": {"question": Q, "option_a": "fire", "option_b": "snow", "option_c": "soup", "answer": "b"},
    "choice1": {"question": Q, "choice1": "fire", "choice2": "snow", "choice3": "soup", "label": 1},
    "letter in brackets": {"question": Q, "choices": ["fire", "snow", "soup"], "answer": "(B)"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_shape_of_a_choice_is_the_same_choice(name: str, tmp_path: Path) -> None:
    data = load([CHOICES[name]], tmp_path)
    assert data.dataset.task == "arc_challenge"
    assert claims(data) == {"fire": "False", "snow": "True", "soup": "False"}
    assert {e.input.partition("\n")[0] for e in data.dataset} == {f"Question: {Q}"}
    gold = {"answer", "answerKey", "answer_idx", "cop", "label"} & CHOICES[name].keys()
    bare = load([{k: v for k, v in CHOICES[name].items() if k not in gold}], tmp_path, task_type="arc_challenge")
    assert bare.dataset.examples == data.dataset.examples and not bare.gold


def test_choices_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    row = CHOICES["mmlu"]
    with pytest.raises(
        DataError, match=r"'answer': found 3, expected one of .*, an index from 0 to 2, or the text"
    ) as caught:
        load([{**row, "answer": 3}], tmp_path)
    assert "--label-map '1=A' '2=B' '3=C'" in str(caught.value)
    counted = load([{**row, "answer": "3"}], tmp_path, label_map={"1": "A", "2": "B", "3": "C"})
    assert claims(counted)["soup"] == "True"
    with pytest.raises(DataError, match="'choices': found 'fire or snow', expected two choices or more"):
        load([{**row, "choices": "fire or snow"}], tmp_path)
    with pytest.raises(DataError, match=r"'choices\[1\]': found '', expected text"):
        load([{**row, "choices": ["fire", "", "soup"]}], tmp_path)


def test_an_empty_letter_does_not_shift_the_others(tmp_path: Path) -> None:
    row = {"question": Q, "A": "fire", "B": "", "C": "snow", "D": "soup", "answer": "C"}
    assert claims(load([row], tmp_path)) == {"fire": "False", "snow": "True", "soup": "False"}
