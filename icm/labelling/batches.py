"""Batches of a data set that fit the context of a model."""

import logging
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop, heapreplace, nlargest
from typing import Protocol

import numpy as np

from icm.calibration import BIASES, FEWEST
from icm.config import SearchConfig
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, claim_of_each, garbage_collection
from icm.prompts import PromptEncoder, Tokenizer
from icm.search.scoring import CONTENT_FREE
from icm.search.trees import MOST_TRUSTED
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

    Any examples of a batch may stand in a prompt together, so that its longest have to fit; by leave-one-out all do.

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
    room = _Room(config.batch_size, budget, _together(dataset, config))
    fitting = sound([_fitting(found[number], room) for number in order.tolist()], bad_records, "questions")
    batches = _packed(fitting, room)
    if len(batches) > 1 and dataset.trusted:
        everywhere, free = _Group(), []
        for group in fitting:
            trusted, others = group.divided(dataset.trusted)
            if trusted.examples:
                everywhere = everywhere.with_all(trusted)
            if others.examples:
                free.append(others)
        _check_room(free, everywhere, room)
        batches = [[*batch, *everywhere.examples] for batch in _packed(free, room, everywhere)]
    return [dataset.part(tuple(batch)) for batch in batches]


def _together(dataset: ICMDataset, config: SearchConfig) -> int:
    """Examples in the longest prompt: the one that is asked about, its found demonstrations and the trusted ones, to
    which the rules may add others of their questions."""
    found = max(config.shots, len(dataset.label_space.labels)) if config.shots else len(dataset)
    if config.algorithm in ("random", "zero-shot"):
        found = 0
    questions = {example.group for example in dataset if example.id in dataset.trusted}
    trusted = sum(example.group in questions for example in dataset)
    return min(len(dataset), 1 + found + (min(trusted, MOST_TRUSTED) if config.shots else trusted))


@dataclass
class _Group:
    """Examples that stay together, and the tokens of each."""

    examples: list[ICMExample] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, example: ICMExample, tokens: int) -> None:
        self.examples.append(example)
        self.lengths.append(tokens)

    def with_all(self, other: "_Group") -> "_Group":
        """The examples of both."""
        return _Group([*self.examples, *other.examples], [*self.lengths, *other.lengths])

    def divided(self, ids: Container[str]) -> tuple["_Group", "_Group"]:
        """The examples of these ids, and the others."""
        parts = _Group(), _Group()
        for example, tokens in zip(self.examples, self.lengths, strict=True):
            parts[example.id not in ids].add(example, tokens)
        return parts


@dataclass(frozen=True)
class _Room:
    """What a batch may hold.

    Attributes:
        size: examples.
        tokens: of as many of them as a prompt has.
        together: examples in a prompt.
    """

    size: int
    tokens: int
    together: int

    def longest(self, group: _Group) -> int:
        """Tokens of a prompt that has the group's longest examples."""
        return sum(nlargest(self.together, group.lengths))

    def holds(self, group: _Group) -> bool:
        """Whether the group is no more than a batch."""
        return len(group.examples) <= self.size and self.longest(group) <= self.tokens


def batched(dataset: ICMDataset, batches: Sequence[ICMDataset]) -> ICMDataset:
    """The part of a data set that its batches hold."""
    held = {example.id for batch in batches for example in batch}
    return dataset.part([example for example in dataset if example.id in held])


