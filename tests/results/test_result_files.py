"""Result files: what is written is read back, what is broken is named, folders are listed and cleaned."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_results import claims

from icm.errors import ConfigError, DataError
from icm.examples import ICMExample, LabelSpace, Relations, example_id
from icm.publish.exporters import ICMExporter
from icm.results.folder import ICMStorage
from icm.results.format import (
    ICMResult,
    LabeledExample,
    content_hash,
    example_row,
    metadata_row,
    read_result,
    trace_path,
    write_result,
)
from icm.results.record import read_record
from icm.results.training_rows import answer_pairs

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SPACE = LabelSpace(("yes", "no", "perhaps"))
EXAMPLES = st.lists(
    st.builds(
        LabeledExample,
        st.builds(
            ICMExample,
            TEXT,
            st.dictionaries(TEXT, JSON, max_size=3),
            st.builds(Relations, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT),
            st.none(),
            st.none() | TEXT,
        ),
        st.sampled_from(SPACE.labels),
        st.none() | st.floats(-50, 50),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda item: item.example.id,
)


@settings(max_examples=40, deadline=None)
@given(items=EXAMPLES, score=st.none() | st.floats(-1e6, 1e6), metadata=st.dictionaries(st.sampled_from("abc"), JSON))
def test_round_trip(tmp_path_factory: Any, items: Any, score: float | None, metadata: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    written = ICMResult(items, score, SPACE, "classification", read_record(metadata))
    write_result(path, written)
    assert read_result(path) == written
    assert [i.example.record_id for i in read_result(path).labeled_examples] == [i.example.record_id for i in items]
    named = [replace(item, example=replace(item.example, record_id="1")) for item in items]
    assert content_hash(replace(written, labeled_examples=named)) == content_hash(written)  # the same labels


def rows_of(result: ICMResult) -> list[dict[str, Any]]:
    return json.loads(json.dumps([metadata_row(result), *map(example_row, result.labeled_examples)]))


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


BAD_EXAMPLES = [
    ({"input": ""}, "'input'"),
    ({"input": "  \n"}, "'input'"),
    ({"input": 7}, "'input'"),
    ({"input": None}, "'input'"),
    ({"input": "half a pair \ud83d"}, "UTF-8"),
    ({"label": "true"}, "'label'"),
    ({"label": True}, "'label'"),
    ({"label": None}, "'label'"),
    ({"label": ["True"]}, "'label'"),
    ({"log_odds": "1.5"}, "'log_odds'"),
    ({"log_odds": True}, "'log_odds'"),
    ({"log_odds": 10**400}, "'log_odds'"),
    ({"log_odds": [1]}, "'log_odds'"),
    ({"record_id": 7}, "'record_id'"),
    ({"metadata": []}, "'metadata'"),
    ({"metadata": None}, "'metadata'"),
    ({"metadata": "text"}, "'metadata'"),
    ({"metadata": {"deep": ["\udc00"]}}, "UTF-8"),
    ({"relations": {"groups": "q"}}, "'groups'"),
    ({"relations": {"group": 3}}, "'group'"),
    ({"relations": {"group": ""}}, "'group'"),
    ({"relations": ["q"]}, "'relations'"),
    ({"id": "0123456789abcdef"}, "'id'"),
    ({"id": None}, "'id'"),
    ({"type": "icm_exmaple"}, "'type'"),
    ({"lable": "True"}, "did you mean|'label'"),
]


@pytest.mark.parametrize(("change", "named"), BAD_EXAMPLES, ids=lambda value: str(value)[:40])
def test_bad_example_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    rows = rows_of(claims(3, 2, seed=1))
    rows[4] |= change
    if "input" in change:
        del rows[4]["id"]
    path = write_lines(tmp_path / "bad.jsonl", rows)
    with pytest.raises(DataError, match=named) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path}:5: ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


BAD_HEADERS = [
    ({"task": 5}, "'task'"),
    ({"task": ""}, "'task'"),
    ({"score": "high"}, "'score'"),
    ({"score": False}, "'score'"),
    ({"examples": 7}, "'examples'.*cut"),
    ({"examples": None}, "'examples'"),
    ({"label_space": None}, "'label_space'"),
    ({"label_space": {"labels": ["True", "False"]}}, "'verbalisers'"),
    ({"label_space": {"labels": "TF", "verbalisers": [" T", " F"]}}, "'labels'"),
    ({"label_space": {"labels": ["True", 0], "verbalisers": [" T", " F"]}}, "'labels'"),
    ({"label_space": {"labels": ["True", "True"], "verbalisers": [" T", " F"]}}, "'label_space'.*distinct"),
    ({"label_space": {"labels": ["True"], "verbalisers": [" T"]}}, "'label_space'.*two"),
    ({"label_space": {"labels": ["True", "False"], "verbalisers": [" T"]}}, "'label_space'.*one distinct text"),
    ({"label_space": {"labels": ["True", "False"], "verbalisers": [" T", " F"], "texts": []}}, "'texts'"),
]


@pytest.mark.parametrize(("change", "named"), BAD_HEADERS, ids=lambda value: str(value)[:50])
def test_bad_header_is_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    rows = rows_of(claims(2, 3, seed=2))
    path = write_lines(tmp_path / "bad.jsonl", [rows[0] | change, *rows[1:]])
    with pytest.raises(DataError, match=named) as caught:
        read_result(path)
    assert str(caught.value).startswith(f"{path}:1: ")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", ":1: expected the metadata line"),
        (b"\n\n", ":1: expected the metadata line"),
        (b'{"type": "icm_example", "input": "a", "label": "True"}\n', ":1: expected the metadata line"),
        (b"[1]\n", ":1: expected a JSON object"),
        (b"\xff\xfe{}\n", ":1: not UTF-8"),
        (b"{" * 5000 + b"\n", ":1: not valid JSON"),
    ],
    ids=["empty", "blank", "no header", "list", "encoding", "nesting"],
)
def test_foreign_content_is_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=named):
        read_result(path)


def test_nan_missing_examples_and_missing_file(tmp_path: Path) -> None:
    rows = rows_of(claims(1, 2, seed=3))
    nan = json.dumps(rows[2]).replace(f'"log_odds": {rows[2]["log_odds"]}', '"log_odds": NaN')
    with pytest.raises(DataError, match=r"nan.jsonl:3: NaN"):
        read_result(write_lines(tmp_path / "nan.jsonl", [rows[0], rows[1], nan]))
    with pytest.raises(DataError, match=r"cut.jsonl:1: no examples"):
        read_result(write_lines(tmp_path / "cut.jsonl", rows[:1]))
    with pytest.raises(DataError, match="No such file"):
        read_result(tmp_path / "absent.jsonl")


def test_same_text_twice_names_both_lines(tmp_path: Path) -> None:
    rows = rows_of(claims(2, 2, seed=4))
    path = write_lines(tmp_path / "twice.jsonl", [rows[0] | {"examples": 5}, *rows[1:], rows[2] | {"label": "True"}])
    with pytest.raises(DataError, match=rf"twice.jsonl:6: .*line 3 .*{rows[2]['id']}"):
        read_result(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_data_error_that_names_the_file(tmp_path_factory: Any, data: st.DataObject) -> None:
    rows = rows_of(claims(2, 2, seed=5))
    row = rows[data.draw(st.integers(0, 4))]
    key = data.draw(st.sampled_from(sorted(row)))
    row[key] = data.draw(JSON | st.sampled_from([float("nan"), float("inf"), "\udfff", 10**4000, [[]] * 9]))
    path = write_lines(tmp_path_factory.getbasetemp() / "damaged.jsonl", rows)
    try:
        result = read_result(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert example_id(result.labeled_examples[0].example.input) == result.labeled_examples[0].example.id


def test_metadata_may_not_hide_own_fields() -> None:
    with pytest.raises(DataError, match="score"):
        metadata_row(claims(1, 2, seed=6, score=3.0))


# codelion/icm ---------------------------------------------------------------------------------------------------------

CODELION_HEADER = {
    "type": "icm_metadata",
    "timestamp": "20240115_143022",
    "score": 41.5,
    "iterations": 1000,
    "convergence_info": {"final_temperature": 0.001, "labeled_count": 4},
    "metadata": {"model_name": "google/gemma-3-1b-it", "alpha": 100.0, "task_type": "truthfulqa", "dataset_size": 4},
}


def codelion_row(question: str, answer: str, label: str, **metadata: Any) -> dict[str, Any]:
    text = f"Question: {question}\nAnswer: {answer}\nClaim: This answer is truthful\nI think this Claim is [True/False]"
    return {"input": text, "label": label, "metadata": {"question": question, "response_text": answer} | metadata}


@pytest.mark.parametrize("header", [[CODELION_HEADER], []], ids=["result", "plain data set"])
def test_codelion_files_are_read(tmp_path: Path, header: list[Any]) -> None:
    rows = [
        codelion_row("Is water wet?", "Yes, it wets things.", "True", gold_label="False"),
        codelion_row("Is water wet?", "Question: Is water wet?\n\nAnswer: No, never.", "False"),
        codelion_row("Can pigs fly?", "No.", "True"),
    ]
    typed = [{"type": "icm_example", **row} if header else row for row in rows]
    result = read_result(write_lines(tmp_path / "theirs.jsonl", [*header, *typed]))
    assert [item.label for item in result.labeled_examples] == ["True", "False", "True"]
    assert all(item.example.input.endswith("I think this Claim is") for item in result.labeled_examples)
    assert "gold_label" not in result.labeled_examples[0].example.metadata
    assert result.label_space == LabelSpace() and result.score == (41.5 if header else None)
    assert result.record.model_name == ("google/gemma-3-1b-it" if header else "unknown")
    pairs = answer_pairs(result).rows
    assert pairs == [{"prompt": "Is water wet?", "chosen": " Yes, it wets things.", "rejected": " No, never."}]
    write_result(tmp_path / "ours.jsonl", result)
    assert read_result(tmp_path / "ours.jsonl") == result


def test_codelion_comparisons_have_no_answer_of_their_own(tmp_path: Path) -> None:
    row = {
        "input": "Query: q\nResponse A: a\nResponse B: b\nClaim: A is better\nI think this Claim is [True/False]",
        "label": "True",
        "metadata": {"query": "q", "response_a": "a", "response_b": "b", "response_text": "A is preferred"},
    }
    result = read_result(write_lines(tmp_path / "pairs.jsonl", [row]))
    assert "completion" not in result.labeled_examples[0].example.metadata


@pytest.mark.parametrize(
    ("change", "named"),
    [({"label": "true"}, "'label'"), ({"input": " [True/False]"}, "'input'"), ({"metadata": [1]}, "'metadata'")],
)
def test_bad_codelion_rows_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    rows = [codelion_row("q", "a", "True"), codelion_row("q", "b", "False") | change]
    with pytest.raises(DataError, match=rf"bad.jsonl:2: .*{named}"):
        read_result(write_lines(tmp_path / "bad.jsonl", rows))


# Folders --------------------------------------------------------------------------------------------------------------


def test_names_of_runs(tmp_path: Path) -> None:
    storage = ICMStorage(tmp_path / "new")
    time = datetime(2024, 1, 15, 14, 30, 22, tzinfo=UTC)

    def name(*words: str) -> str:
        with storage.reserved(*words[:2], time, *words[2:]) as reserved:
            return reserved.name

    with storage.reserved("truthfulqa", "meta-llama/Llama-3.1-8B", time) as path:
        assert path == tmp_path / "new" / "truthfulqa_Llama-3.1-8B_20240115_143022.jsonl"
        # A name is taken from its choice on, though nothing has been written yet.
        assert name("truthfulqa", "Llama-3.1-8B") == "truthfulqa_Llama-3.1-8B_20240115_143022-2.jsonl"
        write_result(path, claims(1, 2, seed=1))
    second = name("truthfulqa", "other/Llama-3.1-8B")
    assert second == "truthfulqa_Llama-3.1-8B_20240115_143022-2.jsonl"
    trace_path(storage.results_dir / second).touch()
    assert name("truthfulqa", "Llama-3.1-8B").endswith("143022-3.jsonl")
    assert name("my task", "embedded:gemma") == "my-task_embedded-gemma_20240115_143022.jsonl"
    assert len(name("d" * 300, "m" * 300).encode()) < 200
    with storage.reserved("t", "m", time, "my_run") as path, pytest.raises(ConfigError, match="another run is writing"):
        name("t", "m", path.stem)
    assert name("t", "m", "my_run") == "my_run.jsonl"
    assert [path.name for path in storage.results_dir.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".hidden", "x.trace", "ünï", "n" * 300])
def test_nonsense_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="output_name"):
        ICMStorage(tmp_path).save_result(claims(1, 2, seed=1), name)
    assert list(tmp_path.iterdir()) == []


def test_save_twice_load_by_name(tmp_path: Path) -> None:
    storage = ICMStorage(tmp_path)
    first, second = claims(2, 2, seed=1), claims(2, 2, seed=2)
    paths = [storage.save_result(first, "experiment_1"), storage.save_result(second, "experiment_1")]
    assert len(set(paths)) == 2
    assert storage.load_result(paths[0]) == first
    assert storage.load_result(paths[1].name) == storage.load_result(paths[1].stem) == second


def fill(folder: Path, count: int) -> list[Path]:
    """Results of different days, each with a trace; returned newest first."""
    paths: list[Path] = []
    for day in range(count):
        path = folder / f"run_{(day * 3) % count}.jsonl"
        model = {"name": f"model-{day}"} if day % 2 else f"model-{day}"
        write_result(path, claims(day + 1, 2, seed=day, created=f"2024-03-{day + 1:02}T10:00:00+00:00", model=model))
        trace_path(path).write_text("{}\n")
        paths.insert(0, path)
    return paths


def test_other_json_lines_are_passed_over_and_damaged_results_are_not(tmp_path: Path) -> None:
    sound = tmp_path / "sound.jsonl"
    write_result(sound, claims(2, 2, seed=4))
    lines = sound.read_text().splitlines(keepends=True)
    exporter = ICMExporter()
    exporter.export_to_sft_format(sound, tmp_path / "sft.jsonl")
    exporter.export_to_sft_format(sound, tmp_path / "chat.jsonl", conversational=True)
    exporter.export_to_dpo_format(sound, tmp_path / "dpo.jsonl", create_pairs=False)
    others = {"array.jsonl": '[{"text": "a"}]', "table.jsonl": "text,label\na,b\n", "own.jsonl": '{"text": "日本"}\n{'}
    for name, text in others.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [entry.name for entry in ICMStorage(tmp_path).list_results()] == ["sound"]
    damaged = {
        "empty": b"",
        "cut": lines[0][:40].encode(),
        "torn": "".join(lines)[:-9].encode(),
        "headless": "".join(lines[1:]).encode(),
        "typeless": "".join([lines[0].replace('"type": "icm_metadata", ', ""), *lines[1:]]).encode(),
        "utf16": "".join(lines).encode("utf-16"),
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    broken = [entry.name for entry in ICMStorage(tmp_path).list_results() if entry.error is not None]
    assert sorted(broken) == sorted(damaged)


def test_list_is_newest_first_and_names_broken_files(tmp_path: Path) -> None:
    paths = fill(tmp_path, 4)
    broken = write_lines(tmp_path / "broken.jsonl", [{"type": "icm_metadata"}])
    os.utime(broken, (0, 0))
    (tmp_path / "folder.jsonl").mkdir()
    os.utime(tmp_path / "folder.jsonl", (9, 9))
    stored = ICMStorage(tmp_path).list_results()
    assert [entry.path for entry in stored] == [*paths, tmp_path / "folder.jsonl", broken]
    assert [entry.examples for entry in stored[:4]] == [8, 6, 4, 2]
    assert [entry.model for entry in stored[:4]] == ["model-3", "model-2", "model-1", "model-0"]
    assert stored[0].created == datetime(2024, 3, 4, 10, tzinfo=UTC) and stored[0].task == "truthfulqa"
    assert stored[0].score == read_result(paths[0]).score and stored[0].error is None
    assert "folder.jsonl" in str(stored[4].error) and "broken.jsonl:1: field 'task'" in str(stored[5].error)
    assert ICMStorage(tmp_path / "absent").list_results() == []


@pytest.mark.parametrize("keep", [0, 2, 5, 9])
def test_clean_keeps_the_latest(tmp_path: Path, keep: int) -> None:
    paths = fill(tmp_path, 5)
    others = [write_lines(tmp_path / name, ["{"]) for name in ("broken.jsonl", "running.trace.jsonl", "run_1.txt")]
    removed = ICMStorage(tmp_path).clean_old_results(keep)
    gone = {file for path in paths[keep:] for file in (path, trace_path(path))}
    assert set(removed) == gone
    kept = {file for path in paths[:keep] for file in (path, trace_path(path))}
    assert set(tmp_path.iterdir()) == kept | set(others)


@pytest.mark.parametrize("keep", [-1, True, 1.5, "3", None])
def test_clean_refuses_nonsense(tmp_path: Path, keep: Any) -> None:
    fill(tmp_path, 2)
    with pytest.raises(ConfigError, match="keep_latest"):
        ICMStorage(tmp_path).clean_old_results(keep)
    assert len(list(tmp_path.iterdir())) == 4
