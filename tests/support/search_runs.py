"""Data for searches, and what is read from their results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icm.config import SearchConfig
from icm.consistency import ConsistencyIndex
from icm.engines.base import Engine
from icm.examples import ICMDataset, ICMExample, LabelSpace, Relations, example_id
from icm.labelling.session import Progress
from icm.results.format import ICMResult
from icm.results.trace import row_json
from icm.search.checks import rule_checker
from icm.search.problem import Problem
from icm.search.scoring import Scorer
from icm.tasks import load_task
from icm.tasks.source import DataSource

FAST = SearchConfig(
    init="zero-shot", initial_temperature=10, max_iterations=60, refresh_every=16, early_stop=False, shots=None
)
"""Settings of a short search that accepts and rejects, by leave-one-out."""


def reviews(count: int, seed: int = 0) -> ICMDataset:
    return load_task(DataSource("reviews")).dataset.sample(count, seed)


def pairs(count: int) -> ICMDataset:
    """Comparison claims in both directions: exactly one of each pair can be True."""
    examples = []
    for number in range(count):
        texts = [f"Response {number} beats its rival.\nI think this Claim is", f"The rival beats {number}.\nI think"]
        for text, other in zip(texts, reversed(texts), strict=True):
            examples.append(ICMExample(text, {}, Relations(f"pair {number}", None, example_id(other))))
    return ICMDataset(examples, LabelSpace(), "pairs", "comparison")


def groups(count: int, size: int) -> ICMDataset:
    """`count` questions with `size` answers each."""
    examples = [
        ICMExample(f"Answer {place} to question {group}\nI think this Claim is", {}, Relations(f"question {group}"))
        for group in range(count)
        for place in range(size)
    ]
    return ICMDataset(examples, LabelSpace(), "groups")


def task_index(dataset: ICMDataset) -> ConsistencyIndex:
    """The pairs that the data set's task relates."""
    return rule_checker(dataset.task).index(dataset)


def problem(engine: Engine, dataset: ICMDataset, config: SearchConfig) -> Problem:
    """The data set as one batch, with the rules of its task."""
    return Problem(Scorer(engine, dataset, config), task_index(dataset), config, (0,))


def rows(path: Path) -> list[dict[str, Any]]:
    """Trace rows that do not speak of cost."""
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["type"] != "usage"]


def seen(found: list[dict[str, Any]]) -> Callable[[Progress], None]:
    """Takes the rows of a run as they come, with what is of no use when it has ended."""
    return lambda progress: found.append(row_json(progress.row))


def interrupted_after(count: int) -> Callable[[Progress], None]:
    """Interrupts a run at its row of that number."""
    left = iter(range(count - 1))

    def stop(progress: Progress) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return stop


def labels(result: ICMResult) -> dict[str, str]:
    return {item.example.id: item.label for item in result.labeled_examples}
