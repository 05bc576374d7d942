"""Bad records: left out, counted and named where they are few; gold never decides whether a record is there."""

import json
from pathlib import Path

import pytest
from support.written_files import REVIEWS, ROWS, read, table, write

from icm.errors import DataError, ICMError
from icm.tasks import DataSource, load_task
from icm.tasks.soundness import sound

GOOD = [json.dumps(row) for row in ROWS]
HEAD, *CELLS = table(ROWS).splitlines()
BAD_LINES = [
    ('{"text": "", "label": "positive"}', "field 'text': found '', expected text"),
    ('{"text": null, "label": "positive"}', "field 'text': found None"),
    ('{"label": "positive"}', "field 'text' is missing"),
    ('{"text": ["a", "b"], "label": "positive"}', r"field 'text': found \['a', 'b'\]"),
    ('{"text": "cut off', "not valid JSON"),
    ('["text", "positive"]', "expected a JSON object, found list"),
    ('{"text": "x", "label": Infinity}', "Infinity is not a number"),
    ('{"text": "\\ud800", "label": "positive"}', "valid Unicode"),
]


@pytest.mark.parametrize("place", [0, 5, 12])
@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_one_bad_line_is_left_out_and_named(
    line: str, message: str, place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "a.jsonl", "\n".join([*GOOD[:place], line, *GOOD[place:]]))
    assert read(path) == read(path, bad_records="skip") == dict(REVIEWS)
    assert f"left out: 1 of 13 records ({path}:{place + 1}: " in caplog.text
    with pytest.raises(DataError, match=rf"a\.jsonl:{place + 1}: .*{message}"):
        read(path, bad_records="refuse")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("no label", "expected 2 columns, found 1"),
        ("a,b,positive", "expected 2 columns, found 3"),
        ('"quoted" badly,positive', "not valid CSV"),
        (" ,positive", "field 'text': found ' '"),
        (",positive", "field 'text' is missing"),
        ("caf\xe9,positive", "not UTF-8"),
    ],
)
def test_one_bad_row_of_a_table_is_left_out(row: str, message: str, tmp_path: Path) -> None:
    content = "\n".join([HEAD, *CELLS[:4], row, *CELLS[4:]]).encode("latin-1")
    path = write(tmp_path, "a.csv", content)
    assert read(path) == dict(REVIEWS)
    with pytest.raises(DataError, match=rf"a\.csv:6: {message}"):
        read(path, bad_records="refuse")


def test_an_open_quotation_mark_is_as_many_bad_records_as_it_swallows(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "\n".join([HEAD, *CELLS[:4], '"open,positive', *CELLS[4:]]))
    with pytest.raises(DataError, match=r"a\.csv:\d+: not valid CSV .*\(9 of 13 records are bad"):
        read(path)


def test_members_of_an_array_that_are_no_objects(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps([*ROWS, 3]))
    assert read(path) == dict(REVIEWS)
    with pytest.raises(DataError, match=r"a\.json: record 13: found int, expected an object"):
        read(path, bad_records="refuse")


def test_an_empty_column_of_the_template_is_a_bad_record(tmp_path: Path) -> None:
    rows = [{**row, "topic": "" if number == 3 else "home"} for number, row in enumerate(ROWS)]
    path = write(tmp_path, "a.csv", table(rows))
    assert read(path, template="{topic}: {text}") == {t: y for t, y in REVIEWS if t != REVIEWS[3][0]}
    with pytest.raises(ICMError, match=r"template: unknown field 'topic' at .*a\.csv:5"):
        read(path, template="{topic}: {text}", bad_records="refuse")


@pytest.mark.parametrize("other", ["text", "title"])
def test_an_empty_text_is_not_filled_from_another_column(other: str, tmp_path: Path) -> None:
    rows = [
        {"body": "" if n == 3 else row["text"], other: f"title {n}", "label": row["label"]}
        for n, row in enumerate(ROWS)
    ]
    path = write(tmp_path, "a.csv", table(rows))
    wanted = {text: label for text, label in REVIEWS if text != REVIEWS[3][0]}
    source = DataSource(str(path), text_field="body", template="{text}")
    assert {example.input for example in load_task(source).dataset} == wanted.keys()


@pytest.mark.parametrize(
    ("count", "bad", "auto"), [(3, 1, False), (4, 1, True), (20, 1, True), (20, 2, False), (199, 2, False),
                               (200, 2, True), (20_000, 200, True), (20_000, 201, False), (1, 1, False)]
)  # fmt: skip
def test_how_many_bad_records_are_passed_over(count: int, bad: int, auto: bool) -> None:
    found: list[int | DataError] = [DataError(f"line {n}") if n < bad else n for n in range(count)]
    policies = {"auto": auto, "skip": bad < count, "refuse": False}
    for policy, passed in policies.items():
        if passed:
            assert sound(found, policy) == list(range(bad, count))
            continue
        with pytest.raises(DataError, match="line 0") as caught:
            sound(found, policy)
        assert ("--bad-records skip" in str(caught.value)) == (policy == "auto" and bad < count)


def test_many_bad_records_are_named_with_the_way_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [*GOOD[:8], *(line for line, _ in BAD_LINES[:5])]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    message = r"a\.jsonl:9: field 'text'.* \(4 of 12 records are bad, too many to pass over; give --bad-records skip"
    with pytest.raises(DataError, match=message):
        read(path)
    assert read(path, bad_records="skip") == dict(REVIEWS[:8])
    assert "left out: 4 of 12 records" in caplog.text and "; …)" in caplog.text


TIES = [("A", "True"), ("tie", None), ("B", "False"), ("", None), ("A", "True")]


def test_gold_decides_neither_what_is_there_nor_its_order(tmp_path: Path) -> None:
    rows = [{"query": f"Q{n}?", "response_a": "x", "response_b": "y", "label": y} for n, (y, _) in enumerate(TIES)]
    marked = load_task(DataSource(str(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))))))
    bare = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    plain = load_task(DataSource(str(write(tmp_path, "b.jsonl", "\n".join(map(json.dumps, bare))))))
    assert marked.dataset.examples == plain.dataset.examples and len(marked.dataset) == 10
    golds = {e.metadata["query"]: marked.gold.get(e.id) for e in marked.dataset if e.metadata["response_a"] == "x"}
    assert golds == {f"Q{number}?": gold for number, (_, gold) in enumerate(TIES)}


def test_equal_replies_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"query": f"Q{n}?", "response_a": "x", "response_b": "x" if n < 4 else "y"} for n in range(8)]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(load_task(DataSource(str(path))).dataset) == 8
    assert f"left out: 4 of 8 records that hold no claim ({path}:1; {path}:2; {path}:3; …)" in caplog.text


def test_examples_know_where_they_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "\n".join(GOOD))
    where = {e.metadata["text"]: e.where for e in load_task(DataSource(str(path))).dataset}
    assert where == {text: f"{path}:{number}" for number, (text, _) in enumerate(REVIEWS, start=1)}
