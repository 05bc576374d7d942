"""WinoGrande (Sakaguchi et al. 2020): does this option fill the blank?"""

from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import choice_items, right_index


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    sentence = record.text("sentence")
    options = [record.text("option1"), record.text("option2")]
    right = right_index(record, "answer", ["1", "2"])
    yield from choice_items(sentence, options, right, prompt=f"Sentence: {sentence}\nThe blank stands for:")


TASK = Task(
    name="winogrande",
    items=items,
    signatures=(signature("sentence", "option1", "option2"),),
    template="Sentence: {question}\nClaim: The blank stands for: {claim}\nI think this Claim is",
    gold_fields=frozenset({"answer"}),
    hub=(HubData("allenai/winogrande", "winogrande_xl", "train", "validation"),),
)
