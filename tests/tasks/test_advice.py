"""Records that no task reads: what a message names is followed, and makes a task of them."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from icm.errors import DataError
from icm.labelling.options import from_words
from icm.tasks import DataSource, load_task

Row = dict[str, Any]
COUNT = 12


def load(rows: list[Row], folder: Path, **settings: Any) -> Any:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(DataSource(str(path), **settings))


def replies(query: str, a: str, b: str, **judge: list[Any]) -> list[Row]:
    return [
        {query: f"Say {n}", a: f"one {n}", b: f"two {n}", **{k: v[n % len(v)] for k, v in judge.items()}}
        for n in range(COUNT)
    ]


def choices(query: str, names: list[str], key: str, keys: list[Any]) -> list[Row]:
    texts = ("red", "green", "blue")
    return [
        {query: f"Which is {n}?", **{name: f"{text} {n}" for name, text in zip(names, texts, strict=True)}}
        | {key: keys[n % len(keys)]}
        for n in range(COUNT)
    ]


OTHER_NAMES: dict[str, tuple[str, list[Row]]] = {
    "sides": ("comparison", replies("query", "left", "right", better=["left", "right", "tie"])),
    "answers": ("comparison", replies("question", "answer_a", "answer_b", winner=["model_a", "model_b"])),
    "first": ("comparison", replies("prompt", "first", "second", label=[1, 0])),
    "numbers": ("comparison", replies("user_input", "reply_one", "reply_two", pick=["one", "two"])),
    "columns": ("comparison", replies("ask", "textX", "textY", best=["textX", "textY"])),
    "good": ("comparison", replies("prompt", "good_reply", "bad_reply")),
    "unjudged": ("comparison", replies("question", "completion1", "completion2")),
    "opt": ("arc_challenge", choices("question", ["opt1", "opt2", "opt3"], "correct_option", ["1", "2", "3"])),
    "alt": ("arc_challenge", choices("problem", ["alt_a", "alt_b", "alt_c"], "gold", ["a", "b", "c"])),
    "named": ("arc_challenge", choices("stem", ["choiceA", "choiceB", "choiceC"], "right", ["choiceA", "choiceC"])),
    "zero": ("arc_challenge", choices("q", ["option_0", "option_1", "option_2"], "key", [0, 1, 2])),
    "list": (
        "arc_challenge",
        [{"stem": f"Is it {n}?", "alternatives": [f"{n}", f"x{n}"], "key": f"x{n}"} for n in range(COUNT)],
    ),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_known_tasks_under_other_names_are_told_what_to_rename(name: str, tmp_path: Path) -> None:
    task, rows = OTHER_NAMES[name]
    with pytest.raises(DataError, match=f"fit no task; they look like task {task} under other names") as caught:
        load(rows, tmp_path)
    message = str(caught.value)
    assert "classification" not in message and "--template" not in message and len(message) < 450
    renamed = dict(re.findall(r"'(\S+)' to '(\S+)'", message))
    words = shlex.split(message.partition("--label-map ")[2])
    settings = {"label_map": from_words(dict[str, str], words, "")} if words else {}
    data = load([{renamed.get(k, k): v for k, v in row.items()} for row in rows], tmp_path, **settings)
    assert data.dataset.task == task
    shown = "".join(example.input for example in data.dataset)
    texts = [v for row in rows for v in row.values() if isinstance(v, str) and " " in v]
    assert all(text in shown for text in texts), "no part of the question is left out"
    judged = name not in ("unjudged",)
    assert bool(data.gold) == judged
    if task == "arc_challenge":
        assert sum(gold == "True" for gold in data.gold.values()) == COUNT


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"premise": "p {n}", "hypothesis": "h {n}", "relation": "yn"}, "--template"),
        ({"sentence1": "p {n}", "sentence2": "h {n}", "gold_label": "yn"}, "--label-field gold_label"),
        ({"correct_option": "some long text {n}", "label": "yn"}, "put a text into each record"),
        ({"memo": "n {n}", "solution": "a much longer text {n}", "verdict": "yn"}, "--text-field memo"),
    ],
)
def test_gold_never_stands_in_what_is_to_be_pasted(row: dict[str, str], said: str, tmp_path: Path) -> None:
    rows = [{k: v[n % 2] if v == "yn" else v.format(n=n) for k, v in row.items()} for n in range(COUNT)]
    with pytest.raises(DataError, match="fit no task; ") as caught:
        load(rows, tmp_path)
    advice = str(caught.value).partition("fit no task; ")[2]
    assert said in advice and not re.search(r"\{(gold|correct|solution|label)", advice.partition("--template")[2])
    with pytest.raises(DataError, match="leave the text's field out of --ignore-fields, which takes"):
        load([{"text": "a", "label": "x"}], tmp_path, ignore_fields=["text"])


@pytest.mark.parametrize("field", ["alternatives", "left", "answer_a", "candidate_1"])
def test_a_text_field_beside_more_of_the_question_is_warned_of(
    field: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"stem": f"Why {n}?", field: f"since {n}", "key": "yn"[n % 2]} for n in range(COUNT)]
    load(rows, tmp_path, text_field="stem", label_field="key")
    assert f"--text-field leaves out '{field}', which may be part of the question; --template " in caplog.text
    template = re.search(r"--template \$'(.*?)' shows", caplog.text.replace("\\n", "\n"), re.DOTALL)
    caplog.clear()
    assert template is not None
    names = re.findall(r"\{(\w+)\}", template[1])
    data = load(rows, tmp_path, template=template[1], label_field="key")
    assert names == ["stem", field] and "since 3" in "".join(e.input for e in data.dataset)
    load(rows, tmp_path, text_field="stem", label_field="key", ignore_fields=[field])
    assert "part of the question" not in caplog.text
