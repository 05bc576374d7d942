"""ARC (Clark et al. 2018), and question sets of its form: {question, choices: {text, label}, answerKey}."""

from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import choice_items, right_index


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    question, choices = record.text("question"), record.inner("choices", "an object {text: [...], label: [...]}")
    texts, names = choices.texts("text"), choices.texts("label")
    if len(texts) != len(names):
        raise choices.error("label", f"{len(texts)} names, one a text")
    yield from choice_items(question, texts, right_index(record, "answerKey", names))


TASK = Task(
    name="arc_challenge",
    items=items,
    signatures=(signature("question", "choices"),),
    gold_fields=frozenset({"answerKey"}),
    hub=(HubData("allenai/ai2_arc", "ARC-Challenge", "train", "test"),),
)
