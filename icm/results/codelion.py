"""Files of codelion/icm, as its README describes them, turned into rows of our own result format.

Two forms exist: results (a metadata line without a label space, then examples) and plain labelled data sets (lines of
input, label and metadata, no metadata line). Labels are True and False; the input ends in a ` [True/False]` slot.
Source: https://github.com/codelion/icm, icm/storage.py and icm/datasets.py.
"""

import re
from collections.abc import Mapping

from icm.errors import DataError
from icm.tasks.drawing import group_id

SLOT = " [True/False]"
QUESTION_FIELDS = ("question", "goal", "context", "sentence", "instruction", "input", "prompt_text")

NumberedRow = tuple[int, dict[str, object]]


def is_codelion(first: Mapping[str, object]) -> bool:
    """Whether a file that starts with this object was written by codelion/icm."""
    if first.get("type") == "icm_metadata":
        return "label_space" not in first and isinstance(first.get("convergence_info"), dict)
    return "type" not in first and {"input", "label"} <= set(first)


def convert_rows(rows: list[NumberedRow], where: str) -> tuple[NumberedRow, list[NumberedRow]]:
    """The metadata row and the example rows in our format, each with the number of its line.

    Raises:
        DataError: names the file, the line and the field.
    """
    has_header = rows[0][1].get("type") == "icm_metadata"
    header = _header(rows[0][1], f"{where}:{rows[0][0]}") if has_header else _header({}, where)
    body = rows[1:] if has_header else rows
    return (rows[0][0], header), [(number, _example(row, f"{where}:{number}")) for number, row in body]


def _header(row: Mapping[str, object], where: str) -> dict[str, object]:
    inner = row.get("metadata") or {}
    if not isinstance(inner, dict):
        raise DataError(f"{where}: field 'metadata': found {inner!r}, expected an object")
    kept = {key: row[key] for key in ("timestamp", "iterations", "convergence_info", "data") if key in row}
    return {
        **kept,
        "type": "icm_metadata",
        "task": inner.get("task_type", "classification"),
        "score": row.get("score"),
        "label_space": {"labels": ["True", "False"], "verbalisers": [" True", " False"]},
        "model": inner.get("model_name"),
        "format": "codelion/icm",
        "settings": inner,
    }


def _example(row: Mapping[str, object], where: str) -> dict[str, object]:
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise DataError(f"{where}: field 'metadata': found {metadata!r}, expected an object")
    text = row.get("input")
    # The synthetic tasks of codelion/icm leave gold in the metadata; here gold is unreachable from examples.
    kept = {key: value for key, value in metadata.items() if key != "gold_label"}
    return {
        "type": row.get("type", "icm_example"),
        "input": text.removesuffix(SLOT) if isinstance(text, str) else text,
        "label": row.get("label"),
        "metadata": kept | _answer(kept),
        "relations": _relations(kept, text),
    }


def _question(metadata: Mapping[str, object]) -> str | None:
    found = (metadata.get(key) for key in QUESTION_FIELDS)
    return next((text for text in found if isinstance(text, str) and text.strip()), None)


def _relations(metadata: Mapping[str, object], text: object) -> dict[str, str]:
    question = _question(metadata)
    if question is None and isinstance(text, str) and "\nClaim:" in text:  # synthetic tasks
        question = text.partition("\nClaim:")[0]
    # Our own tasks name questions in this way: label file and evaluation can be compared question by question.
    return {"group": group_id(question)} if question else {}


def _answer(metadata: Mapping[str, object]) -> dict[str, str]:
    """`prompt` and `completion` for answer pairs; comparisons hold no answer of their own there."""
    question, answer = _question(metadata), metadata.get("response_text")
    if question is None or not isinstance(answer, str) or not answer.strip() or "response_a" in metadata:
        return {}
    return {"prompt": question, "completion": f" {_without_question(answer)}"}


def _without_question(text: str) -> str:
    """Some tasks repeat the question: `Goal: …\\n\\nSolution: …` is cut to the solution."""
    repeated = re.match(r"(?s)(Question|Goal|Problem|Instruction): .*?\n\n(?:Solution|Answer|Response): (.+)", text)
    return repeated[2] if repeated else text
