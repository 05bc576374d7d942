"""ARC (Clark et al. 2018), and question sets of its form: {question, choices: {text, label}, answerKey}."""

from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import choice_items, right_index


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    question, choices = record.text("question"), record.fields.get("choices")
    if not isinstance(choices, dict):
        raise record.error("choices", "an object {text: [...], label: [...]}")
    inner = Record(f"{record.where}: field 'choices'", choices)
    texts, names = inner.texts("text"), inner.texts("label")
    if len(texts) != len(names):
        raise inner.error("label", f"{len(texts)} names, one a text")
    yield from choice_items(
        question, texts, right_index(record, "answerKey", names), prompt=f"Question: {question}\nAnswer:"
    )


TASK = Task(
    name="arc_challenge",
    items=items,
    signatures=(signature("question", "choices"),),
    gold_fields=frozenset({"answerKey"}),
    hub=(HubData("allenai/ai2_arc", "ARC-Challenge", "train", "test"),),
)
