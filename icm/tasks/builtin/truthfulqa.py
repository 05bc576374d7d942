"""TruthfulQA (Lin et al. 2022): is this answer to the question true?

Reads the hub's `multiple_choice` and `generation` configurations, the CSV, `mc_task.json`, and rows
{question, choice, label}. A file's `consistency_id` is not read: published ones are derived from the gold labels.
"""

from collections.abc import Iterable, Iterator

from icm.examples import LabelSpace
from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import answer_item

_CSV_TRUE = ("Best Answer", "Correct Answers")
_CSV_FALSE = ("Best Incorrect Answer", "Incorrect Answers")


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    question = record.text("question", "Question")
    for choice, gold in dict.fromkeys(_claims(record)):
        yield answer_item(question, choice, gold)


def _claims(record: Record) -> Iterator[tuple[str, str | None]]:
    found = record.fields
    if "choice" in found:
        yield record.text("choice"), record.truth("label")
    elif "Correct Answers" in found or "Incorrect Answers" in found:
        yield from _csv_claims(record, _CSV_TRUE, "True")
        yield from _csv_claims(record, _CSV_FALSE, "False")
    elif "correct_answers" in found or "incorrect_answers" in found:
        for name, gold in (("correct_answers", "True"), ("incorrect_answers", "False")):
            yield from ((text, gold) for text in _texts(record, name))
    else:
        names = [name for name in ("mc1_targets", "mc2_targets") if name in found] or ["mc2_targets"]
        for name in names:
            yield from _targets(record, name)


def _csv_claims(record: Record, names: Iterable[str], gold: str) -> Iterator[tuple[str, str]]:
    for name in names:
        parts = str(record.fields.get(name, "")).split(";")
        yield from ((part.strip(), gold) for part in parts if part.strip())


def _texts(record: Record, name: str) -> list[str]:
    """A list of answers. Published lists hold empty ones, from a semicolon at the end of the CSV's: no answers."""
    values = [value for value in record.values(name) if value != ""]
    return Record(record.where, {name: values}).texts(name) if values else []


def _targets(record: Record, name: str) -> Iterator[tuple[str, str | None]]:
    """`{"choices": [...], "labels": [...]}` of the hub, or `{choice: 0 or 1}` of mc_task.json."""
    targets = record.inner(name, expected := "an object of choices and labels")
    if not targets.fields:
        raise record.error(name, expected)
    choices, labels = targets.fields.get("choices"), targets.fields.get("labels")
    if not isinstance(choices, list):
        choices, labels = list(targets.fields), list(targets.fields.values())
    if labels is None:
        labels = [None] * len(choices)
    if not isinstance(labels, list) or len(labels) != len(choices):
        raise targets.error("labels", f"one label for each of the {len(choices)} choices")
    for choice, label in zip(choices, labels, strict=True):
        if choice != "":  # as in `_texts`
            row = Record(targets.where, {"choice": choice, "label": label})
            yield row.text("choice"), row.truth("label")


TASK = Task(
    name="truthfulqa",
    items=items,
    signatures=(
        signature("question", "choice"),
        signature("question", "mc1_targets"),
        signature("question", "mc2_targets"),
        signature("question", "correct_answers", "incorrect_answers"),
        signature("Question", "Correct Answers", "Incorrect Answers"),
    ),
    gold_fields=frozenset({"label", "consistency_id", *_CSV_TRUE, *_CSV_FALSE}),
    label_space=LabelSpace(("True", "False")),
    hub=(HubData("truthfulqa/truthful_qa", "multiple_choice", "validation", "validation"),),
)
