"""The label column is looked at: one label however it is written, and a word on each that looks like a mistake."""

import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from icm.errors import DataError
from icm.examples import TaskData
from icm.files import write_jsonl
from icm.labelling.options import from_words
from icm.tasks import DataSource, load_task

Row = dict[str, Any]


def load(labels: Sequence[object], folder: Path, **settings: Any) -> TaskData:
    write_jsonl(folder / "data.jsonl", [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    return load_task(DataSource(str(folder / "data.jsonl"), **settings))


def golds(data: TaskData) -> list[str | None]:
    by_text = {str(e.metadata["text"]): data.gold.get(e.id) for e in data.dataset}
    return [by_text[f"text {i}"] for i in range(len(by_text))]


def option(message: str, name: str) -> dict[str, str]:
    """The mapping that a message gives to paste."""
    words = shlex.split(message.partition(f"{name} ")[2])
    value = from_words(dict[str, str], [word for word in words if "=" in word], name)
    assert isinstance(value, dict)
    return value


MOODS = {"0": " cross", "1": " calm"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_whole_numbers_are_one_label_however_they_are_written(suffix: str, tmp_path: Path) -> None:
    written = ["1", '"1"', "1.0", '"1.0"', "0", "0.0", "-1", '"-1"', "-1.0"]
    if suffix == "csv":
        text = "text,label\n" + "".join(f"t {i},{label}\n" for i, label in enumerate(written))
    else:
        rows = [f'{{"text": "t {i}", "label": {label}}}' for i, label in enumerate(written)]
        text = "\n".join(rows) if suffix == "jsonl" else f"[{','.join(rows)}]"
    (tmp_path / f"a.{suffix}").write_text(text)
    data = load_task(DataSource(str(tmp_path / f"a.{suffix}"), verbalisers=MOODS))
    by_text = {str(e.metadata["text"]): data.gold.get(e.id) for e in data.dataset}
    assert [by_text[f"t {i}"] for i in range(9)] == ["1"] * 4 + ["0"] * 2 + [None] * 3


def test_an_absent_number_is_no_label_in_any_format(tmp_path: Path) -> None:
    lines = [f'{{"text": "text {i}", "label": {label}}}' for i, label in enumerate(("1", "NaN", "0", "null"))]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert golds(load_task(DataSource(str(tmp_path / "a.jsonl")))) == ["1", None, "0", None]


def test_names_that_are_not_the_datas_are_said_with_what_maps_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"unknown labels '0' \(1\), '1' \(2\), expected \['neg', 'pos'\]; name"
    ) as caught:
        load([1, 0, 1], tmp_path, verbalisers={"neg": " bad", "pos": " good"})
    assert "(--verbalisers '0= TEXT' '1= TEXT'), or say which is which (--label-map '0=NAME'" in str(caught.value)


def test_a_field_of_its_own_for_each_text_is_asked_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load([f"id {n}" for n in range(12)], tmp_path)
    assert "12 labels for 12 texts: are they classes? --label-field names another field" in caplog.text
    caplog.clear()
    load([f"intent {n // 2}" for n in range(24)], tmp_path)
    assert not caplog.text


def test_minus_one_is_a_label_where_it_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert golds(load([1, -1, 0, 1], tmp_path)) == ["1", None, "0", "1"]
    assert "label -1 counts as unlabelled (1 records); --verbalisers '-1= NAME' … keeps it" in caplog.text
    assert golds(load([1, -1], tmp_path, verbalisers={"-1": " bad", "1": " good"})) == ["1", "-1"]
    assert golds(load([1, -1], tmp_path, label_map={"-1": "bad", "1": "good"})) == ["good", "bad"]
    decimals = load([1.0, 0.0], tmp_path, verbalisers={"1.0": " good", "0.0": " bad"})  # as older settings name them
    assert golds(decimals) == ["1.0", "0.0"] and decimals.dataset.label_space.labels == ("0.0", "1.0")


@pytest.mark.parametrize("task", ["truthfulqa", "comparison", "boolq", "arc_challenge"])
def test_minus_one_is_unlabelled_in_every_task(task: str, tmp_path: Path) -> None:
    rows: dict[str, Row] = {
        "truthfulqa": {"question": "q", "choice": "c", "label": -1},
        "comparison": {"query": "q", "response_a": "a", "response_b": "b", "label": "-1"},
        "boolq": {"question": "q", "passage": "p", "answer": -1.0},
        "arc_challenge": {"question": "q", "choices": ["a", "b"], "answer": -1},
    }
    write_jsonl(tmp_path / "data.jsonl", [rows[task]])
    data = load_task(DataSource(str(tmp_path / "data.jsonl")))
    assert data.dataset.task == task and not data.gold


def test_labels_that_differ_in_case_or_space_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = ["very good", "Very good", "very  good", "very good ", "bad", "BAD", "bad"]
    assert len(load(labels, tmp_path).dataset.label_space.labels) == 5
    (line,) = [r.message for r in caplog.records if "case or white space" in r.message]
    assert "'very good' (2), 'Very good' (1), 'very  good' (1)" in line and "'bad' (2), 'BAD' (1)" in line
    caplog.clear()
    data = load(labels, tmp_path, label_map=option(line, "--label-map"))
    assert data.dataset.label_space.labels == ("bad", "very good") and not caplog.records


@pytest.mark.parametrize("word", ["NA", "N/A", "nan", "None", "null", "-", "?", "NULL", "Unknown"])
def test_labels_that_look_missing_are_warned_about(word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = ["up", "down", word, "up", "down"]
    load(labels, tmp_path)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(f"label {word!r} (1 of 5) looks like a missing value; --label-map '{word}=' ")
    data = load(labels, tmp_path, label_map=option(line, "--label-map"))
    assert golds(data)[2] is None and data.dataset.label_space.labels == ("down", "up")
    assert "4 examples" not in data.account and "5 examples: 2 down, 2 up, 1 unlabelled" in data.account


def test_rare_labels_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = ["up", "down"] * 12 + ["Is it up or down?", "it's sideways", "it's sideways"]
    load(labels, tmp_path)
    (line,) = [record.message for record in caplog.records]
    assert "'Is it up or down?' (1)" in line and '"it\'s sideways" (2)' in line and "\n" not in line
    data = load(labels, tmp_path, label_map=option(line, "--label-map"))
    assert data.dataset.label_space.labels == ("down", "up") and golds(data)[24:] == [None] * 3
    caplog.clear()
    load([f"intent {i // 2}" for i in range(20)], tmp_path)
    assert not caplog.records, "where all labels are rare, none is"


@pytest.mark.parametrize(
    ("labels", "verbalisers"),
    [
        ([0, 1, 1, 0], {"0": " negative", "1": " positive"}),
        ([1, 2, 3, 4, 5], {"1": " terrible", "2": " bad", "3": " okay", "4": " good", "5": " great"}),
        ([10, 9, 9], {"9": " NAME-9", "10": " NAME-10"}),
    ],
)
def test_numbers_get_the_command_to_paste(
    labels: list[int], verbalisers: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(labels, tmp_path)
    (line,) = [record.message for record in caplog.records]
    assert "are numbers, which tell a model little" in line and option(line, "--verbalisers") == verbalisers
    caplog.clear()
    load(labels, tmp_path, verbalisers=verbalisers)
    assert not caplog.records


def test_labels_that_look_missing_share_a_line_and_many_numbers_are_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(["up", "down", "-", "NA", "--", "-", "up"], tmp_path)
    (line,) = [record.message for record in caplog.records]
    assert option(line, "--label-map") == {"-": "", "NA": "", "--": ""} and "'-' (2 of 7)" in line
    caplog.clear()
    load([n % 40 for n in range(120)], tmp_path)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("40 numbers from 0 to 39 are taken as labels") and "NAME" not in line


@pytest.mark.parametrize("given", [{"up": " good"}, {"up": " good", "donw": " bad"}, {"up": " good", "sideways": " x"}])
def test_verbalisers_that_lack_a_label_are_told_all(given: dict[str, str], tmp_path: Path) -> None:
    labels = ["up", "down", "up", "down"]
    with pytest.raises(DataError, match="the data also have 'down'") as caught:
        load(labels, tmp_path, verbalisers=given)
    told = option(str(caught.value).partition(", else --label-map")[0], "--verbalisers")
    assert told["up"] == " good" and told["down"] == given.get("donw", " down") and "donw" not in told
    assert golds(load(labels, tmp_path, verbalisers=told)) == labels


def test_unknown_labels_are_refused_with_the_option_that_maps_them(tmp_path: Path) -> None:
    verbalisers = {"up": " up", "down": " down"}
    with pytest.raises(DataError, match=r"data\.jsonl:2: unknown label 'UP'.*--label-map 'UP=up' makes it that label"):
        load(["up", "UP"], tmp_path, verbalisers=verbalisers)
    with pytest.raises(DataError, match=r"unknown label 'left'.*--label-map 'left=' counts it as unlabelled"):
        load(["up", "left"], tmp_path, verbalisers=verbalisers)
    assert golds(load(["up", "left"], tmp_path, verbalisers=verbalisers, label_map={"left": ""})) == ["up", None]


def test_labels_of_fixed_spaces_are_mapped_as_well(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"question": f"q {i}", "choice": "c", "label": y} for i, y in enumerate(["bad", "true", "NA", 0])
    ]
    write_jsonl(tmp_path / "data.jsonl", rows)
    source = DataSource(str(tmp_path / "data.jsonl"))
    with pytest.raises(DataError, match=r"found 'bad', expected a label True or False.*--label-map maps others"):
        load_task(source)
    data = load_task(DataSource(source.dataset, label_map={"bad": "False", "NA": ""}))
    by_question = {str(e.metadata["question"]): data.gold.get(e.id) for e in data.dataset}
    assert by_question == {"q 0": "False", "q 1": "True", "q 2": None, "q 3": "False"}


def test_a_map_of_labels_that_are_not_there_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(["up", "down", "up"], tmp_path, label_map={"Up": "up"})
    assert "label_map: no record has the label 'Up'; there are 'down' (1), 'up' (2)" in caplog.text


def test_blank_labels_are_none(tmp_path: Path) -> None:
    assert golds(load(["up", "", "  ", None, "down"], tmp_path)) == ["up", None, None, None, "down"]


def test_refusals_without_labels_say_what_to_give(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "icm")
    for labels, found in ((["up", "up"], "one class only, 'up'"), ([None, None], "no labels")):
        with pytest.raises(DataError, match=re.escape(f"found {found}; expected at least two labels")) as caught:
            load(labels, tmp_path)
        assert len(option(str(caught.value), "--verbalisers")) == 2 and len(str(caught.value)) < 400
