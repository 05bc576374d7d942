"""Trace rows: each is written and read in one place, in the form of the traces that are on disk."""

import json
from pathlib import Path
from typing import Any

import pytest

from icm.errors import DataError, ResumeError
from icm.results.trace import Cost, Decision, End, FreshOrder, Row, Start, open_trace, read_row, row_json

LINES = {
    Start: '{"restart": 0, "batch": 1, "type": "start", "iteration": 0, "changes": {"a": "True"}, "accepted": true, '
    '"utility": -3.5, "preferences": {"a": [-0.1, -2.4]}}',
    FreshOrder: '{"restart": 0, "batch": 1, "type": "order", "iteration": 32, "changes": {}, "accepted": false, '
    '"delta": 0.0, "utility": -3.5, "labelled": 1, "preferences": {"a": [-0.1, -2.4]}}',
    Decision: '{"restart": 0, "batch": 1, "type": "decision", "iteration": 33, "example": "b", "previous": null, '
    '"proposal": "False", "accepted": true, "changes": {"b": "False"}, "delta": 0.25, "utility": -3.25, '
    '"inconsistencies": 2, "temperature": 0.5, "labelled": 2}',
    Cost: '{"type": "usage", "prompts": 3, "prompt_tokens": 40, "computed_tokens": 20, "generated_tokens": 0, '
    '"failures": 0, "seconds": 1.5, "plain_tokens": 40, "unchanged_tokens": 7}',
    End: '{"restart": 0, "batch": 1, "type": "end", "iterations": 33, "utility": null, "labels": {"a": "True"}, '
    '"log_odds": {"a": 2.3}}',
}


@pytest.mark.parametrize("kind", LINES)
def test_a_row_is_written_as_it_was_read(kind: type[Row]) -> None:
    row = read_row(json.loads(LINES[kind]), "t:1")
    assert type(row) is kind
    assert json.dumps(row_json(row)) == LINES[kind]


def test_absent_fields_of_other_programs_have_defaults() -> None:
    line = {"iteration": 1, "example": "b", "proposal": "True", "accepted": True, "delta": 1, "utility": 1}
    line |= {"temperature": 1, "labelled": 1}
    row = read_row(line, "t:1")
    assert isinstance(row, Decision)
    assert (row.restart, row.batch, row.previous, row.changes) == (0, 0, None, {"b": "True"})
    again = read_row({**line, "previous": "True"}, "t:1")
    assert isinstance(again, Decision) and again.changes == {}
    assert read_row({"type": "usage", "prompts": 3, "a later field": 1}, "t:1") == Cost(prompts=3)
    assert read_row({"type": "of a later version"}, "t:1") is None


def resumed(path: Path, lines: list[str]) -> list[Row]:
    path.write_text("".join(f"{line}\n" for line in ['{"type": "icm_trace", "data": "d"}', *lines]))
    with open_trace(path, {"data": "d"}, resume=True) as trace:
        return list(trace.history)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Start, "preferences", {"a": 3}),
        (Start, "preferences", {"a": [None]}),
        (Start, "changes", None),
        (FreshOrder, "accepted", "yes"),
        (Decision, "changes", {"b": 1}),
        (Decision, "inconsistencies", -1),
        (End, "log_odds", {"a": "high"}),
        (End, "labels", ["True"]),
        (Cost, "prompts", "many"),
    ],
    ids=str,
)
def test_a_broken_row_of_a_trace_to_resume_is_named(kind: type[Row], field: str, value: object, tmp_path: Path) -> None:
    broken: dict[str, Any] = {**json.loads(LINES[kind]), field: value}
    with pytest.raises(DataError, match=rf"t.jsonl:3: field '{field}': found"):
        resumed(tmp_path / "t.jsonl", [LINES[Start], json.dumps(broken)])


def test_a_history_is_of_one_run_search_by_search(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = resumed(path, [*LINES.values(), LINES[Start].replace('"restart": 0', '"restart": 1'), LINES[Cost]])
    assert len(rows) == 7
    with open_trace(path, {"data": "d"}, resume=True) as trace:
        assert [type(row) for row in trace.of_search(0, 1)] == [Start, FreshOrder, Decision, End]
        assert [row.restart for row in trace.of_search(1, 1)] == [1]
        assert trace.cost == Cost(3, 40, 20, 0, 0, 1.5, 40, 7)
        assert trace.cost + Cost(seconds=0.5) == Cost(3, 40, 20, 0, 0, 2.0, 40, 7)
        trace.append(rows[0])
    assert path.read_text().splitlines()[-1] == LINES[Start]
    with (
        pytest.raises(ResumeError, match="the examples are others: give --data"),
        open_trace(path, {"data": "other"}, True),
    ):
        pass


def test_traces_of_first_tokens_are_not_continued_with_whole_labels(tmp_path: Path) -> None:
    path, whole = tmp_path / "t.jsonl", {"data": "d", "scored": "whole labels"}
    resumed(path, [LINES[Start]])
    with (
        pytest.raises(ResumeError, match="scored was 'first tokens of labels' and is now 'whole labels'"),
        open_trace(path, whole, resume=True),
    ):
        pass
    with open_trace(path, whole, resume=False), open_trace(path, whole, resume=True) as trace:
        assert trace.history == []


def test_a_torn_line_is_cut_off_and_a_new_trace_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    resumed(path, [LINES[Start], LINES[Cost], LINES[Decision], LINES[Cost]])
    whole = path.read_bytes()
    ends = (whole[:-9], whole[:-9] + bytes(4096), whole.rpartition(b'{"type": "usage"')[0])
    for torn in ends:  # a cut line, a page that the disk never got, a row whose cost is lost
        path.write_bytes(torn)
        with open_trace(path, {"data": "d"}, resume=True) as trace:
            trace.append(Cost())
        lines = path.read_text().split("\n")[:-1]
        assert [json.loads(line)["type"] for line in lines] == ["icm_trace", "start", "usage", "usage"]
    with open_trace(path, {"data": "d"}, resume=False) as trace:
        assert trace.history == [] and trace.cost == Cost()
    assert len(path.read_text().splitlines()) == 1
