"""Analyses: figures that can be checked by hand, traces that are checked, reports that hold together."""

import base64
import html.parser
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.made_results import claims, moods

from icm.errors import ConfigError, DataError
from icm.examples import GoldLabels, ICMExample
from icm.files import write_jsonl
from icm.publish.exporters import ICMExporter
from icm.results.accuracy import measure_accuracy
from icm.results.analysis import (
    acceptance,
    analyze,
    analyze_file,
    analyze_folder,
    confirmation,
    label_statistics,
)
from icm.results.folder import ICMStorage
from icm.results.format import ICMResult, LabeledExample, trace_path, write_result
from icm.results.record import DataRecord, ModelRecord, RunRecord
from icm.results.report import write_report
from icm.results.trace import Decision, read_trace
from icm.tasks import DataSource, load_task


def labelled(*pairs: tuple[str, float | None]) -> ICMResult:
    items = [LabeledExample(ICMExample(f"item {n}" + "." * n), label, odds) for n, (label, odds) in enumerate(pairs)]
    return ICMResult(items, None)


def test_label_statistics_by_hand() -> None:
    result = labelled(("True", 3.0), ("True", -1.0), ("False", 1.0), ("True", 2.0), ("True", None), ("False", 0.0))
    found = label_statistics(result)
    assert found.counts == {"True": 4, "False": 2} and found.unscored == 1
    assert found.log_odds == {"min": -1, "quartile_1": 0, "median": 1, "quartile_3": 2, "max": 3, "mean": 1}
    assert sum(count for _, _, count in found.histogram) == 5
    assert [(low, high) for low, high, count in found.histogram if count][-1] == pytest.approx((2.8, 3.0))
    assert found.input_characters == {"min": 6, "mean": 8.5, "max": 11}
    assert label_statistics(labelled(("True", None), ("False", None))).histogram == []


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (["True", "True", "True"], "collapsed: all 3 labels are 'True'"),
        (["True", "False", "True"], ""),
        (["joy", "calm", "joy"], "labels never given: anger"),
    ],
)
def test_collapse_is_a_warning(labels: list[str], warned: str) -> None:
    result = labelled(*((label, 1.0) for label in labels))
    result = replace(result, label_space=moods(1).label_space) if "joy" in labels else result
    assert "".join(analyze(result).warnings).startswith(warned) and bool(analyze(result).warnings) == bool(warned)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Wilson score intervals without continuity correction (R: prop.test(…, correct = FALSE)).
    [
        (8, 10, 0.4901625, 0.9433178),
        (50, 100, 0.4038315, 0.5961685),
        (0, 10, 0.0, 0.2775328),
        (100, 100, 0.9630065, 1.0),
    ],
)
def test_accuracy_has_a_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    result = labelled(*(("True" if n < correct else "False", 0.5) for n in range(total + 3)))
    gold = GoldLabels({item.example.id: "True" for item in result.labeled_examples[:total]})
    found = measure_accuracy(result.labels, gold)
    assert found is not None and (found.correct, found.total, found.majority) == (correct, total, 1.0)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert measure_accuracy(result.labels, GoldLabels({"other": "True"})) is None


def decision_row(number: int, **changes: Any) -> dict[str, Any]:
    previous, proposal = [None, "True", "False"][number % 3], ["True", "False"][number % 2]
    row = {
        "type": "decision",
        "restart": 0,
        "batch": 0,
        "iteration": number + 1,
        "example": f"{number:016x}",
        "previous": previous,
        "proposal": proposal,
        "accepted": number % 4 != 1,
        "changes": {} if proposal == previous else {f"{number:016x}": proposal},
        "delta": 0.25,
        "utility": -30 + number / 2,
        "inconsistencies": 0,
        "temperature": 10 / (number + 1),
        "labelled": 8 + number,
        "a later field": {"is": "ignored"},
    }
    return row | changes


