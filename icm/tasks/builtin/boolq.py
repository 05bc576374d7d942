"""BoolQ (Clark et al. 2019) and other yes/no questions: {question, answer: true or false} with or without `passage`."""

from collections.abc import Iterator

from icm.examples import LabelSpace
from icm.tasks.base import HubData, Item, Record, Task, signature


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    question = record.text("question")
    text = f"Question: {question.removesuffix('?')}?"
    if "passage" in record.fields:
        text = f"Passage: {record.text('passage')}\n{text}"
    yield Item({"question": question, "text": text}, record.truth("answer", "label"), group=question)


TASK = Task(
    name="boolq",
    items=items,
    signatures=(signature("question", "passage"), signature("question", "passage", "answer")),
    template="{text}\nAnswer:",
    gold_fields=frozenset({"answer", "label"}),
    leaves_out=frozenset({"title"}),
    label_space=LabelSpace(("True", "False"), (" yes", " no")),
    hub=(HubData("google/boolq", None, "train", "validation"),),
)
