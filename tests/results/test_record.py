"""The first line of a result file: checked field by field, and nothing is lost when it is written again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_results import claims, moods

from icm.errors import DataError
from icm.results.format import read_result, write_result
from icm.results.record import ModelRecord, RunRecord, read_record
from icm.tasks.source import DataSource

SOURCE: dict[str, Any] = {
    "dataset": "x.csv",
    "task_type": "classification",
    "config": None,
    "split": None,
    "holdout": 0.25,
    "part": "train",
    "max_examples": None,
    "seed": 42,
    "size": 100,
    "template": None,
    "verbalisers": {"a": " A", "b": " B"},
}
LINE: dict[str, Any] = {
    "settings": {"search": {"seed": 3, "rules": []}, "engine": {"model": "m"}},
    "model": {"name": "m", "revision": None, "adapter": None, "engine": "vllm", "device": "cuda", "dtype": "bfloat16"},
    "data": {"source": SOURCE, "fingerprint": "ab12", "name": "x"},
    "prompt": {"template": "Text: {text}\nMood:"},
    "versions": {"python": "3.12"},
    "git": {"commit": "abc", "changed": False},
    "seed": 3,
    "peak_memory_gib": 1.25,
    "created": "2026-01-02T03:04:05+00:00",
    "algorithm": "icm",
    "iterations": 60,
    "batches": [20, 20],
    "collapsed": False,
    "usage": {"prompts": 12, "seconds": 0.5},
    "stages": ["round_1"],
}


def test_every_field_is_typed_and_written_again_to_the_byte(tmp_path: Path) -> None:
    record = read_record(LINE)
    assert json.dumps(record.as_row()) == json.dumps(LINE)
    assert record.model == ModelRecord("m", None, None, "vllm", "cuda", "bfloat16") and record.model_name == "m"
    assert record.data.source == DataSource(**SOURCE)
    assert record.prompt.template == "Text: {text}\nMood:"
    assert (record.search_settings, record.other) == ({"seed": 3, "rules": []}, {"stages": ["round_1"]})
    result = replace(moods(1), record=record)
    write_result(tmp_path / "r.jsonl", result)
    assert read_result(tmp_path / "r.jsonl") == result and result.metadata == LINE


@pytest.mark.parametrize(
    ("line", "template"),
    [
        (LINE, "Text: {text}\nMood:"),
        ({"data": {"source": SOURCE | {"template": "T {text}"}}}, "T {text}"),
        ({"settings": {"data": {"template": "S {text}"}}, "prompt": {"template": None}}, "S {text}"),
        ({"settings": {"data": ["a file of another program"]}, "data": {"source": SOURCE}}, None),
        ({}, None),
    ],
    ids=["prompt", "source", "settings", "other", "nothing"],
)
def test_the_template_is_known_from_files_of_every_version(line: dict[str, Any], template: str | None) -> None:
    assert read_record(line).template == template


@settings(max_examples=30, deadline=None)
@given(
    absent=st.sets(st.sampled_from(sorted({*LINE} - {"stages"}))),
    unknown=st.dictionaries(st.sampled_from("xyz"), st.none() | st.integers()),
)
def test_a_line_may_say_less_and_more(absent: set[str], unknown: dict[str, int | None]) -> None:
    line = {key: value for key, value in LINE.items() if key not in absent} | unknown
    assert read_record(line).as_row() == line
    assert read_record(dict.fromkeys(absent) | unknown) == RunRecord(other=unknown)


@pytest.mark.parametrize("part", ["model", "data", "prompt"])
def test_unknown_keys_of_parts_are_kept(part: str) -> None:
    line = {part: {**LINE[part], "later": [1, None]}}
    assert read_record(line).as_row() == line


def test_a_model_can_be_its_name_alone() -> None:
    record = read_record({"model": "gpt2"})
    assert record.model_name == "gpt2" and read_record(record.as_row()) == record
    assert RunRecord().model_name == "unknown"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": [1]}, "'settings'"),
        ({"model": 5}, "'model'"),
        ({"model": {"name": 5}}, "'model.name'"),
        ({"data": "x"}, "'data'"),
        ({"data": {"name": ""}}, "'data.name'"),
        ({"data": {"source": {"dataset": 5}}}, "'data.source', 'dataset'"),
        ({"data": {"source": {"holdout": "x"}}}, "'data.source', 'holdout'"),
        ({"data": {"source": {"datasets": "x"}}}, "'data.source': unknown field 'datasets'; expected 'dataset'"),
        ({"prompt": {"template": 1}}, "'prompt.template'"),
        ({"versions": "1"}, "'versions'"),
        ({"git": True}, "'git'"),
        ({"seed": -1}, "'seed'"),
        ({"peak_memory_gib": "much"}, "'peak_memory_gib'"),
        ({"created": 2024}, "'created'"),
        ({"algorithm": {}}, "'algorithm'"),
        ({"iterations": 1.5}, "'iterations'"),
        ({"batches": [3, "4"]}, "'batches'"),
        ({"batches": 3}, "'batches'"),
        ({"collapsed": "no"}, "'collapsed'"),
        ({"usage": {"prompts": "many"}}, "'usage', 'prompts'"),
    ],
    ids=str,
)
def test_bad_fields_are_named_with_file_and_line(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = tmp_path / "bad.jsonl"
    write_result(path, replace(claims(1, 2, seed=1), record=RunRecord(other=change)))
    with pytest.raises(DataError) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path}:1: field {named}") and "\n" not in str(caught.value)
