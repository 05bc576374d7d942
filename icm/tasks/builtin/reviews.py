"""The built-in product and film reviews, written for this project, with a fixed train/test split.

Each is a claim to be judged, as in the papers. Asked for a label word instead, small models know the answer without any
labels: `--template $'Review: {text}\nSentiment:' --verbalisers 'negative= negative' 'positive= positive'`.
"""

from pathlib import Path

from icm.examples import LabelSpace
from icm.tasks.base import Record, Task
from icm.tasks.builtin.classification import items
from icm.tasks.formats import file_records
from icm.tasks.reading import records_of_split
from icm.tasks.source import DataSource

DATA = Path(__file__).with_name("reviews.jsonl")


def records(source: DataSource) -> list[Record]:
    """The reviews of the source's split."""
    return records_of_split(file_records(DATA), source)


TASK = Task(
    name="reviews",
    items=items,
    signatures=(),
    template="Review: {text}\nClaim: The reviewer is satisfied\nI think this Claim is",
    gold_fields=frozenset({"label"}),
    label_space=LabelSpace(("negative", "positive"), (" False", " True")),
    records=records,
)