def test_trace_becomes_decisions_and_figures(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_result(path, claims(4, 3, seed=1, usage={"computed_tokens": 1234, "seconds": 2.5}, algorithm="icm"))
    rows = [decision_row(n) for n in range(12)] + [decision_row(n, restart=1, utility=-7) for n in range(3)]
    rows[2]["changes"] = {}  # a proposal that consistency has taken back
    others: list[dict[str, Any]] = [
        {"type": "icm_trace", "data": "x"},
        {"type": "start", "utility": "not looked at"},
    ]
    order = {"restart": 0, "batch": 0, "type": "order", "iteration": 12, "changes": {"a": "True", "b": "True"}}
    rows.insert(11, {**order, "accepted": True, "delta": 1, "utility": -25, "labelled": 8})
    write_jsonl(trace_path(path), [*others, *rows, {"type": "usage", "prompts": 3}])
    found = analyze_file(path)
    changing = [row for row in rows if row["changes"] and row["type"] == "decision"]
    assert found.search is not None and found.usage == {"computed_tokens": 1234, "seconds": 2.5}
    assert (found.search.searches, found.search.decisions) == (2, 15)
    assert (found.search.proposed, found.search.accepted) == (len(changing), sum(row["accepted"] for row in changing))
    assert (found.search.first_utility, found.search.last_utility) == (-30, -7)
    assert [share for share in confirmation(found.steps) if share == share] == [0.75]
    assert found.steps[3] == Decision(
        iteration=4,
        example="0000000000000003",
        previous=None,
        proposal="False",
        accepted=True,
        changes={"0000000000000003": "False"},
        delta=0.25,
        utility=-28.5,
        temperature=2.5,
        labelled=11,
    )


def decision(iteration: int, changes: bool, accepted: bool) -> Decision:
    """An iteration of which only the acceptance matters."""
    labels = {"x": "True"} if changes else {}
    values: dict[str, Any] = {"example": "x", "previous": None, "proposal": "True", "delta": 0, "utility": 0}
    return Decision(iteration=iteration, changes=labels, accepted=accepted, temperature=1, labelled=1, **values)


def test_acceptance_is_taken_over_recent_proposed_changes() -> None:
    decisions = [decision(n + 1, n != 0, n % 2 == 0) for n in range(5)]
    shares = acceptance(decisions)
    assert math.isnan(shares[0]) and shares[1:] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    late = acceptance([decision(n + 1, True, n < 50) for n in range(100)])
    assert late[49] == 1 and late[74] == 0.5 and late[99] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": "3"},
        {"iteration": -1},
        {"iteration": True},
        {"accepted": 1},
        {"accepted": None},
        {"utility": None},
        {"utility": "-3"},
        {"delta": [1]},
        {"temperature": 10**30},
        {"proposal": 0},
        {"previous": ""},
        {"labelled": 1.5},
        {"example": None},
        {"batch": "a"},
    ],
    ids=str,
)
def test_bad_trace_rows_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "t.trace.jsonl"
    write_jsonl(path, [decision_row(0), decision_row(1), decision_row(2, **change)])
    with pytest.raises(DataError, match=rf"t.trace.jsonl:3: field '{next(iter(change))}': found"):
        read_trace(path)


def classified(folder: Path, seed: int) -> tuple[ICMResult, GoldLabels]:
    """A result on a real local data set, every third label wrong."""
    path = folder / "notes.jsonl"
    texts = [f"{'Lovely' if n % 2 else 'Awful'} evening number {n} of {seed}" for n in range(24)]
    write_jsonl(path, [{"text": text, "label": "good" if n % 2 else "bad"} for n, text in enumerate(texts)])
    source = DataSource(str(path), "classification")
    data = load_task(source)
    other = {"good": "bad", "bad": "good"}
    items = [
        LabeledExample(example, other[data.gold[example.id]] if n % 3 == 0 else data.gold[example.id], n / 10)
        for n, example in enumerate(data.dataset)
    ]
    record = RunRecord(model=ModelRecord("tiny"), data=DataRecord(source))
    return ICMResult(items, -3.0, data.dataset.label_space, "classification", record), data.gold


def test_gold_of_the_data_source_gives_accuracy(tmp_path: Path) -> None:
    result, _ = classified(tmp_path, seed=1)
    write_result(tmp_path / "r.jsonl", result)
    found = analyze_file(tmp_path / "r.jsonl")
    assert found.accuracy is not None and (found.accuracy.correct, found.accuracy.total) == (16, 24)
    assert found.accuracy.majority == 0.5 and found.gold_note == ""
    assert found.as_json()["accuracy"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("source", "note"),
    [
        (None, "does not name its data source"),
        (DataSource("gone.jsonl"), "cannot be loaded: .*gone.jsonl"),
    ],
)
def test_without_gold_the_reason_is_given(tmp_path: Path, source: DataSource | None, note: str) -> None:
    result = replace(moods(2), record=RunRecord(data=DataRecord(source)))
    write_result(tmp_path / "r.jsonl", result)
    found = analyze_file(tmp_path / "r.jsonl")
    assert found.accuracy is None and re.search(note, found.gold_note)


