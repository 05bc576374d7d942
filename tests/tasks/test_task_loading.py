"""Sources, parts, draws, templates, and what happens to bad input."""

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.task_formats import FORMATS

import icm.tasks
from icm.errors import ConfigError, DataError, ICMError
from icm.examples import TaskData
from icm.files import write_jsonl
from icm.search.checks import rules_for
from icm.tasks import DataSource, load_task
from icm.tasks.loading import _hub_data, _known_hub
from icm.tasks.lookup import find_task, task_names
from icm.tasks.source import written

Row = dict[str, Any]

ROWS: list[Row] = [
    {"question": f"Is {i} odd?", "choice": choice, "label": int((choice == "Yes") == (i % 2 == 1))}
    for i in range(60)
    for choice in ["Yes", "No", "Maybe"][: 2 + i % 2]
]


def load(rows: Sequence[Row], folder: Path, **arguments: Any) -> TaskData:
    write_jsonl(folder / "data.jsonl", rows)
    return load_task(DataSource(str(folder / "data.jsonl"), **arguments))


# ---------------------------------------------------------------------------------------------------- kinds of source
def test_every_file_type_and_folder_reads_the_same(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    header = "question,choice,label\n"
    csv = header + "".join(f"{r['question']},{r['choice']},{r['label']}\r\n" for r in ROWS)
    texts = {"a.jsonl": "\ufeff" + lines, "b.json": json.dumps(ROWS), "c.csv": csv}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "folder"))
    paths = [*texts, *(f"{name}.gz" for name in texts), "folder"]
    loaded = [load_task(DataSource(str(tmp_path / name))) for name in paths]
    for data in loaded:
        assert data.dataset.examples == loaded[0].dataset.examples and dict(data.gold) == dict(loaded[0].gold)
    assert [data.dataset.name for data in loaded] == ["a", "b", "c", "a", "b", "c", "folder"]


def test_folder_with_splits_and_class_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    splits = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(3)], "label": [0, 1, -1]}, features)
        for name in ("train", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "data"))
    source = {part: DataSource(str(tmp_path / "data"), part=part) for part in ("train", "test")}
    for part, one in source.items():
        data = load_task(one)
        assert {e.metadata["text"] for e in data.dataset} == {f"{part} {i}" for i in range(3)}
        assert sorted(data.gold.values()) == ["bad", "good"]
    with pytest.raises(ConfigError, match=r"split: found 'dev', expected one of \['test', 'train'\]"):
        load_task(DataSource(str(tmp_path / "data"), split="dev"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DataSource("truthful_qa"), ("truthfulqa/truthful_qa", "multiple_choice", "validation")),
        (DataSource("truthful_qa", config="generation", split="validation"), (None, "generation", "validation")),
        (DataSource("gsm8k"), ("openai/gsm8k", "main", "train")),
        (DataSource("openai/gsm8k", part="test"), ("openai/gsm8k", "main", "test")),
        (DataSource("gsm8k", part="test", holdout=0.5), ("openai/gsm8k", "main", "train")),
        (DataSource("anthropic/hh-rlhf", "comparison"), ("Anthropic/hh-rlhf", None, "train")),
        (DataSource("hellaswag", part="test"), ("Rowan/hellaswag", None, "validation")),
        (DataSource("some/unknown", part="test"), ("some/unknown", None, "test")),
    ],
)
def test_hub_configuration_and_split_are_found(source: DataSource, expected: tuple[str | None, ...]) -> None:
    hub = _hub_data(source, _known_hub(source.dataset))
    assert (expected[0] or hub.path, hub.config, hub.split) == (hub.path, *expected[1:])


def test_hub_data_with_one_split_need_a_holdout() -> None:
    with pytest.raises(ConfigError, match="holdout: found 0, but truthfulqa/truthful_qa has the one split"):
        load_task(DataSource("truthful_qa", part="test"))


