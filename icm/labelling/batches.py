"""Batches of a data set that fit the context of a model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapreplace
from typing import Protocol

import numpy as np

from icm.config import SearchConfig
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, garbage_collection
from icm.prompts import PromptEncoder, Tokenizer
from icm.search.scoring import CONTENT_FREE
from icm.tasks.soundness import sound

_log = logging.getLogger(__name__)

LEAST = 16
"""Examples over which labels can be calibrated without a word: of one, the model's answer would count for nothing."""


class Context(Protocol):
    """What says how much fits together: an engine, or what stands for it."""

    tokenizer: Tokenizer
    context_length: int


@garbage_collection(on=False)
def split_batches(
    dataset: ICMDataset, engine: Context, config: SearchConfig, bad_records: str = "refuse"
) -> list[ICMDataset]:
    """Batches that fit the context: whole groups, at most `batch_size` examples, of about equal size.

    All but one example of a batch stand in the context of the last, so a batch is bounded by the context length too.

    Args:
        bad_records: what becomes of groups that are longer than the context, see `DataSource.bad_records`.

    Raises:
        ConfigError: a group does not fit.
    """
    encoder = PromptEncoder(engine.tokenizer, dataset.label_space)
    lengths = encoder.longest_demonstrations(dataset.examples)
    budget = engine.context_length - len(encoder.prefix)
    if config.calibration == "contextual":  # it asks a query of its own behind all examples of a batch
        budget -= max(len(encoder.query(ICMExample(text))) for text in CONTENT_FREE)
        budget -= max((tokens for tokens in lengths if 2 * tokens <= budget), default=0)
    groups: dict[str, _Group] = {}
    for example, tokens in zip(dataset.examples, lengths, strict=True):
        groups.setdefault(example.group, _Group()).add(example, tokens)
    order = np.random.default_rng(config.seed).permutation(len(groups))
    found = list(groups.values())
    fitting = sound([_fitting(found[number], budget) for number in order.tolist()], bad_records, "questions")
    batches = _packed(fitting, budget, config.batch_size)
    if len(batches) > 1 and dataset.trusted:
        trusted = {e.id: count for e, count in zip(dataset, lengths, strict=True) if e.id in dataset.trusted}
        left = budget - sum(trusted.values()), config.batch_size - len(trusted)
        _check_room(fitting, *left)
        everywhere = [example for example in dataset if example.id in trusted]
        batches = [[*batch, *everywhere] for batch in _packed(fitting, *left)]
    return [dataset.part(tuple(batch)) for batch in batches]


@dataclass
class _Group:
    """Examples that stay together, and their tokens."""

    examples: list[ICMExample] = field(default_factory=list)
    tokens: int = 0

    def add(self, example: ICMExample, tokens: int) -> None:
        self.examples.append(example)
        self.tokens += tokens


def batched(dataset: ICMDataset, batches: Sequence[ICMDataset]) -> ICMDataset:
    """The part of a data set that its batches hold."""
    held = {example.id for batch in batches for example in batch}
    return dataset.part([example for example in dataset if example.id in held])


def say_batches(batches: Sequence[ICMDataset], config: SearchConfig) -> None:
    """Say why there are several, and whether one is too small for its calibration."""
    if len(batches) > 1:
        _log.warning(_why(batches, config))
    if config.calibration == "batch" and config.algorithm != "random" and (few := min(map(len, batches))) < LEAST:
        _log.warning(
            "labels are calibrated over %d examples as if each label were about equally frequent among them; for so "
            "few, or for one kind of text, give --calibration none",
            few,
        )


def _why(batches: Sequence[ICMDataset], config: SearchConfig) -> str:
    sizes = [len(batch) for batch in batches]
    reason = f"the context length allows {max(sizes)} at a time"
    remedy = f"a longer --max-model-len, a model with a longer context, or --max-examples {max(sizes)}"
    if len(batches) <= -(-sum(sizes) // config.batch_size):
        reason, remedy = f"batch_size is {config.batch_size}", f"--batch-size {sum(sizes)}"
    return (
        f"{sum(sizes)} examples are labelled in {len(sizes)} batches: {reason}, "
        f"so examples of different batches do not see each other; {remedy} avoids that"
    )


def _fitting(group: _Group, budget: int) -> _Group | ConfigError:
    if group.tokens <= budget:
        return group
    size = len(group.examples)
    found = f"one question's {size} examples have" if size > 1 else "the text has"
    return ConfigError(
        f"{_place(group.examples[0])}: {found} {group.tokens} tokens, which do not fit the context ({budget} tokens); "
        "shorten it, or use a model with a longer context"
    )


def _place(example: ICMExample) -> str:
    return example.where or f"{example.input[:60]!r}"


def _check_room(groups: Sequence[_Group], budget: int, size: int) -> None:
    """Raise ConfigError if trusted labels, which stand in every batch, leave no room for one question."""
    if any(len(group.examples) > size or group.tokens > budget for group in groups):
        raise ConfigError(
            f"trusted: its examples stand in every batch and leave {max(budget, 0)} tokens and {max(size, 0)} places, "
            "too little for one question; give fewer, raise --batch-size, or use a model with a longer context"
        )


def _packed(groups: Sequence[_Group], budget: int, size: int) -> list[list[ICMExample]]:
    sizes = [len(group.examples) for group in groups]
    if max(sizes) > size:
        most = groups[sizes.index(max(sizes))].examples
        raise ConfigError(
            f"{_place(most[0])}: one question's {len(most)} examples do not fit the batch size ({size}); "
            f"raise --batch-size to {len(most)}"
        )
    shares = [(own / size, group.tokens / budget) for own, group in zip(sizes, groups, strict=True)]
    needed = max(-(-sum(sizes) // size), -(-sum(group.tokens for group in groups) // budget))
    tries = 0
    while (places := _places(shares, needed)) is None:  # ends: with as many batches as groups, each has its own
        tries += 1
        needed += max(1, tries // 32)  # of thousands of batches a few more than needed is no harm
    batches: list[list[ICMExample]] = [[] for _ in range(needed)]
    for group, place in zip(groups, places, strict=True):
        batches[place].extend(group.examples)
    return [batch for batch in batches if batch]


def _places(shares: Sequence[tuple[float, float]], count: int) -> list[int] | None:
    """The batch of each group, the emptiest of so many, by its shares of the batch size and of the context; None if a
    batch overflows."""
    heap = [(0.0, place, 0.0, 0.0) for place in range(count)]
    places = []
    for examples, tokens in shares:
        _, place, held, filled = heap[0]
        held, filled = held + examples, filled + tokens
        fullest = max(held, filled)
        if fullest > 1 + 1e-9:
            return None
        heapreplace(heap, (fullest, place, held, filled))
        places.append(place)
    return places
