"""What is asked about: the least certain, the most like others, or drawn; no two nearly the same, none known."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from icm.cli import main
from icm.errors import ConfigError
from icm.examples import TRUSTED, ICMExample
from icm.results.asking import SAME, By, Likeness, questions
from icm.results.format import ICMResult, LabeledExample, write_result
from icm.tasks import load_task
from icm.tasks.source import DataSource

TEXTS = [f"Note: {text}\nI think this Claim is" for text in (
    "the quick brown fox jumps", "the quick brown fox jumped", "a slow green turtle swims", "a slow green turtle swam",
    "heavy rain falls on tin roofs", "light rain falls on tin roofs", "the bank raised its rates again",
    "nobody read the long report", "=cmd|' /C calc'!A0, a \"formula\"",
)]  # fmt: skip


def result(odds: list[float | None], trusted: int = 0) -> ICMResult:
    items = [
        LabeledExample(ICMExample(text, {TRUSTED: True} if place < trusted else {}), "True", value)
        for place, (text, value) in enumerate(zip(TEXTS, odds, strict=True))
    ]
    return ICMResult(items, -1.0)


ODDS: list[float | None] = [0.1, -0.2, 3.0, 2.0, 1.0, -1.1, 4.0, 5.0, 0.3]


def test_the_least_certain_come_first_and_near_duplicates_once() -> None:
    found = questions(result(ODDS), 4, "uncertainty")
    assert [TEXTS.index(q.item.example.input) for q in found] == [0, 8, 4, 3]
    assert found[0].why == "uncertain: p = 0.52 given other labels (log-odds +0.10)"


def test_the_surest_are_the_core_of_what_was_found() -> None:
    found = questions(result(ODDS), 3, "influence")
    assert [TEXTS.index(q.item.example.input) for q in found] == [7, 6, 2]
    assert found[0].why == "influential: p = 0.99 given other labels (log-odds +5.00)"


@pytest.mark.parametrize("by", get_args(By))
def test_no_two_are_nearly_the_same_and_none_is_known(by: Any) -> None:
    found = questions(result(ODDS, trusted=3), 20, by)
    assert 1 < len(found) < 6 and not any(q.item.trusted for q in found)
    likeness = Likeness([q.item.example.input for q in found])
    assert max(likeness.row(place).max() for place in range(len(found))) < SAME
    assert [q.item for q in found] == [q.item for q in questions(result(ODDS, trusted=3), 20, by)]
    assert all(q.why.startswith({"random": "random", "influence": "influ"}.get(by, "uncertain")) for q in found)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="no model scored its labels"):
        questions(result([None] * len(TEXTS)), 2, "uncertainty")
    with pytest.raises(ConfigError, match="all its labels are trusted"):
        questions(result(ODDS, trusted=len(TEXTS)), 2, "random")
    with pytest.raises(ConfigError, match="--count"):
        questions(result(ODDS), 0, "random")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_table_is_filled_in_and_read_back(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "d.jsonl"
    rows = [{"text": text.splitlines()[0], "label": "no"} for text in TEXTS]
    rows[0] |= {"text": "=HYPERLINK(1)", "label": "yes"}
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DataSource(str(data), task_type="classification")
    loaded = load_task(source).dataset
    labelled = ICMResult([LabeledExample(e, "yes", 0.1 * n) for n, e in enumerate(loaded)], -1.0, loaded.label_space)
    write_result(tmp_path / "r.jsonl", labelled)
    table = tmp_path / f"ask.{ending}"
    assert main(["ask", str(tmp_path / "r.jsonl"), "--count", "4", "--output", str(table)]) == 0
    assert "4 examples in" in capsys.readouterr().out
    if ending == "csv":
        with table.open(newline="") as handle:
            asked = list(csv.DictReader(handle))
        asked[0]["label"], asked[2]["label"] = "yes", "NO"
        with table.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, [*asked[0]])
            writer.writeheader()
            writer.writerows(asked)
    else:
        asked = [json.loads(line) for line in table.read_text().splitlines()]
        asked[0]["label"], asked[2]["label"] = "yes", "NO"
        table.write_text("".join(json.dumps(row) + "\n" for row in asked))
    assert [*asked[0]] == ["id", "text", "found", "why", "label"]
    assert {row["text"].removeprefix(" ") for row in asked} <= {row["text"] for row in rows}
    assert not any(row["text"].startswith("=") for row in asked)
    found = load_task(replace(source, trusted=str(table))).dataset
    assert found.trusted == {asked[0]["id"]: "yes", asked[2]["id"]: "no"}
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in asked))
    assert load_task(replace(source, trusted=str(bare))).dataset.trusted == found.trusted

    assert main(["ask", str(tmp_path / "r.jsonl"), "--output", str(table)]) != 0
    assert "exists already, and may hold labels" in capsys.readouterr().err and asked[0]["id"] in table.read_text()

    # A second table asks about others and has the first labels, so that the next run has both.
    marked = [
        replace(
            item,
            example=replace(item.example, metadata=item.example.metadata | {"trusted": True}),
            label=found.trusted[item.example.id],
        )
        if item.example.id in found.trusted
        else item
        for item in labelled.labeled_examples
    ]
    write_result(tmp_path / "r.jsonl", replace(labelled, labeled_examples=marked))
    again = tmp_path / f"again.{ending}"
    assert main(["ask", str(tmp_path / "r.jsonl"), "--count", "2", "--output", str(again)]) == 0
    assert "2 examples in" in (said := capsys.readouterr().out) and "behind them the 2 given before" in said
    assert load_task(replace(source, trusted=str(again))).dataset.trusted == found.trusted
    assert main(["ask", str(tmp_path / "r.jsonl"), "--output", str(tmp_path / "ask.xlsx")]) == 2