def test_hub_that_cannot_be_reached_is_one_clear_error() -> None:
    code = (
        "from icm.tasks import load_task, DataSource\nfrom icm.errors import PrerequisiteError\n"
        "try: load_task(DataSource('truthful_qa'))\nexcept PrerequisiteError as error: print(error)"
    )
    command = [sys.executable, "-c", code]
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("truthfulqa/truthful_qa[validation]: cannot be loaded from the hub")
    assert len(done.stdout.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------ part and draw
def test_holdout_parts_share_no_question_and_miss_none(tmp_path: Path) -> None:
    parts = [load(ROWS, tmp_path, holdout=0.3, part=part).dataset for part in ("train", "test")]
    groups = [{e.group for e in part} for part in parts]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 60
    assert sum(map(len, parts)) == len(ROWS) and 8 <= len(groups[1]) <= 28
    fewer = load(ROWS[:40], tmp_path, holdout=0.3, part="test").dataset
    assert {e.id for e in fewer} <= {e.id for e in parts[1]}, "a question changed sides when others went away"


def test_test_part_of_data_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split: found 'test', expected one of \['train'\].*holdout"):
        load(ROWS, tmp_path, part="test")
    marked = [{**row, "split": "test" if i % 3 else "train"} for i, row in enumerate(ROWS)]
    sizes = [len(load(marked, tmp_path, part=part).dataset) for part in ("train", "test")]
    assert sizes == [len(ROWS) // 3, len(ROWS) - len(ROWS) // 3]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_slices_share_no_question_and_hold_every_example_once(tmp_path: Path, count: int) -> None:
    whole = load(ROWS, tmp_path, max_examples=90, seed=5)
    names = [f"{number}/{count}" for number in range(1, count + 1)]
    slices = [load(ROWS, tmp_path, max_examples=90, seed=5, slice=name) for name in names]
    groups = [{example.group for example in data.dataset} for data in slices]
    sizes = [len(data.dataset) for data in slices]
    assert sorted(example.id for data in slices for example in data.dataset) == [e.id for e in whole.dataset]
    assert {key: label for data in slices for key, label in data.gold.items()} == dict(whole.gold)
    assert sum(map(len, groups)) == len(set().union(*groups)) and max(sizes) - min(sizes) <= 3
    again = load(ROWS[::-1], tmp_path, max_examples=90, seed=5, slice=names[0])
    assert again.dataset.examples == slices[0].dataset.examples


def test_a_source_without_later_fields_is_written_as_before_there_were_any() -> None:
    assert not {"slice", "bad_records"} & asdict(DataSource(), dict_factory=written).keys()
    assert asdict(DataSource(slice="1/2"), dict_factory=written)["slice"] == "1/2"
    assert asdict(DataSource(bad_records="skip"), dict_factory=written)["bad_records"] == "skip"
    assert DataSource(slice="1/2", max_examples=3, part="test").whole == DataSource(part="test")


@pytest.mark.parametrize("most", [2, 3, 50, 149, 1000])
def test_draw_takes_whole_questions(most: int, tmp_path: Path) -> None:
    everything = load(ROWS, tmp_path).dataset
    draws = [load(ROWS, tmp_path, max_examples=most, seed=seed).dataset for seed in (1, 1, 2)]
    assert draws[2] == load(ROWS, tmp_path).dataset.sample(most, seed=2)
    assert draws[0].examples == draws[1].examples and min(most, len(ROWS)) - 2 <= len(draws[0]) <= most
    assert most >= len(ROWS) or draws[0].examples != draws[2].examples
    for draw in draws:
        drawn = {e.group for e in draw}
        assert len(draw) == sum(e.group in drawn for e in everything)


def test_questions_that_differ_in_case_and_space_are_one_group(tmp_path: Path) -> None:
    rows = [{"question": q, "choice": c, "label": y} for q, c, y in [("Why  so?", "a", 1), ("why so?", "b", 0)]]
    assert len({e.group for e in load(rows, tmp_path).dataset}) == 1


def test_contradicting_labels_count_as_unlabelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": t, "label": y} for t, y in [("x", "a"), ("x", "b"), ("y", "a"), ("y", "a"), ("z", "b")]]
    data = load(rows, tmp_path)
    assert {e.metadata["text"]: data.gold.get(e.id) for e in data.dataset} == {"x": None, "y": "a", "z": "b"}
    assert "data.jsonl:1" in caplog.text and "data.jsonl:2" in caplog.text


# ---------------------------------------------------------------------------------------------------------- templates
def test_a_record_s_own_id_is_kept(tmp_path: Path) -> None:
    """And is no part of what is asked or drawn; what is neither text nor number is none."""
    own = ["r-1", 2, 3.0, "4.0", " ", "\ud800", None, ["x"], True, float("nan"), 10**400]
    rows: list[Row] = [{**row, "id": value} for row, value in zip(ROWS, own, strict=False)]
    (tmp_path / "named.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_task(DataSource(str(tmp_path / "named.jsonl"))).dataset
    kept = {example.input: example.record_id for example in found}
    prompts = [f"Question: {row['question']}\nClaim: {row['choice']}\nI think this Claim is" for row in rows]
    assert [kept[prompt] for prompt in prompts] == ["r-1", "2", "3", "4", *[None] * 6, str(10**400)]
    without = load(ROWS[: len(rows)], tmp_path).dataset
    assert found.examples == without.examples and found.fingerprint == without.fingerprint
    twice = [{**ROWS[0], "id": value} for value in ("b", "a")]
    for same in (twice, twice[::-1]):
        assert [example.record_id for example in load(same, tmp_path).dataset] == ["a"]


def test_user_template_and_verbalisers(tmp_path: Path) -> None:
    rows = [{**row, "topic": "numbers"} for row in ROWS]
    verbalisers = {"True": " right", "False": " wrong"}
    data = load(rows, tmp_path, template="{{{topic}}} {question} {claim}?\nVerdict: ", verbalisers=verbalisers)
    assert "{numbers} Is 1 odd? Maybe?\nVerdict:" in {e.input for e in data.dataset}
    assert data.dataset.label_space.verbalisers == (" right", " wrong")
    assert data.dataset[0].metadata["topic"] == "numbers"
    assert data.template == "{{{topic}}} {question} {claim}?\nVerdict:"
    assert load(ROWS, tmp_path).template == "Question: {question}\nClaim: {claim}\nI think this Claim is"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"template": "{nope} {claim}"},
            r"template: unknown field 'nope' at .*data.jsonl:1; expected one of .*'claim'",
        ),
        ({"template": "{claim} {label}"}, "template: field 'label' holds the answer"),
        ({"template": "{question}"}, "give the same prompt"),
        ({"template": "{claim"}, "template '{claim'"),
        ({"template": "{claim!r}"}, "placeholder 'claim'"),
        ({"template": "no field"}, "found no placeholder"),
        ({"verbalisers": {"True": " a", "Maybe": " b"}}, r"verbalisers: found labels \['Maybe', 'True'\], expected"),
        ({"verbalisers": {"True": " ", "False": " b"}}, "verbalisers: label 'True': found ' '"),
        ({"holdout": 1.0}, "holdout: found 1.0"),
        ({"max_examples": 0}, "max_examples: found 0"),
        ({"slice": "0/2"}, "slice: found '0/2', expected J/N"),
        ({"slice": "3/2"}, "slice: found '3/2', expected J/N"),
        ({"slice": "1/61"}, "slice: found '1/61', expected at most 60 parts"),
        ({"max_examples": 1}, "max_examples: found 1, expected at least 2"),
        ({"task_type": "nonsense"}, "task_type 'nonsense': no such task .*; expected auto, one of .*truthfulqa"),
        ({"task_type": "os.path"}, "task_type 'os.path': no such task"),
    ],
)
def test_settings_that_do_not_fit(arguments: Row, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(ROWS, tmp_path, **arguments)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl: no records"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n{"text": \n', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n[1]\n', r"a\.jsonl:2: expected a JSON object"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n\n{"text": "\xff"}\n', r"a\.jsonl:3: not UTF-8"),
        ("a.jsonl", b'{"text": "x", "label": -Infinity}\n', r"a\.jsonl:1: -Infinity"),
        ("a.jsonl", b'{"text": "x", "label": 1e999}\n', r"a\.jsonl:1: number 1e999 is out of range"),
        ("a.jsonl", b'{"text": "  ", "label": "a"}\n', r"a\.jsonl:1: field 'text': found '  ', expected text"),
        ("a.jsonl", b'{"text": ["x"], "label": "a"}\n', r"a\.jsonl:1: field 'text': found \['x'\]"),
        ("a.jsonl", b'{"text": "\\ud800", "label": "a"}\n', r"a\.jsonl:1: field 'text'.*valid Unicode"),
        ("a.jsonl", b'{"text": "x", "label": {}}\n', r"a\.jsonl:1: field 'label': found \{\}"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n{"label": "a"}\n', r"a\.jsonl:2: field 'text' is missing"),
        ("a.jsonl", b'{"text": "x", "label": "a"}\n{"text": "y", "label": "a"}\n', "one class only, 'a'"),
        ("a.jsonl", b'{"text": "x"}\n', "found no labels; expected at least two labels in the data, or verbalisers"),
        (
            "a.jsonl",
            b'{"colour": "x", "size": 3}\n',
            r"fields \['colour', 'size'\] fit no task; --text-field colour makes a classification of them",
        ),
        ("a.jsonl", b'{"question": "x", "solution": "y", "choices": []}\n', "fit several tasks.*arc_challenge.*gsm8k"),
        (
            "a.jsonl",
            b'{"question": "x", "choice": "y", "label": 7}\n',
            r"a\.jsonl:1: field 'label': found 7, expected a label",
        ),
        ("a.jsonl", b'{"question": "x", "mc2_targets": []}\n', r"a\.jsonl:1: field 'mc2_targets': found \[\]"),
        (
            "a.jsonl",
            b'{"question": "x", "mc2_targets": {"choices": ["a"], "labels": []}}\n',
            "one label for each of the 1",
        ),
        (
            "a.jsonl",
            b'{"question": "x", "choices": ["a"]}\n',
            r"'choices': found \['a'\], expected two choices or more",
        ),
        ("a.jsonl", b'{"prompt": "x", "response": "y", "generated": "z"}\n', "'generated': found 'z', expected a list"),
        ("a.jsonl", b'{"ctx": "x", "endings": ["a", ""], "label": 0}\n', r"field 'endings\[1\]': found ''"),
        ("a.jsonl", b'{"ctx": "x", "endings": ["a", "b"], "label": 2}\n', r"field 'label': found 2, expected one of"),
        ("a.jsonl", b'{"input": "x", "target": "(C)"}\n', "no claims to judge"),
        (
            "a.jsonl",
            b'{"input": "x [a/b]", "metadata": {"gold_label": "c"}}\n',
            r"a\.jsonl:1: unknown label 'c', expected one",
        ),
        ("a.jsonl", b'{"input": "x [a/b]"}\n{"input": "y [c/d]"}\n', "records declare different labels"),
        (
            "a.jsonl",
            b'{"chosen": "x", "rejected": "y"}\n',
            r"a\.jsonl:1: field 'rejected': found 'y', expected a dialogue",
        ),
        ("a.jsonl", b'{"query": "q", "response_a": "x", "response_b": "x"}\n', "found no claim in 1 records"),
        ("a.json", b'[{"text": "x"}, 3]', r"a\.json: record 2: found int, expected an object"),
        ("a.json", b'{"a": 1}', r"a\.json: found dict, expected a list of objects"),
        ("a.json", b"[" * 100_000, r"a\.json: not valid JSON"),
        ("a.json", b'[{"text": "\xff"}]', r"a\.json:1: not UTF-8"),
        ("a.csv", b"text,label\nx,a\ny\n", r"a\.csv:3: expected 2 columns"),
        ("a.csv", b"text,label\nx,a,b\n", r"a\.csv:2: expected 2 columns"),
        ("a.csv", b'text,label\n"x,a\n', r"a\.csv:\d: not valid CSV"),
        ("a.csv", b"text,label\nx,a\n\xe9,b\n", r"a\.csv:3: not UTF-8"),
        ("a.csv", b"text,label\n" + b"x" * 200_000 + b",a\n", r"a\.csv:\d: not valid CSV \(field larger"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}' * 99, mtime=0)[:30], r"a\.jsonl\.gz: cannot be read"),
        ("a.txt", b"x", r"a\.txt: unknown file type; expected one of .jsonl, .json, .csv"),
    ],
)
def test_bad_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_task(DataSource(str(tmp_path / name)))
    assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataSource("missing.jsonl"), r"missing\.jsonl: no such file"),
        (DataSource("./nowhere"), "nowhere: no such file or folder"),
        (DataSource("synthetic:poems"), "found 'synthetic:poems', expected synthetic:math, synthetic:comparison or"),
        (DataSource("synthetic:math", size=10_001), "size: found 10001, expected at most 10000"),
        (DataSource("synthetic:math", part="test"), r"split: found 'test', expected one of \['train'\]"),
        (DataSource("reviews", "truthfulqa"), "task_type: found 'truthfulqa', expected 'reviews'"),
        (DataSource("reviews", split="dev"), r"split: found 'dev', expected one of \['test', 'train'\]"),
    ],
)
def test_bad_sources_are_named(source: DataSource, message: str) -> None:
    with pytest.raises(ICMError, match=message):
        load_task(source)


