"""Records whose prompt is ready made: {"input": "… I think this Claim is [True/False]", "metadata": {"gold_label": …}}.

This is the format of codelion/icm. A slot such as `[True/False]` at the end is cut off, since the label goes there,
and names the labels; so does the ending "I think this Claim is".
"""

import re
from collections.abc import Iterator

from icm.consistency import MathConsistencyRule
from icm.tasks.base import Item, Record, Task, signature
from icm.text import final_answer

_SLOT = re.compile(r"\s*\[([^\[\]/\n]+(?:/[^\[\]/\n]+)+)\]\s*$")


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    text, labels = split_slot(record.text("input"))
    metadata = record.inner("metadata") if "metadata" in record.fields else Record(record.where, {})
    kind = metadata.fields.get("task")
    question, marker, claim = text.partition("\nClaim:")
    answer = final_answer(claim) if marker and kind in ("math", "gsm8k") else None
    # Our own exports have both: their `label` is what a search found.
    holder, name = (metadata, "gold_label") if "metadata" in record.fields else (record, "label")
    gold = None if holder.fields.get(name) in (None, "") else holder.label(name)
    task = {"task": kind} if isinstance(kind, str) else {}
    yield Item({"text": text, **task}, gold, question if marker else text, answer=answer, labels=labels)


def split_slot(text: str) -> tuple[str, tuple[str, ...] | None]:
    """The text up to where the label goes, and the labels that its ending names."""
    slot = _SLOT.search(text)
    if slot:
        return text[: slot.start()], tuple(label.strip() for label in slot[1].split("/"))
    return text, ("True", "False") if text.endswith("I think this Claim is") else None


TASK = Task(
    name="prepared",
    items=items,
    signatures=(signature("input"), signature("input", "metadata")),
    template="{text}",
    gold_fields=frozenset({"metadata", "label"}),
    label_space=None,
    rules=(MathConsistencyRule(),),
)
