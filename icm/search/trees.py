"""Demonstration order and prompt trees: leave-one-out scoring of n labelled examples at n·log2(n) instead of n² cost.

Leave-one-out asks for n prompts, each with the other n-1 examples as demonstrations (arXiv 2506.10139, section 2).
Their order is free, so it is chosen for shared prefixes: split the examples in halves; the context of the left half
gets the right half appended and the other way round; recurse. Every leaf ends with exactly the other n-1.

New examples are *appended* behind the kept contexts, at the same place for every leaf: a sweep after adding one
example costs one demonstration and one query a leaf. An engine that keeps prefixes needs no more than to be shown
the tree; nothing here knows which engine that is.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from icm.prompts import PromptTree, Segment

MIN_FOLD, MIN_FOLD_CROWDED = 12, 4
"""Appended demonstrations below which folding them cannot pay, with and without room to keep the tree."""

MOST_TRUSTED = 12
"""Trusted examples in a context beside its found ones: all queries share them, so that they cost little."""


@dataclass(frozen=True)
class Order:
    """Demonstration order as a tree: `settled` examples are split in halves, `appended` ones follow every context.

    Attributes:
        settled: positions in the drawn order.
        appended: positions in the order in which they came.
    """

    settled: tuple[int, ...]
    appended: tuple[int, ...] = ()

    @property
    def positions(self) -> tuple[int, ...]:
        """All labelled positions; the rows of a sweep."""
        return self.settled + self.appended

    def outgrown(self, fits: bool) -> bool:
        """Whether folding the appended examples into the tree pays.

        It does when there are as many of them as of the others, and soon where the tree no longer `fits` what the
        engine keeps: the next sweep would compute all of it again.
        """
        return len(self.appended) >= (max(MIN_FOLD, len(self.settled)) if fits else MIN_FOLD_CROWDED)

    def contexts(self, shots: int, most: int, trusted: Container[int] = ()) -> tuple[tuple[int, ...], ...]:
        """The first of the settled examples as at most so many contexts of `shots` each. There are two at least, of
        fewer if need be, so that each example is outside of one: a single example is outside of an empty one.

        Where labels are `trusted`, each context has them besides, but for its share of them and at most `MOST_TRUSTED`,
        in turn: among four examples two of them would not tell which of two concepts is meant.
        """
        everywhere = [position for position in self.settled if position in trusted]
        drawn = [position for position in self.settled if position not in trusted]
        size = min(shots, len(drawn) // 2)
        if not everywhere:
            starts = range(0, len(drawn) - size + 1, size)[:most] if size else range(1)
            return tuple(tuple(drawn[start : start + size]) for start in starts)
        contexts = dict[tuple[int, ...], None]()
        for number in range(most):
            first = number * MOST_TRUSTED % len(everywhere)
            share = {*everywhere[number::most]}
            turn = [p for p in (*everywhere[first:], *everywhere[:first]) if p not in share]
            contexts[*turn[:MOST_TRUSTED], *drawn[number * size : (number + 1) * size]] = None
        return tuple(contexts)

    def append(self, positions: Iterable[int]) -> "Order":
        """The order with new positions behind everything."""
        return replace(self, appended=self.appended + tuple(positions))


def balanced_order(labels: Mapping[int, str], rng: np.random.Generator) -> Order:
    """A fresh random order in which the labels take turns, as long as there are any of each."""
    turns: list[tuple[int, float, int]] = []
    for label in sorted(set(labels.values())):
        members = rng.permutation(sorted(position for position in labels if labels[position] == label))
        turns += [(turn, rng.random(), int(position)) for turn, position in enumerate(members)]
    return Order(tuple(position for _, _, position in sorted(turns)))


def draw_order(positions: Iterable[int], rng: np.random.Generator) -> Order:
    """A fresh random order of the labelled positions."""
    return Order(tuple(int(position) for position in rng.permutation(sorted(positions))))


@dataclass(frozen=True)
class TreeBuilder:
    """Prompt trees over one label assignment.

    Attributes:
        demonstration: position → token ids of the labelled example.
        query: position → token ids of the example without its label.
        prefix: ids every prompt starts with.
    """

    demonstration: Callable[[int], Segment]
    query: Callable[[int], Segment]
    prefix: Segment = ()

    def leave_one_out(self, order: Order) -> PromptTree:
        """One prompt a labelled position, given all others; rows are `order.positions`.

        Tokens of the tree: n·(log2(n) + 1)·L for n settled examples of mean length L, plus (appended + 1)·L a leaf.
        """
        row = {position: number for number, position in enumerate(order.positions)}
        settled = self._without(order.settled, order.appended, row)
        if not order.appended:
            return PromptTree(self.prefix, settled)
        complete = self._complete(order, self._without_appended(order.appended, row))
        if len(order.settled) < 2:
            return PromptTree(self.prefix, (*settled, *complete))
        right, left = settled[0], settled[1]
        shared = replace(right, children=(*right.children, *complete[0].children))
        return PromptTree(self.prefix, (shared, left))

    def given_all(self, order: Order, positions: Sequence[int]) -> PromptTree:
        """One prompt for each of `positions` (none of them labelled) given all labelled ones; rows are `positions`."""
        tree = tuple(PromptTree(self.query(position), query=row) for row, position in enumerate(positions))
        for position in reversed(order.appended):
            tree = (PromptTree(self.demonstration(position), tree),)
        return PromptTree(self.prefix, self._complete(order, tree))

    def given_each(self, contexts: Sequence[Sequence[int]], queries: Sequence[Sequence[int]]) -> PromptTree:
        """One prompt for each of the `queries` of each context, given that context; rows are numbered through."""
        row, children = count(), list[PromptTree]()
        for context, positions in zip(contexts, queries, strict=True):
            asked = tuple(PromptTree(self.query(position), query=next(row)) for position in positions)
            children += [PromptTree(self._segment(context), asked)] if context else asked
        return PromptTree(self.prefix, tuple(children))

    def _segment(self, positions: Sequence[int]) -> Segment:
        return tuple(token for position in positions for token in self.demonstration(position))

    def _complete(self, order: Order, below: tuple[PromptTree, ...]) -> tuple[PromptTree, ...]:
        """`below` behind a context of all settled examples: the right half first, as the left half's leaves have it."""
        middle = len(order.settled) // 2
        for half in (order.settled[:middle], order.settled[middle:]):
            below = (PromptTree(self._segment(half), below),) if half else below
        return below

    def _without(
        self, settled: Sequence[int], appended: Sequence[int], row: Mapping[int, int]
    ) -> tuple[PromptTree, ...]:
        """Leaves of `settled` behind a context that holds every settled example but these."""
        if len(settled) <= 1:
            return tuple(self._behind(appended, position, row) for position in settled)
        left, right = settled[: len(settled) // 2], settled[len(settled) // 2 :]
        return (
            PromptTree(self._segment(right), self._without(left, appended, row)),
            PromptTree(self._segment(left), self._without(right, appended, row)),
        )

    def _without_appended(self, appended: Sequence[int], row: Mapping[int, int]) -> tuple[PromptTree, ...]:
        """Leaves of the appended examples behind a context of all settled ones."""
        below: tuple[PromptTree, ...] = ()
        for place in reversed(range(len(appended))):
            with_this = (PromptTree(self.demonstration(appended[place]), below),) if below else ()
            below = (self._behind(appended[place + 1 :], appended[place], row), *with_this)
        return below

    def _behind(self, appended: Sequence[int], position: int, row: Mapping[int, int]) -> PromptTree:
        tree = PromptTree(self.query(position), query=row[position])
        for demonstrated in reversed(appended):
            tree = PromptTree(self.demonstration(demonstrated), (tree,))
        return tree
