"""Any text with any two or more named labels: rows {text, label}; `sentence`, `review` or `content` for `text`."""

from collections.abc import Iterator
from dataclasses import replace

from icm.examples import LabelSpace
from icm.tasks.base import Item, Record, Task, signature

TEXT_FIELDS = ("text", "sentence", "review", "content")
LABEL_FIELDS = ("label", "sentiment")
SENTIMENTS = {"positive", "negative", "neutral", "mixed"}


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    text = record.text(*TEXT_FIELDS)
    yield Item({"text": text}, _gold(record), group=text)


def own_items(record: Record) -> Iterator[Item]:
    """One claim a record, whatever its fields: the user's template says what is shown."""
    if any(name in record.fields for name in TEXT_FIELDS):
        yield from items(record)
    else:
        yield Item({}, _gold(record), group="")


def _gold(record: Record) -> str | None:
    for name in LABEL_FIELDS:
        value = record.fields.get(name)
        if value is not None and str(value).strip():
            return record.label(name)
    return None


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
OWN_COLUMNS = replace(TASK, items=own_items)
