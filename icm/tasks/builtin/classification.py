"""Any text with any two or more named labels: rows {text, label}; `sentence`, `review` or `content` for `text`."""

from collections.abc import Iterator

from icm.examples import LabelSpace
from icm.tasks.base import Item, Record, Task, signature

TEXT_FIELDS = ("text", "sentence", "review", "content")
LABEL_FIELDS = ("label", "sentiment")
SENTIMENTS = {"positive", "negative", "neutral", "mixed"}


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    text = record.text(*TEXT_FIELDS)
    name = next((name for name in LABEL_FIELDS if record.fields.get(name) not in (None, "")), None)
    yield Item({"text": text}, None if name is None else record.label(name), group=text)


def template(space: LabelSpace) -> str:
    """Sentiment labels get the prompt that small models know best."""
    if {label.lower() for label in space.labels} <= SENTIMENTS:
        return "Review: {text}\nSentiment:"
    return "Text: {text}\nLabel:"


TASK = Task(
    name="classification",
    items=items,
    signatures=tuple(
        signature(*names) for text in TEXT_FIELDS for names in ((text,), *((text, label) for label in LABEL_FIELDS))
    ),
    template=template,
    gold_fields=frozenset(LABEL_FIELDS),
    label_space=None,
)
