"""What all conditions share: small frozen objects with one method, `answer`, and helpers to write it.

A new condition is a class in a file of this folder, a kind in `eval/settings.py` and a line in
`eval/experiment.py`, which builds it from the settings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from eval.conditions.answers import Answer, Batch, prompt_hash
from eval.conditions.pool import EnginePool
from icm.examples import ICMExample
from icm.prompts import Segment

ITEMS_PER_BATCH = 16

Item = TypeVar("Item")


class Condition(Protocol):
    """Something that answers the held-out items. Its fields decide the answers, but for those that are not compared."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """Answer the items in order, batch by batch."""
        ...


def parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in batches that are asked, and kept, together."""
    for start in range(0, len(items), ITEMS_PER_BATCH):
        yield items[start : start + ITEMS_PER_BATCH]


def once(kept: list[Item], find: Callable[[], Item]) -> Item:
    """What `find` gives for all items: found by the first call of `answer`, and kept in the list for others."""
    if not kept:
        kept.append(find())
    return kept[0]


def answers(part: Sequence[ICMExample], scores: NDArray[np.float64], prompts: Sequence[object]) -> tuple[Answer, ...]:
    """An answer an item from label log-probabilities [items, labels] and what was asked."""
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"the engine returned {scores[~np.isfinite(scores)][0]} as a log-probability")
    rows = zip(part, scores.tolist(), prompts, strict=True)
    return tuple(Answer(example.id, tuple(row), prompt_hash=prompt_hash(prompt)) for example, row, prompt in rows)


def common_prefix(prompts: Sequence[Segment]) -> int:
    """Tokens that all prompts start with; every prompt keeps at least one of its own."""
    limit = min(map(len, prompts)) - 1
    return next((k for k in range(limit) if len({prompt[k] for prompt in prompts}) > 1), limit)
