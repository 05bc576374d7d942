"""Exports of annotation tools, each in the tool's own format, become texts and labels."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from support.written_files import read, table, write

from icm.errors import DataError

TEXTS = ("Works well", "Broke at once", "Not labelled", "Lovely", "Useless")
LABELS = ("positive", "negative", None, "positive", "negative")
EXPECTED = dict(zip(TEXTS, LABELS, strict=True))
Row = dict[str, Any]


def doccano(number: int, text: str, label: str | None) -> Row:
    return {"id": number, "text": text, "label": [label] if label else [], "Comments": []}


def doccano_data(number: int, text: str, label: str | None) -> Row:
    return {"id": number, "data": text, "label": [label] if label else []}


def doccano_2018(number: int, text: str, label: str | None) -> Row:
    return {"doc_id": number, "text": text, "labels": [label] if label else [], "username": "admin"}


def studio(number: int, text: str, label: str | None) -> Row:
    value = {"value": {"choices": [label]}, "from_name": "sentiment", "to_name": "text", "type": "choices"}
    made = {"id": number, "completed_by": 1, "was_cancelled": label is None, "result": [value] if label else []}
    return {"id": number, "annotations": [made], "predictions": [], "data": {"text": text}, "project": 1}


def studio_skipped(number: int, text: str, label: str | None) -> Row:
    """The annotator chose, then cancelled."""
    row = studio(number, text, label or "positive")
    row["annotations"][0]["was_cancelled"] = label is None
    return row


def studio_min(number: int, text: str, label: str | None) -> Row:
    row = {"text": text, "id": number, "annotator": 1, "annotation_id": number, "created_at": "2026", "lead_time": 1.5}
    return {**row, **({"sentiment": label} if label else {})}


def argilla_text(number: int, text: str, label: str | None) -> Row:
    row = {"text": text, "inputs": {"text": text}, "prediction": [{"label": "negative", "score": 0.9}], "metrics": {}}
    return {**row, "annotation": label, "annotation_agent": "me", "status": "Validated" if label else "Default"}


def argilla_discarded(number: int, text: str, label: str | None) -> Row:
    row = argilla_text(number, text, label or "positive")
    return row if label else {**row, "status": "Discarded"}


def argilla_feedback(number: int, text: str, label: str | None) -> Row:
    answer = {"user_id": "u", "status": "submitted" if label else "draft", "values": {"mood": {"value": label or "x"}}}
    return {"fields": {"text": text}, "responses": [answer], "suggestions": [], "metadata": {}, "external_id": None}


def argilla_hub(number: int, text: str, label: str | None) -> Row:
    given = [{"user_id": "u", "value": label, "status": "submitted"}] if label else []
    row = {"text": text, "mood": given, "mood-suggestion": "negative", "mood-suggestion-metadata": {"type": None}}
    return {**row, "external_id": str(number), "metadata": "{}"}


def argilla_2(number: int, text: str, label: str | None) -> Row:
    row = {"id": str(number), "fields": {"text": text}, "metadata": {}, "vectors": {}, "status": "completed"}
    suggestions = {"mood": {"value": "negative", "score": None, "agent": None}}
    responses = {"mood": [{"value": label, "user_id": "u"}]} if label else {}
    return {**row, "suggestions": suggestions, "responses": responses}


def argilla_2_flat(number: int, text: str, label: str | None) -> Row:
    row = {"id": str(number), "status": "completed", "_server_id": str(number), "text": text}
    given = {"mood.responses": [label or "positive"], "mood.responses.users": ["u"]}
    return {**row, **given, "mood.responses.status": ["submitted" if label else "draft"], "mood.suggestion": "negative"}


def prodigy(number: int, text: str, label: str | None) -> Row:
    row = {"text": text, "_input_hash": number, "_task_hash": -number, "label": label or "positive"}
    return {**row, "answer": "accept" if label else "reject"}


def prodigy_choice(number: int, text: str, label: str | None) -> Row:
    options = [{"id": name, "text": name} for name in ("positive", "negative")]
    return {
        "text": text,
        "options": options,
        "accept": [label or "positive"],
        "answer": "accept" if label else "ignore",
    }


TOOLS = [
    doccano, doccano_data, doccano_2018, studio, studio_skipped, studio_min, argilla_text, argilla_discarded,
    argilla_feedback, argilla_hub, argilla_2, argilla_2_flat, prodigy, prodigy_choice,
]  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_exports_are_texts_and_labels(tool: Any, tmp_path: Path) -> None:
    rows = [tool(number, text, label) for number, (text, label) in enumerate(EXPECTED.items())]
    assert read(write(tmp_path, "export.json", json.dumps(rows))) == EXPECTED
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert read(write(tmp_path, "export.jsonl", lines)) == EXPECTED


def test_exports_on_the_hub_are_read_from_parquet_and_saved_folders(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list([argilla_2_flat(3, text, label) for text, label in EXPECTED.items()])
    data.to_parquet(str(tmp_path / "argilla/data/train-00000-of-00001.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    assert read(tmp_path / "argilla") == read(tmp_path / "saved") == EXPECTED


def test_tables_of_tools(tmp_path: Path) -> None:
    rows = [{"id": number, "data": text, "label": label or ""} for number, (text, label) in enumerate(EXPECTED.items())]
    assert read(write(tmp_path, "doccano.csv", table(rows))) == EXPECTED
    studio = [
        {"annotation_id": 1, "annotator": 2, "id": 3, "sentiment": y or "", "text": x} for x, y in EXPECTED.items()
    ]
    assert read(write(tmp_path, "studio.csv", table(studio))) == EXPECTED


def test_other_answers_of_label_studio_are_read_or_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def export(values: list[Row]) -> Path:
        rows = [studio(number, text, "x") for number, text in enumerate(TEXTS)]
        for row, value in zip(rows, values, strict=True):
            row["annotations"][0]["result"][0]["value"] = value
        return write(tmp_path, "export.json", json.dumps(rows))

    stars = [{"rating": 1 + number % 2} for number in range(5)]
    assert read(export(stars)) == dict(zip(TEXTS, "12121", strict=True))
    span = {"start": 0, "end": 5, "text": "Works", "labels": ["Praise"]}
    with pytest.raises(DataError, match=r"record 1: field 'label': found \{'start': 0, .*\}, expected one label"):
        read(export([span] * 5))
    several = {"annotation_id": 1, "annotator": 2, "id": 3, "text": "Odd", "sentiment": '{"choices": ["a", "b"]}'}
    plain = [{**several, "text": text, "sentiment": label} for text, label in EXPECTED.items() if label]
    path = write(tmp_path, "studio.csv", table([several, *plain]))
    assert read(path) == {"Odd": None, **{text: label for text, label in EXPECTED.items() if label}}
    assert "studio.csv:2: field 'sentiment': found ['a', 'b'], expected one label" in caplog.text


def test_samples_of_lm_evaluation_harness_hold_the_records(tmp_path: Path) -> None:
    rows = [
        {"doc_id": number, "doc": {"text": text, "label": label}, "target": label, "arguments": {}, "filter": "none"}
        for number, (text, label) in enumerate(EXPECTED.items())
    ]
    assert read(write(tmp_path, "samples_moods.jsonl", "".join(json.dumps(row) + "\n" for row in rows))) == EXPECTED


def test_annotators_who_disagree_give_no_label(tmp_path: Path) -> None:
    rows = [studio(number, text, label) for number, (text, label) in enumerate(EXPECTED.items())]
    rows[0]["annotations"] += studio(0, "", "negative")["annotations"]
    rows[1]["annotations"] += studio(0, "", "negative")["annotations"]
    assert read(write(tmp_path, "export.json", json.dumps(rows))) == {**EXPECTED, "Works well": None}


def test_several_labels_of_one_text_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [doccano(number, text, label) for number, (text, label) in enumerate(EXPECTED.items())]
    rows[3]["label"] = ["positive", "gift"]
    path = write(tmp_path, "export.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read(path) == {**EXPECTED, "Lovely": None}
    assert "counted as unlabelled: 1 of 5 records" in caplog.text
    assert "export.jsonl:4: field 'label': found ['positive', 'gift'], expected one label" in caplog.text
    with pytest.raises(DataError, match=r"export\.jsonl:4: field 'label': found \['positive', 'gift'\]"):
        read(path, bad_records="refuse")
