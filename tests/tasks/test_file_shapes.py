"""The shapes of files and folders that hold the same records."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from support.written_files import REVIEWS, ROWS, read, table, write

from icm.errors import ConfigError, DataError
from icm.tasks import DataSource, load_task

LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
VIEWER = {
    "features": [{"feature_idx": 0, "name": "text", "type": {"dtype": "string"}}],
    "rows": [{"row_idx": number, "row": row, "truncated_cells": []} for number, row in enumerate(ROWS)],
    "num_rows_total": 12,
}
COLUMNS = {name: [row[name] for row in ROWS] for name in ("text", "label")}
INDEXED = {name: {str(place): value for place, value in enumerate(values)} for name, values in COLUMNS.items()}
SPLIT = {"columns": ["text", "label"], "index": list(range(12)), "data": [list(row) for row in REVIEWS]}
TABLE = table(ROWS)


def parquet(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES),
        ("lines.ndjson", LINES),
        ("array.jsonl", json.dumps(ROWS, indent=2)),
        ("array_in_a_line.jsonl", json.dumps(ROWS)),
        ("windows.jsonl", "\ufeff" + LINES.replace("\n", "\r\n")),
        ("viewer.json", json.dumps(VIEWER)),
        ("viewer.jsonl", "".join(json.dumps(row) + "\n" for row in VIEWER["rows"])),  # type: ignore[attr-defined]
        ("versioned.json", json.dumps({"version": "1", "authors": ["A", "B"], "data": ROWS, "notes": []})),
        ("named.json", json.dumps({"count": 12, "reviews": ROWS, "tags": ["x"]})),
        ("columns.json", json.dumps(COLUMNS)),
        ("pandas.json", json.dumps(INDEXED)),
        ("pandas_split.json", json.dumps(SPLIT)),
        ("by_id.json", json.dumps({f"r{number}": row for number, row in enumerate(ROWS)})),
        ("tab.tsv", table(ROWS, "\t")),
        ("semicolon.csv", table(ROWS, ";")),
        ("bar.csv", table(ROWS, "|")),
        ("excel.csv", "\ufeffsep=;\r\n" + table(ROWS, ";")),
        ("excel_rows.csv", TABLE + ",\r\n , \r\n,\r\n"),
        ("excel_columns.csv", TABLE.replace("\r\n", ",,\r\n")),
        ("utf16.csv", table(ROWS, "\t").encode("utf-16")),
        ("pandas_index.csv", table([{"": str(number), **row} for number, row in enumerate(ROWS)])),
        ("old_mac.csv", table(ROWS, end="\r")),
        ("zipped_without_saying.jsonl", gzip.compress(LINES.encode(), mtime=0)),
    ],
)
def test_files_of_all_shapes_hold_the_same_records(name: str, content: str | bytes, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    assert read(path) == dict(REVIEWS)
    raw = path.read_bytes()
    if not name.startswith("zipped"):
        assert read(write(tmp_path, f"{name}.gz", gzip.compress(raw))) == dict(REVIEWS)


def test_parquet_keeps_class_names_and_absent_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, -1, None]}, features)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    expected = {"a": "bad", "b": "good", "c": None, "d": None}
    assert read(tmp_path / "rows.parquet") == expected
    packed = write(tmp_path, "packed.parquet.gz", gzip.compress((tmp_path / "rows.parquet").read_bytes()))
    assert read(packed) == expected


def test_class_names_are_kept_in_lists_and_in_pages_of_the_viewer(tmp_path: Path) -> None:
    names = ["calm", "cross"]
    data = datasets.Dataset.from_list([{"text": f"t {n}", "labels": [n % 2]} for n in range(4)])
    data = data.cast_column("labels", datasets.Sequence(datasets.ClassLabel(names=names)))
    data.to_parquet(str(tmp_path / "emotions.parquet"))
    kinds = [{"name": "text", "type": {"dtype": "string"}}, {"name": "label", "type": {"names": names}}]
    rows = [{"row_idx": n, "row": {"text": f"t {n}", "label": n % 2}, "truncated_cells": []} for n in range(3)]
    rows.append({"row_idx": 3, "row": {"text": "t 3", "label": -1}, "truncated_cells": []})
    page = write(tmp_path, "rows.json", json.dumps({"features": kinds, "rows": rows}))
    expected = {f"t {n}": names[n % 2] for n in range(4)}
    assert read(tmp_path / "emotions.parquet") == expected and read(page) == {**expected, "t 3": None}


def test_headers_that_are_none_or_come_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        DataError, match=r"a\.csv:1: found the values \['.*', '(positive|negative)'\], expected the col"
    ):
        read(write(tmp_path, "a.csv", TABLE.partition("\r\n")[2]))
    again = write(tmp_path, "b.csv", TABLE + TABLE)
    assert read(again) == dict(REVIEWS)
    assert "left out: 1 of 25 records" in caplog.text and "b.csv:14: repeats the columns' names" in caplog.text
    twice = table([{"text": text, "label": label, "note": "x"} for text, label in REVIEWS])
    data = load_task(DataSource(str(write(tmp_path, "c.csv", twice.replace("note", "label", 1)))))
    assert set(data.gold.values()) == {"positive", "negative"} and "left out             label.1" in data.account


def test_a_line_above_the_header_is_named(tmp_path: Path) -> None:
    for line in ("# of 2026", "My survey,,"):
        with pytest.raises(DataError, match=r"a\.csv:1: found '.*' alone, expected a name for each column; rem"):
            read(write(tmp_path, "a.csv", f"{line}\r\n{TABLE}"))


def test_an_open_quotation_mark_is_named_where_it_opens(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", TABLE + '"open,positive\r\nx,negative\r\ny,negative\r\n')
    with pytest.raises(DataError, match=r"a\.csv:14: not valid CSV \(.*\); check its quotes \(3 of 15 records are bad"):
        read(path)


def test_tabs_with_quotation_marks_as_they_are(tmp_path: Path) -> None:
    rows = ["text\tlabel", '"Ouch" was all I said\tbad', 'a 6" pan\tgood', '"Best ever\tgood', "plain\tbad"]
    found = read(write(tmp_path, "glue.tsv", "\n".join(rows)))
    assert found == {'"Ouch" was all I said': "bad", 'a 6" pan': "good", '"Best ever': "good", "plain": "bad"}
    quoted = table([{"text": 'two\nlines and a "word"', "label": "bad"}, {"text": "plain", "label": "good"}], "\t")
    assert read(write(tmp_path, "excel.tsv", quoted)) == {'two\nlines and a "word"': "bad", "plain": "good"}


def test_qualtrics_notes_below_the_header_are_no_records(tmp_path: Path) -> None:
    notes = ["What did you think?,How was it?", '"{""ImportId"":""QID1""}","{""ImportId"":""QID2""}"']
    head, *rows = TABLE.splitlines()
    assert read(write(tmp_path, "qualtrics.csv", "\n".join([head, *notes, *rows]))) == dict(REVIEWS)


# ------------------------------------------------------------------------------------------------------------- folders
TRAIN, TEST = ROWS[:8], ROWS[8:]


def snapshot(folder: Path) -> None:
    parquet(folder, "data/train-00000-of-00002.parquet", TRAIN[:4])
    parquet(folder, "data/train-00001-of-00002.parquet", TRAIN[4:])
    parquet(folder, "data/test-00000-of-00001.parquet", TEST)
    write(folder, "README.md", "---\nlicense: mit\n---\n# Reviews\n")
    write(folder, ".gitattributes", "*.parquet filter=lfs\n")
    write(folder, ".cache/huggingface/download/train.jsonl", "not data")


def json_lines(folder: Path) -> None:
    write(folder, "train.jsonl", "".join(json.dumps(row) + "\n" for row in TRAIN))
    write(folder, "test.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in TEST).encode()))
    write(folder, "README.md", "# Reviews without a header\n")
    write(folder, "dataset_infos.json", "{}")


def mixed(folder: Path) -> None:
    write(folder, "reviews_train.csv", table(TRAIN))
    write(folder, "reviews_test.tsv", table(TEST, "\t"))
    write(folder, "figure.png", b"\x89PNG")


def folders(folder: Path) -> None:
    write(folder, "train/a.csv", table(TRAIN[:3]))
    write(folder, "train/b.csv", table(TRAIN[3:]))
    write(folder, "test/a.csv", table(TEST))


def named_in_card(folder: Path) -> None:
    card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: old/*.csv\n"
    write(folder, "README.md", f"---\n{card}  - split: test\n    path: new/x.csv\n---\n")
    write(folder, "old/x.csv", table(TRAIN))
    write(folder, "new/x.csv", table(TEST))


@pytest.mark.parametrize("make", [snapshot, json_lines, mixed, folders, named_in_card])
def test_folders_of_files_have_the_splits_of_the_hub(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "reviews")
    parts = [read(tmp_path / "reviews", part=part) for part in ("train", "test")]
    assert parts == [dict(REVIEWS[:8]), dict(REVIEWS[8:])]
    with pytest.raises(ConfigError, match=r"split: found 'dev', expected one of \['test', 'train'\]"):
        read(tmp_path / "reviews", split="dev")


def test_a_folder_with_one_split_is_that_split(tmp_path: Path) -> None:
    write(tmp_path, "shards/part1.jsonl", LINES[: LINES.index("\n") + 1])
    write(tmp_path, "shards/part2.jsonl", LINES[LINES.index("\n") + 1 :])
    assert read(tmp_path / "shards") == dict(REVIEWS)
    parquet(tmp_path / "truthful", "validation-00000-of-00001.parquet", ROWS)
    assert read(tmp_path / "truthful") == dict(REVIEWS)
    both = [read(tmp_path / "truthful", holdout=0.4, part=part, split=None) for part in ("train", "test")]
    assert {**both[0], **both[1]} == dict(REVIEWS) and all(both)


def test_configurations_are_folders_or_stand_in_the_card(tmp_path: Path) -> None:
    write(tmp_path, "hh/harmless/train.csv", table(TRAIN))
    write(tmp_path, "hh/helpful/train.csv", table(TEST))
    assert read(tmp_path / "hh", config="helpful") == dict(REVIEWS[8:])
    with pytest.raises(ConfigError, match=r"config: found 'honest', but .* has no such folder"):
        read(tmp_path / "hh", config="honest")
    entries = [f"- config_name: {name}\n  data_files: {name}/*.csv\n" for name in ("harmless", "helpful")]
    write(tmp_path, "hh/README.md", "---\nconfigs:\n" + "".join(entries) + "---\n")
    assert read(tmp_path / "hh", config="harmless") == dict(REVIEWS[:8])
    with pytest.raises(ConfigError, match=r"config: found None, expected one of \['harmless', 'helpful'\]"):
        read(tmp_path / "hh")


# -------------------------------------------------------------------------------------------------------------- splits
@pytest.mark.parametrize("name", ["val", "validation", "dev", "Test"])
def test_the_only_split_needs_no_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", json.dumps([{**row, "split": name} for row in ROWS]))
    assert read(path) == read(path, split=name) == dict(REVIEWS)
    held_out, kept = read(path, holdout=0.3, part="test"), read(path, holdout=0.3)
    assert {**held_out, **kept} == dict(REVIEWS) and not held_out.keys() & kept.keys()


def test_splits_go_by_other_names_too(tmp_path: Path) -> None:
    names = ["training"] * 4 + ["val"] * 4 + ["testing"] * 4
    rows = [{**row, "split": name} for row, name in zip(ROWS, names, strict=True)]
    path = write(tmp_path, "rows.json", json.dumps(rows))
    parts = [read(path), read(path, split="validation"), read(path, part="test")]
    assert parts == [dict(REVIEWS[:4]), dict(REVIEWS[4:8]), dict(REVIEWS[8:])]
    by_split = write(tmp_path, "by_split.json", json.dumps({"train": TRAIN, "dev": TEST}))
    assert [read(by_split), read(by_split, split="dev")] == [dict(REVIEWS[:8]), dict(REVIEWS[8:])]


def test_a_holdout_is_not_proposed_to_one_who_gives_it(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.json", json.dumps({"val": TRAIN, "test": TEST}))
    with pytest.raises(ConfigError, match=r"expected one of \['test', 'val'\] in .*; give the split$"):
        read(path, holdout=0.3)


# ------------------------------------------------------------------------------------------------- what is not read
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"PK\x03\x04", "unknown file type.*; save the sheet as CSV"),
        ("a.arrow", b"x", r"unknown file type.*; save it as Parquet"),
        ("a.sqlite", b"x", "unknown file type.*; export the table as CSV or JSON lines"),
        ("a.zip", b"PK\x03\x04", "unknown file type.*; unpack it"),
        ("a.pkl", b"x", "unknown file type.*; save it as Parquet or JSON lines"),
        ("a", b"x", "unknown file type.*; save it as CSV or JSON lines"),
        ("a.csv", b"PK\x03\x04" + b"x" * 50, "found a zip or Excel file; unpack it, or save the sheet as CSV"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer"),
        ("a.jsonl", b"<!DOCTYPE html><html>", "found a web page; download the file itself"),
        ("a.parquet", b"x" * 100, "not a Parquet file"),
        ("a.csv", b"0,1467810369,Mon,awww\n4,1467810370,Tue,nice\n", "found the values .*expected the columns' names"),
        ("a.csv", b"text;label\nx;a;b\n", "a.csv:2: expected 2 columns, found 3; check quotes and semicolons"),
        ("a.json", b'{"a": [{"x": 1}], "b": [{"y": 2}]}', r"found several lists of objects \['a', 'b'\]"),
    ],
)
def test_what_is_not_read_is_named_with_the_way_out(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_task(DataSource(str(write(tmp_path, name, content))))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path / name))


def test_a_folder_of_texts_is_named(tmp_path: Path) -> None:
    write(tmp_path, "aclImdb/train/pos/0_9.txt", "Bromwell High is a cartoon comedy.")
    with pytest.raises(
        DataError, match=r"nor one of .*it holds train.*; put the texts into one CSV or JSON lines file"
    ):
        read(tmp_path / "aclImdb")


def test_rows_of_empty_cells_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "blank.csv", TABLE + ",\r\n\r\n , \r\n")
    assert len(load_task(DataSource(str(tmp_path / "blank.csv"))).dataset) == len(ROWS)
    assert "blank.csv: 2 rows whose cells are all empty count as none" in caplog.text