def say_batches(batches: Sequence[ICMDataset], config: SearchConfig) -> None:
    """Say why there are several, how they are calibrated, and whether one is too small for that."""
    if len(batches) > 1:
        _log.warning(_why(batches, config))
    claims = max(1, *(int(claim_of_each(batch.examples, batch.trusted).max()) for batch in batches))
    if claims > 1 and config.calibration != "none" and config.algorithm != "random":
        _log.info("all questions are asked the same %d claims, each of which is calibrated by itself", claims)
    few = min(map(len, batches)) // claims
    if config.calibration in BIASES and config.algorithm != "random" and few < LEAST:
        _log.warning(
            "labels are calibrated over %d examples as if each label were about equally frequent among them; where "
            "that is not so give --calibration none, and see whether it leaves all of them with one label",
            few,
        )
    asked = few - (0 if config.algorithm in ("zero-shot", "random") else config.shots or 0) // claims
    if config.calibration == "prototypical" and asked < FEWEST * len(batches[0].label_space.labels):
        _log.warning(
            "%d answers are too few to tell groups apart: labels are calibrated as by --calibration batch", asked
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


def _fitting(group: _Group, room: _Room) -> _Group | ConfigError:
    if (tokens := room.longest(group)) <= room.tokens:
        return group
    size = min(len(group.examples), room.together)
    found = f"one question's {size} examples have" if size > 1 else "the text has"
    return ConfigError(
        f"{_place(group.examples[0])}: {found} {tokens} tokens, which do not fit the context ({room.tokens} tokens); "
        "shorten it, or use a model with a longer context"
    )


def _place(example: ICMExample) -> str:
    return example.where or f"{example.input[:60]!r}"


def _check_room(groups: Sequence[_Group], everywhere: _Group, room: _Room) -> None:
    """Raise ConfigError if trusted labels, which stand in every batch, leave no room for one question."""
    longest = _Group(everywhere.examples, nlargest(room.together, everywhere.lengths))
    if not groups or not all(room.holds(longest.with_all(group)) for group in groups):
        size = room.size - len(everywhere.examples)
        raise ConfigError(
            f"trusted: its {len(everywhere.examples)} examples stand in every batch and leave "
            f"{max(room.tokens - room.longest(everywhere), 0)} tokens and {max(size, 0)} places, too little for one "
            "question; give fewer, raise --batch-size, or use a model with a longer context"
        )


def _packed(groups: Sequence[_Group], room: _Room, everywhere: _Group | None = None) -> list[list[ICMExample]]:
    """The groups in few batches; `everywhere` stands in each of them besides."""
    sizes = [len(group.examples) for group in groups]
    if max(sizes) > room.size:
        most = groups[sizes.index(max(sizes))].examples
        raise ConfigError(
            f"{_place(most[0])}: one question's {len(most)} examples do not fit the batch size ({room.size}); "
            f"raise --batch-size to {len(most)}"
        )
    everywhere = everywhere or _Group()
    groups = sorted(groups, key=room.longest, reverse=True)  # what is hard to place first
    needed = max(-(-sum(sizes) // (room.size - len(everywhere.examples))), _needed_by_length(groups, room, everywhere))
    while (places := _places(groups, room, everywhere, needed)) is None:  # ends: as many as groups have one each
        needed += max(1, needed // 200)  # of hundreds of batches a few more than needed is no harm
    batches: list[list[ICMExample]] = [[] for _ in range(needed)]
    for group, place in zip(groups, places, strict=True):
        batches[place].extend(group.examples)
    return [batch for batch in batches if batch]


def _needed_by_length(groups: Sequence[_Group], room: _Room, everywhere: _Group) -> int:
    """Batches that there are at least: of the examples that are longer than half the context each has one of its own,
    of those longer than a third two may share one, and so on."""
    lengths = [tokens for group in groups for tokens in group.lengths]
    if room.together >= min(room.size, len(lengths) + len(everywhere.lengths)):
        return -(-sum(lengths) // (room.tokens - sum(everywhere.lengths)))
    shares, found = range(2, room.together + 1), np.array(lengths)
    return max((-(-int(np.sum(found * share > room.tokens)) // (share - 1)) for share in shares), default=1)


def _places(groups: Sequence[_Group], room: _Room, everywhere: _Group, count: int) -> list[int] | None:
    """The batch of each group, the emptiest of so many, by its shares of the batch size and of the context; None if a
    batch overflows."""
    start = sorted(nlargest(room.together, everywhere.lengths))  # a heap: the shortest of the longest first
    size = len(everywhere.examples)
    heap = [(0.0, size, place, sum(start), start) for place in range(count)]
    places = []
    for group in groups:
        _, held, place, filled, longest = heap[0]
        longest = longest.copy() if longest is start else longest
        for tokens in group.lengths:
            if len(longest) < room.together:
                heappush(longest, tokens)
                filled += tokens
            else:
                filled += tokens - heappushpop(longest, tokens)
        held += len(group.examples)
        if held > room.size or filled > room.tokens:
            return None
        heapreplace(heap, (max(held / room.size, filled / room.tokens), held, place, filled, longest))
        places.append(place)
    return places
