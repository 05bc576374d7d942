"""The items of the harness's task `word_problems`, and when a solution is right."""

from collections.abc import Mapping, Sequence

from datasets import Dataset, DatasetDict

from icm.tasks.builtin.synthetic import records
from icm.tasks.drawing import group_id, in_part
from icm.tasks.source import DataSource
from icm.text import same_answer

SOURCE = DataSource("synthetic:problems", size=1000, seed=150, holdout=0.3, part="test")
ITEMS = 150


def held_out(**_: object) -> DatasetDict:
    """Problems on the test side of the holdout."""
    rows = [{name: record.text(name) for name in ("question", "answer")} for record in records(SOURCE)]
    return DatasetDict(
        {"test": Dataset.from_list([r for r in rows if in_part(group_id(r["question"]), SOURCE)][:ITEMS])}
    )


def right(item: Mapping[str, str], solutions: Sequence[str]) -> dict[str, float]:
    """Exact match of the final answers."""
    return {"exact_match": float(same_answer(solutions[0], item["answer"]))}
