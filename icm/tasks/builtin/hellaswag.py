"""HellaSwag (Zellers et al. 2019): does this ending continue the text?"""

from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import choice_items, right_index


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    context, endings = record.text("ctx"), record.texts("endings")
    right = right_index(record, "label", [str(number) for number in range(len(endings))])
    yield from choice_items(context, endings, right, prompt=context)


TASK = Task(
    name="hellaswag",
    items=items,
    signatures=(signature("ctx", "endings"),),
    template="Text: {question}\nClaim: The text goes on: {claim}\nI think this Claim is",
    gold_fields=frozenset({"label"}),
    hub=(HubData("Rowan/hellaswag", None, "train", "validation"),),
)
