"""PIQA (Bisk et al. 2020): does this solution reach the goal?"""

from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, signature
from icm.tasks.choices import choice_items, right_index


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    goal = record.text("goal")
    solutions = [record.text("sol1"), record.text("sol2")]
    yield from choice_items(
        goal, solutions, right_index(record, "label", ["0", "1"]), prompt=f"Goal: {goal}\nSolution:"
    )


TASK = Task(
    name="piqa",
    items=items,
    signatures=(signature("goal", "sol1", "sol2"),),
    template="Goal: {question}\nSolution: {claim}\nClaim: The Solution reaches the Goal.\nI think this Claim is",
    gold_fields=frozenset({"label"}),
    # the data set is a script on the hub, which `datasets` no longer runs; this branch is the hub's own conversion
    hub=(HubData("ybisk/piqa", None, "train", "validation", revision="refs/convert/parquet"),),
)
