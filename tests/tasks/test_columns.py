"""Columns of the user's own: named, forgiven, found; and nothing that carries the question is left out silently."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icm.errors import ConfigError, DataError, ICMError
from icm.examples import TaskData
from icm.files import write_jsonl
from icm.tasks import DataSource, load_task
from icm.tasks.columns import looks_like_question, quoted

Row = dict[str, Any]
MOODS = ["calm", "cross", "calm", "cross"]


def load(rows: Sequence[Row], folder: Path, **settings: Any) -> TaskData:
    write_jsonl(folder / "data.jsonl", rows)
    return load_task(DataSource(str(folder / "data.jsonl"), **settings))


def inputs(data: TaskData) -> list[str]:
    return sorted(example.input for example in data.dataset)


def golds(data: TaskData) -> dict[str, str | None]:
    return {example.input: data.gold.get(example.id) for example in data.dataset}


# ----------------------------------------------------------------------------------- what carries the question
LEFT_OUT: dict[str, tuple[Row, str, str]] = {
    "qnli": ({"question": "Where {}?", "sentence": "By lake {}.", "label": "entailment"}, "classification", "question"),
    "dbpedia": ({"title": "Mill {}", "content": "A mill, number {}.", "label": "building"}, "classification", "title"),
    "two texts": ({"text": "order {}", "review": "Lovely lamp {}", "label": "a"}, "classification", "review"),
    "persona": (
        {"question": "Fair {}?", "choice": "Yes", "prompt": "As a nurse: {}", "label": 1},
        "truthfulqa",
        "prompt",
    ),
    "context": ({"question": "Who, {}?", "answer": "Ann", "context": "Ann of {} came."}, "gsm8k", "context"),
    "boolq story": ({"question": "is {} odd", "passage": "{}", "answer": True, "story": "Of {}."}, "boolq", "story"),
    "amazon": ({"Text": "Broke, {}", "Summary": "Sad {}", "Score": 1}, "classification", "Summary"),
    "race": (
        {"article": "Bee {}.", "question": "Who {}?", "options": ["a", "b"], "answer": "A"},
        "arc_challenge",
        "article",
    ),
}


def rows_of(name: str, count: int = 8) -> list[Row]:
    return [
        {
            key: value.replace("{}", str(i)) if isinstance(value, str) else value
            for key, value in LEFT_OUT[name][0].items()
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_left_out_part_of_the_question_is_refused_and_each_option_settles_it(name: str, tmp_path: Path) -> None:
    _, task, field = LEFT_OUT[name]
    labels = {"verbalisers": {"a": " a", "b": " b"}} if task == "classification" else {}
    rows = [{**row, "label": "a"} if task == "classification" else row for row in rows_of(name)]
    if name == "amazon":
        rows = [{**row, "Score": "ab"[i % 2]} for i, row in enumerate(rows_of(name))]
    with pytest.raises(DataError, match=rf"task {task}, found by the fields, does not read '{field}'") as caught:
        load(rows, tmp_path, **labels)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600 and f"--ignore-fields {field} " in message
    if task == "gsm8k":  # a model writes the claims, and is asked without a template
        assert "--template" not in message
        return
    assert field not in "".join(inputs(load(rows, tmp_path, ignore_fields=[field], **labels)))
    assert load(rows, tmp_path, task_type=task, **labels).dataset.task == task
    template = message.partition("--template $")[2].partition("', --ignore")[0].partition("' (or")[0].strip("'")
    shown = load(rows, tmp_path, template=template.replace("\\n", "\n"), **labels)
    assert shown.dataset.task == task and f"{{{field}}}" in template
    assert all(str(rows[0][field])[:3] in text for text in inputs(shown))


def test_fields_that_do_not_ask_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[Row] = [
        {
            "text": f"t {i}",
            "label": mood,
            "idx": i,
            "prompt_id": "x",
            "label_text": mood,
            "title": "Rain" if i == 0 else "",
        }
        for i, mood in enumerate(MOODS)
    ]
    data = load(rows, tmp_path)  # a title that one record in four has is not part of the question
    assert "left out             idx, prompt_id, label_text, title" in data.account.splitlines()


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        *((n, True) for n in ("question", "Title", "sentence2", "choice_2", "text_b", "product_title", "A", "optionA")),
        *((n, True) for n in ("question_stem", "reviewText", " Prompt ", "option 1")),
        *(
            (n, False)
            for n in ("idx", "prompt_id", "question_type", "label_text", "a", "topic", "messages", "I", "score")
        ),
    ],
)
def test_names_that_look_like_a_question(name: str, asks: bool) -> None:
    assert looks_like_question(name) == asks


# ---------------------------------------------------------------------------------------------------- own columns
NLI = [
    {"premise": f"Bird {i // 2} sings", "hypothesis": f"It is bird {i}", "relation": "yes" if i % 2 else "no"}
    for i in range(12)
]
NLI_TEMPLATE = "Premise: {premise}\nHypothesis: {hypothesis}\nRelation:"


@pytest.mark.parametrize("task_type", ["auto", "classification"])
def test_a_template_makes_a_task_of_any_columns(task_type: str, tmp_path: Path) -> None:
    data = load(NLI, tmp_path, task_type=task_type, template=NLI_TEMPLATE, label_field="relation")
    assert golds(data)["Premise: Bird 0 sings\nHypothesis: It is bird 1\nRelation:"] == "yes"
    assert len(data.dataset) == len({e.group for e in data.dataset}) == 12 and data.dataset.task == "classification"
    assert data.dataset.label_space.labels == ("no", "yes")
    grouped = load(NLI, tmp_path, template=NLI_TEMPLATE, label_field="relation", group_field="premise", holdout=0.5)
    other = load(
        NLI, tmp_path, template=NLI_TEMPLATE, label_field="relation", group_field="premise", holdout=0.5, part="test"
    )
    premises = [{str(e.metadata["premise"]) for e in part.dataset} for part in (grouped, other)]
    assert not premises[0] & premises[1] and len(premises[0] | premises[1]) == 6
    with pytest.raises(ConfigError, match="field 'relation' holds the answer of task classification"):
        load(NLI, tmp_path, template="{premise} {relation}", label_field="relation")


@pytest.mark.parametrize(
    ("row", "template"),
    [
        ({"question": "Why {}?", "answer": "So {}.", "label": "good"}, "{question} {answer} Verdict:"),
        ({"prompt": "Do {}", "response": "Did {}", "label": "good"}, "{prompt} {response} Verdict:"),
        ({"question": "Who {}?", "choice": "Ann", "label": "good"}, "{question} {choice} Verdict:"),
        ({"goal": "Cool {}", "sol1": "Wait", "sol2": "Boil", "label": "good"}, "{goal} {sol1} Verdict:"),
    ],
)
def test_a_template_and_other_labels_make_a_classification_of_known_fields(
    row: Row, template: str, tmp_path: Path
) -> None:
    rows = [{key: str(value).replace("{}", str(i)) for key, value in row.items()} for i in range(4)]
    data = load(rows, tmp_path, template=template, verbalisers={"good": " good", "bad": " bad"})
    assert data.dataset.task == "classification" and set(data.gold.values()) == {"good"}
    assert inputs(data)[0].endswith(" Verdict:")


def test_templates_of_known_tasks_keep_them(tmp_path: Path) -> None:
    rows = [{"question": f"Is {i} odd?", "choice": c, "label": 1, "topic": "odd"} for i in range(4) for c in "ab"]
    data = load(rows, tmp_path, template="{topic}: {question} {claim}")
    assert data.dataset.task == "truthfulqa" and len({e.group for e in data.dataset}) == 4


@pytest.mark.parametrize("header", ["Text", " text ", "TEXT", "\ufefftext"])
def test_case_and_blanks_of_headers_are_forgiven(header: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "icm")
    rows = [{header: f"t {i}", "Label ": mood} for i, mood in enumerate(MOODS)]
    data = load(rows, tmp_path)
    plain = load([{"text": f"t {i}", "label": mood} for i, mood in enumerate(MOODS)], tmp_path)
    assert data.dataset.examples == plain.dataset.examples and dict(data.gold) == dict(plain.gold)
    assert f"field {header!r} is read as 'text'" in caplog.text
    assert inputs(load(rows, tmp_path, template="It says {text}:"))[0] == "It says t 0:"
    assert inputs(load(rows, tmp_path, template=f"It says {{{header}}}:"))[0] == "It says t 0:"


def test_headers_of_other_tasks_are_forgiven_too(tmp_path: Path) -> None:
    rows: list[Row] = [{"Question": f"Which {i}?", "Choice": "a", "Label": 1} for i in range(3)]
    assert load(rows, tmp_path).dataset.task == "truthfulqa"
    options: list[Row] = [
        {"Question": f"Which {i}?", "Option A": "a", "Option B": "b", "Answer": "B"} for i in range(3)
    ]
    data = load(options, tmp_path)
    assert data.dataset.task == "arc_challenge" and list(data.gold.values()).count("True") == 3


def test_messages_name_the_columns_that_the_data_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:2: field 'Text': found '  ', expected text"):
        load([{"Text": "a", "Label": "x"}, {"Text": "  ", "Label": "y"}], tmp_path)
    with pytest.raises(
        ConfigError, match=r"label_field: found 'sttars', expected one of the fields \['text', 'stars'\]"
    ):
        load([{"text": "a", "stars": 1}], tmp_path, label_field="sttars")
    with pytest.raises(ConfigError, match=r"group_field: found 'user', expected one of the fields \['text', 'label'\]"):
        load([{"text": str(i), "label": i % 2} for i in range(4)], tmp_path, group_field="user")
    with pytest.raises(ConfigError, match="ignore_fields: found 'title'"):
        load([{"text": "a", "label": 1}], tmp_path, ignore_fields=["title"])


def test_the_text_field_is_read_as_the_text(tmp_path: Path) -> None:
    rows: list[Row] = [{"text": f"order {i}", "Body": f"b {i}", "label": mood} for i, mood in enumerate(MOODS)]
    data = load(rows, tmp_path, text_field="Body")
    assert inputs(data) == [f"Text: b {i}\nLabel:" for i in range(4)]
    assert load(
        [{"scenario": "x", "label": "a"}, {"scenario": "y", "label": "b"}], tmp_path, text_field="scenario"
    ).gold


@pytest.mark.parametrize(
    "name", ["stars", "class", "Category", "rating", "target", "gold", "answer", "airline_sentiment", "choice"]
)
def test_label_columns_under_other_names_are_found(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "icm")
    rows = [{"text": f"t {i}", name: mood} for i, mood in enumerate(MOODS)]
    data = load(rows, tmp_path)
    assert sorted(data.gold.values()) == sorted(MOODS) and f"as gold              {name}" in data.account
    assert f"field {name!r} is taken as the label; --label-field names another one" in caplog.text
    bare = load([{"text": f"t {i}"} for i in range(4)], tmp_path, verbalisers={"calm": " calm", "cross": " cross"})
    assert bare.dataset.examples == data.dataset.examples and bare.dataset.fingerprint == data.dataset.fingerprint


def test_label_columns_are_asked_for_where_two_could_be_meant(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"text": f"t {i}", "stars": i % 2, "rating": mood, "score": i / 7} for i, mood in enumerate(MOODS)
    ]
    with pytest.raises(
        DataError, match="'stars' and 'rating' may hold the labels; give --label-field stars or --label-f"
    ):
        load(rows, tmp_path)
    assert set(load(rows, tmp_path, label_field="rating").gold.values()) == {"calm", "cross"}
    known = load(rows, tmp_path, verbalisers={"calm": " calm", "cross": " cross"})
    assert set(known.gold.values()) == {"calm", "cross"}, "the one that holds the labels that were given"
    other = load(rows, tmp_path, verbalisers={"up": " up", "down": " down"})
    assert not other.gold, "none of them: data without labels, as before there was a search for one"


# ----------------------------------------------------------------------------------------------------- what is said
def test_records_of_no_task_are_told_what_to_paste(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fit no task; --template \$'Premise: \{premise\}\\nHypothesis") as caught:
        load(NLI, tmp_path)
    assert len(str(caught.value)) < 450 and "--label-field" in str(caught.value)
    answers: list[Row] = [{"Q1": f"It was fine, day {n}", "day": n, "Q2": ("Yes", "No")[n % 2]} for n in range(6)]
    with pytest.raises(
        DataError, match=r"fit no task; --text-field Q1 --label-field Q2 makes a classification of them$"
    ):
        load(answers, tmp_path)
    assert set(load(answers, tmp_path, text_field="Q1", label_field="Q2").gold.values()) == {"No", "Yes"}
    with pytest.raises(DataError, match=r"fit no task; --text-field scenario makes a classification of them$"):
        load([{"scenario": "x", "label": 1}], tmp_path)
    with pytest.raises(DataError, match=r"--text-field v1 makes a classification of them \(--label-field says where"):
        load([{"v1": "ham", "v2": "x"}], tmp_path)
    with pytest.raises(DataError, match=r"fit no task; put a text into each record; the nearest task is "):
        load([{"v1": 1.5, "v2": [1]}], tmp_path)


def test_the_account_says_what_is_read_as_what(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"text": f"tea {i}", "label": mood, "id": f"n{i}"} for i, mood in enumerate([*MOODS, None, None, None])
    ]
    assert load(rows, tmp_path, verbalisers={"calm": " calm", "cross": " CROSS"}).account.splitlines()[:-2] == [
        "task                 classification (by the fields; --task-type names another)",
        "fields used          text",
        "as gold              label",
        "left out             id",
        "labels               7 examples: 2 calm, 2 cross, 3 unlabelled",
    ]
    named = load(rows, tmp_path, task_type="classification", max_examples=2, template="{text} is", seed=1)
    first = named.dataset
    assert named.account.startswith("task                 classification\n")
    assert named.account.endswith(" is<LABEL: ' calm' | ' cross'>") and len(first) == 2
    long = load([{**row, "text": f"{i} {'long ' * 999}"} for i, row in enumerate(rows)], tmp_path)
    assert len(long.account) < 2000 and "characters…]" in long.account


def test_settings_of_columns_are_written_only_where_set(tmp_path: Path) -> None:
    from dataclasses import asdict

    from icm.tasks.source import written

    later = {"text_field", "label_field", "group_field", "label_map", "ignore_fields", "slice"}
    assert not later & asdict(DataSource(), dict_factory=written).keys()
    source = replace(DataSource(), label_field="stars", ignore_fields=["title"], label_map={"NA": ""})
    assert later & asdict(source, dict_factory=written).keys() == {"label_field", "ignore_fields", "label_map"}


@pytest.mark.parametrize("text", ["plain", "two words", "it's", "a\nb's\\c", "$HOME `x`"])
def test_what_is_to_be_pasted_is_one_line_and_survives_a_shell(text: str, tmp_path: Path) -> None:
    import subprocess

    line = quoted(text)
    assert "\n" not in line
    done = subprocess.run(["bash", "-c", f"printf %s {line}"], capture_output=True, text=True, check=True)
    assert done.stdout == text
    assert "\n" in text or shlex.split(line) == [text]


def test_refusals_come_before_a_model_writes(tmp_path: Path) -> None:
    def generate(prompts: list[str]) -> list[str]:
        raise AssertionError("a model was asked")

    write_jsonl(tmp_path / "data.jsonl", rows_of("context"))
    with pytest.raises(ICMError, match="does not read 'context'"):
        load_task(DataSource(str(tmp_path / "data.jsonl")), generate)


def test_what_a_model_is_to_write_is_said_before_it_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "icm")
    seen: list[str] = []

    def generate(prompts: list[str]) -> list[str]:
        seen.extend(record.message for record in caplog.records)
        return [f"It is {number}" for number, _ in enumerate(prompts)]

    write_jsonl(tmp_path / "data.jsonl", [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)])
    load_task(DataSource(str(tmp_path / "data.jsonl")), generate)
    assert seen[-1].splitlines()[1:] == [
        "task                 gsm8k (by the fields; --task-type names another)",
        "fields used          question",
        "as gold              answer",
        "left out             none",
        "a prompt for claims  Question: What is 0 + 1?",
        "                     Answer: Let's think step by step.",
    ]


def test_prompts_that_are_ready_made_take_a_label_column_as_gold(tmp_path: Path) -> None:
    rows = [{"input": f"Is {i} odd? [True/False]", "label": str(bool(i % 2))} for i in range(4)]
    data = load(rows, tmp_path)
    assert data.dataset.task == "prepared" and golds(data)["Is 1 odd?"] == "True"
    own = load([{"input": f"tea {i}", "label": mood} for i, mood in enumerate(MOODS)], tmp_path, template="{input} is")
    assert own.dataset.task == "classification" and golds(own)["tea 0 is"] == "calm"