def test_folder_goes_on_past_broken_files(tmp_path: Path) -> None:
    for seed in range(3):
        write_result(tmp_path / f"r{seed}.jsonl", claims(2, 2, seed, created=f"2024-01-0{seed + 1}"))
    write_jsonl(tmp_path / "r1.trace.jsonl", [decision_row(0, utility="?")])
    record = RunRecord(created="2023-01-01", other={"usage": {"seconds": "long"}})
    write_result(tmp_path / "usage.jsonl", replace(claims(2, 2, 9), record=record))
    (tmp_path / "broken.jsonl").write_text("{")
    analyses, broken = analyze_folder(ICMStorage(tmp_path))
    assert [analysis.name for analysis in analyses] == ["r2", "r0"]
    assert {entry.name for entry in broken} == {"r1", "usage", "broken"}
    assert all(re.search("utility|seconds|not valid JSON", str(entry.error)) for entry in broken)


class Page(html.parser.HTMLParser):
    """Texts and drawings of a page; complains about tags that do not close, and about what a page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.drawings = 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("img", "script") and not dict(attrs).get("src")
        self.drawings += tag == "svg"
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_reports_in_all_forms(tmp_path: Path) -> None:
    result, _ = classified(tmp_path, seed=2)
    nasty = LabeledExample(ICMExample('<script>alert(1)</script> | $x^2$ & "q"\nsecond line'), "good", 99.0)
    path = ICMStorage(tmp_path).save_result(replace(result, labeled_examples=[*result.labeled_examples, nasty]), "run")
    write_jsonl(trace_path(path), [decision_row(n) for n in range(30)])
    reports = {ending: tmp_path / f"report.{ending}" for ending in ("html", "md", "json")}
    for report in reports.values():
        ICMExporter(ICMStorage(tmp_path)).export_analysis_report(path.stem, report)
    page = Page(reports["html"].read_text("utf-8"))
    assert page.drawings == 3
    assert nasty.example.input in page.texts and any("16 of 24" in text for text in page.texts)
    markdown = reports["md"].read_text("utf-8")
    images = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^)]+)", markdown)]
    assert len(set(images)) == 3 and all(image.startswith(b"\x89PNG") for image in images)
    assert "<script>" not in markdown
    assert "| 99.00 | good |" in markdown and "\\| $x^2$" in markdown
    document = json.loads(reports["json"].read_text("utf-8"))["results"][0]
    assert document["accuracy"]["correct"] == 16 and document["search"]["decisions"] == 30
    assert document["examples"] == 25 and document["excerpts"][0]["input"] == nasty.example.input
    assert "decisions" not in document and document["labels"]["counts"].keys() == {"bad", "good"}


def test_report_without_trace_log_odds_and_excerpts(tmp_path: Path) -> None:
    result = labelled(("True", None), ("True", None))
    ICMExporter().export_analysis_report(result.labeled_examples, tmp_path / "r.html", include_examples=False)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert page.drawings == 1 and any("collapsed" in text for text in page.texts)
    with pytest.raises(ConfigError, match=r"r.pdf.*\.json, \.html, \.md"):
        ICMExporter().export_analysis_report(result, tmp_path / "r.pdf")


def test_report_of_a_folder_compares_results(tmp_path: Path) -> None:
    for seed in range(2):
        write_result(tmp_path / f"r{seed}.jsonl", claims(3, 2, seed, model=f"model <{seed}>"))
    (tmp_path / "broken.jsonl").write_text("{")
    analyses, broken = analyze_folder(ICMStorage(tmp_path))
    write_report(tmp_path / "all.md", analyses, broken)
    text = (tmp_path / "all.md").read_text("utf-8")
    assert "**Warning:** cannot be read" in text and "broken.jsonl:1" in text
    assert text.count("model &lt;0&gt;") == 2 and text.count("\n## ") == 2