def test_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"not a folder written by datasets\.save_to_disk"):
        load_task(DataSource(str(tmp_path)))


FIELD_NAMES = sorted({name for task in map(find_task, task_names()) for names in task.signatures for name in names})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**6) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "labels", "text", "label", "solution", "role"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def spoilt_rows(draw: st.DrawFn) -> tuple[str, list[Row]]:
    """A task, and valid records of it of which one has a field changed, added or removed."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    rows = [FORMATS[name](i, i % 2) for i in range(3)]
    row = rows[draw(st.integers(0, 2))]
    field = draw(st.sampled_from([*row, *row, *FIELD_NAMES, "label"]))
    if field in row and draw(st.booleans()):
        del row[field]
    else:
        row[field] = draw(VALUES)
    return draw(st.sampled_from(["auto", name])), rows


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoilt=spoilt_rows())
def test_spoilt_records_load_or_are_refused(spoilt: tuple[str, list[Row]], tmp_path: Path) -> None:
    task_type, rows = spoilt
    (tmp_path / "data.json").write_text(json.dumps(rows))
    try:
        data = load_task(DataSource(str(tmp_path / "data.json"), task_type))
    except ICMError as error:
        assert "\n" not in str(error) and "data.json" in str(error) and len(str(error)) < 3000
    else:
        assert set(data.gold.values()) <= set(data.dataset.label_space.labels)
        seen = json.dumps([dict(example.metadata) for example in data.dataset])
        assert "gold" not in seen


NEW_TASK = '''
"""Haiku: does the poem fit its title?"""
from icm.consistency import AtMostOneTrueRule
from icm.tasks.base import Item, Task, signature

def items(record):
    title, poem = record.text("title"), record.text("poem")
    yield Item({"title": title, "poem": poem}, record.truth("fits"), group=title)

TASK = Task("haiku", items, [signature("title", "poem")], "Title: {title}\\n{poem}\\nThe poem fits:",
            gold_fields=frozenset({"fits"}), rules=[AtMostOneTrueRule()])
'''


def test_a_new_task_is_one_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "poetry_tasks"
    package.mkdir()
    (package / "haiku.py").write_text(NEW_TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows: list[Row] = [
        {"title": "Rain", "poem": "Drops.", "fits": "yes"},
        {"title": "Rain", "poem": "Sun.", "fits": "no"},
    ]
    data = load(rows, tmp_path, task_type="poetry_tasks.haiku")
    assert {e.input for e in data.dataset} == {f"Title: Rain\n{poem}\nThe poem fits:" for poem in ("Drops.", "Sun.")}
    assert sorted(data.gold.values()) == ["False", "True"]
    assert [type(rule).__name__ for rule in rules_for(data.dataset.task)] == ["AtMostOneTrueRule", "IdenticalTextRule"]
    # Where an earlier README told users to put it: beside the modules of icm/tasks.
    monkeypatch.setattr(icm.tasks, "__path__", [*icm.tasks.__path__, str(package)])
    assert load(rows, tmp_path, task_type="haiku").dataset.examples == data.dataset.examples
    assert load(rows, tmp_path).dataset.task == "haiku"
