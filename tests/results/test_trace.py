"""Trace rows: each is written and read in one place, in the form of the traces that are on disk."""

import json

import pytest
from support.trace_lines import LINES

from icm.results.trace import Cost, Decision, Row, Start, read_row, row_json


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


def test_a_finished_search_keeps_no_preferences() -> None:
    row = read_row({name: value for name, value in json.loads(LINES[Start]).items() if name != "preferences"}, "t:1")
    assert isinstance(row, Start) and row.preferences is None
    assert json.dumps(row_json(row)) == LINES[Start].partition(', "preferences"')[0] + "}"
