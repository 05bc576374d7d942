"""Where rows lie: a file a unit, one file in the end; what is read back of both, and of what earlier versions left."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.trace_lines import LINES

from icm.errors import DataError, ResumeError
from icm.results.trace import Cost, Decision, End, FreshOrder, Row, SearchRow, Start, Unit, read_row
from icm.results.units import open_trace, units_folder

UNIT = Unit(batch=1, restart=0)
HEADER = {"data": "d"}


def made(kind: type[Row]) -> Any:
    return read_row(json.loads(LINES[kind]), "t:1")


def write_old(path: Path, lines: list[str]) -> None:
    """A trace as earlier versions wrote it: all rows in one file, and the cost of the run behind each."""
    path.write_text("".join(f"{line}\n" for line in ['{"type": "icm_trace", "data": "d"}', *lines]))


def history(path: Path, unit: Unit = UNIT) -> list[SearchRow]:
    with open_trace(path, HEADER, resume=True, before=Cost()) as trace:
        return trace.begun(unit)


def types(path: Path) -> list[str]:
    return [json.loads(line)["type"] for line in path.read_text().split("\n")[:-1]]


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
    write_old(tmp_path / "t.jsonl", [LINES[Start], json.dumps(broken)])
    with pytest.raises(DataError, match=rf"t.jsonl:3: field '{field}': found"):
        history(tmp_path / "t.jsonl")


def test_a_trace_of_an_earlier_version_goes_on_unit_by_unit(tmp_path: Path) -> None:
    path = tmp_path / "t.trace.jsonl"
    other = LINES[Start].replace('"restart": 0', '"restart": 1')
    write_old(path, [LINES[Start], LINES[FreshOrder], LINES[Decision], LINES[End], other, LINES[Cost]])
    for _ in range(2):  # what was taken apart is found again
        with open_trace(path, HEADER, resume=True, before=Cost()) as trace:
            assert [type(row) for row in trace.begun(UNIT)] == [Start, FreshOrder, Decision, End] or trace.finished
            assert {*trace.finished} == {UNIT}
            assert [row.restart for row in trace.begun(Unit(1, 1))] == [1]
            assert trace.cost == Cost(3, 40, 20, 0, 0, 1.5, 40, 7)
    assert types(path) == ["icm_trace", "usage"]
    with (
        pytest.raises(ResumeError, match="the examples are others: give --data"),
        open_trace(path, {"data": "other"}, True, Cost()),
    ):
        pass


def test_traces_of_first_tokens_are_not_continued_with_whole_labels(tmp_path: Path) -> None:
    path, whole = tmp_path / "t.jsonl", {**HEADER, "scored": "whole labels"}
    write_old(path, [LINES[Start]])
    with (
        pytest.raises(ResumeError, match="scored was 'first tokens of labels' and is now 'whole labels'"),
        open_trace(path, whole, True, Cost()),
    ):
        pass
    with open_trace(path, whole, False, Cost()), open_trace(path, whole, True, Cost()) as trace:
        assert not trace.begun(UNIT) and trace.cost == Cost()


def test_a_torn_line_is_cut_off_and_a_new_trace_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with open_trace(path, HEADER, False, Cost()) as trace:
        for number, kind in enumerate((Start, FreshOrder, Decision)):
            trace.append(made(kind), Cost(prompts=number))
    (file,) = units_folder(path).iterdir()
    whole = file.read_bytes()
    ends = (whole[:-9], whole[:-9] + bytes(4096), whole.rpartition(b'{"restart"')[0])
    for torn in ends:  # a cut line, a page that the disk never got, a row whose cost is lost
        file.write_bytes(torn)
        with open_trace(path, HEADER, True, Cost()) as trace:
            assert [type(row) for row in trace.begun(UNIT)] == [Start, FreshOrder]
            assert trace.spent(UNIT) == trace.cost == Cost(prompts=1)
            trace.append(made(Decision), Cost(prompts=5))
            assert trace.cost == Cost(prompts=5)
        assert types(file) == ["start", "usage", "order", "usage", "decision", "usage"]
    with open_trace(path, HEADER, False, Cost()) as trace:
        assert trace.begun(UNIT) == [] and trace.cost == Cost()
    assert types(path) == ["icm_trace"] and not units_folder(path).exists()


def test_the_end_of_a_unit_is_known_without_its_rows(tmp_path: Path) -> None:
    path, spent = tmp_path / "t.jsonl", Cost(prompts=4, seconds=0.5)
    with open_trace(path, HEADER, False, Cost(generated_tokens=9)) as trace:
        for kind in (Start, Decision, End):
            trace.append(made(kind), spent)
        trace.append(made(Start).__class__(changes={}, utility=0.0, preferences={}), spent)
    folder = units_folder(path)
    assert types(folder / "1-0.jsonl") == ["start", "decision", "end", "usage"]
    assert "preferences" not in (folder / "1-0.jsonl").read_text()
    (folder / "1-0.jsonl").write_text("not read")
    with open_trace(path, HEADER, True, Cost()) as trace:
        assert trace.finished == {UNIT: made(End)}
        assert len(trace.begun(Unit(0, 0))) == 1
        assert trace.cost == spent + spent + Cost(generated_tokens=9)


def test_one_file_in_the_end_unit_by_unit_which_is_taken_apart_again_where_no_result_followed(tmp_path: Path) -> None:
    path, units = tmp_path / "t.trace.jsonl", [Unit(1, 0), Unit(0, 1), Unit(0, 0)]
    with open_trace(path, HEADER, False, Cost()) as trace:
        for unit in units:
            for kind in (Start, End):
                trace.append(made(kind).__class__(**{**vars(made(kind)), **vars(unit)}), Cost(prompts=1))
        trace.conclude()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["batch"], row["restart"], row["type"]) for row in lines[1:]] == [
        (unit.batch, unit.restart, kind) for unit in sorted(units) for kind in ("start", "end", "usage")
    ]
    assert not units_folder(path).exists()
    whole = path.read_bytes()
    with open_trace(path, HEADER, True, Cost()) as trace:
        assert all(isinstance(trace.begun(unit)[-1], End) for unit in units)
        assert trace.cost == Cost(prompts=3)
        trace.conclude()
    assert path.read_bytes() == whole


def test_a_search_whose_preferences_are_gone_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    bare = {name: value for name, value in json.loads(LINES[FreshOrder]).items() if name != "preferences"}
    write_old(path, [LINES[Start], json.dumps(bare), LINES[Cost]])
    assert history(path) == [] and not (units_folder(path) / "1-0.jsonl").exists()
