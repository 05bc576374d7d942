"""Mutual predictability: leave-one-out scoring of n labelled examples at n·log2(n) instead of n² cost.

Leave-one-out asks for n prompts, each with the other n-1 examples as demonstrations (arXiv 2506.10139, section 2).
Their order is free, so it is chosen for shared prefixes: split the examples in halves; the context of the left half
gets the right half appended and the other way round; recurse. Every leaf ends with exactly the other n-1.

New examples are *appended* behind the kept contexts, at the same place for every leaf: a sweep after adding one
example costs one demonstration and one query a leaf. An engine that keeps prefixes needs no more than to be shown
the tree; nothing here knows which engine that is.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from icm.calibration import Array, calibrate, label_bias
from icm.config import SearchConfig
from icm.engines.base import Engine
from icm.examples import ICMDataset, ICMExample
from icm.prompts import PromptEncoder, PromptTree, Segment

Labels = Mapping[int, str]
"""Labelled part D: dataset position → label."""

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Queries without content for contextual calibration (Zhao et al. 2021)."""


MIN_FOLD, MIN_FOLD_CROWDED = 12, 4
"""Appended demonstrations below which folding them cannot pay, with and without room to keep the tree."""


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

    def append(self, positions: Iterable[int]) -> "Order":
        """The order with new positions behind everything."""
        return replace(self, appended=self.appended + tuple(positions))


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


@dataclass(frozen=True)
class Sweep:
    """Leave-one-out label log-probabilities of all labelled examples under one order.

    Attributes:
        positions: rows.
        log_probs: [rows, labels], calibrated, normalised over the label space, natural log.
        bias: [labels], what calibration took out.
        labels: label names, columns.
        tree_tokens: tokens of the prompt tree, which an engine has to keep for the next sweep to be cheap.
    """

    positions: tuple[int, ...]
    log_probs: Array
    bias: Array
    labels: tuple[str, ...]
    tree_tokens: int

    @property
    def by_position(self) -> dict[int, Array]:
        """Position → its row of `log_probs`."""
        return dict(zip(self.positions, self.log_probs, strict=True))

    def predictabilities(self, labels: Labels) -> Array:
        """log p(y_i | x_i, D without x_i) of the given labels, [rows], nats."""
        columns = [self.labels.index(labels[position]) for position in self.positions]
        return np.asarray(self.log_probs[np.arange(len(columns)), columns])


MemoryKey = tuple[Order, tuple[tuple[int, str], ...]]
"""An order and a labelling: what a sweep is remembered by."""


@dataclass
class PlainCost:
    """What plain order, every prompt of the algorithm computed alone, would have cost.

    Attributes:
        plain_tokens: of every prompt that was asked, those answered from memory included.
        unchanged_tokens: of the further sweeps of Algorithm 1 as printed: it computes U(D') in each iteration, also
            where D' is D. The published code skips those where the proposal is the label that the example has.
    """

    plain_tokens: int = 0
    unchanged_tokens: int = 0


class Scorer:
    """Scores label assignments of one dataset with one engine.

    Attributes:
        plain: counts what plain order would have cost.
    """

    def __init__(
        self, engine: Engine, dataset: ICMDataset, config: SearchConfig, plain: PlainCost | None = None
    ) -> None:
        self.dataset = dataset
        self.engine = engine
        self.encoder = PromptEncoder(engine.tokenizer, dataset.label_space)
        self.plain = plain or PlainCost()
        self._calibration = config.calibration
        self._memory: dict[MemoryKey, tuple[Sweep, int]] = {}

    def trees(self, labels: Labels) -> TreeBuilder:
        """The tree builder for D = `labels`."""
        return TreeBuilder(
            lambda position: self.encoder.demonstration(self.dataset[position], labels[position]),
            lambda position: self.encoder.query(self.dataset[position]),
            self.encoder.prefix,
        )

    def sweep(self, labels: Labels, order: Order) -> Sweep:
        """Leave-one-out scores of D = `labels` under `order`. Repeats are answered from memory."""
        key = _memory_key(labels, order)
        if key not in self._memory:
            tree = self.trees(labels).leave_one_out(order)
            scores = self.engine.score(tree, self.encoder.label_ids)
            bias, bias_tokens = self._bias(scores, order, labels)
            log_probs, names = calibrate(scores, bias), self.dataset.label_space.labels
            sweep = Sweep(order.positions, log_probs, bias, names, tree.tree_tokens)
            self._memory[key] = (sweep, tree.prompt_tokens + bias_tokens)
        sweep, tokens = self._memory[key]
        self.plain.plain_tokens += tokens
        return sweep

    def outgrown(self, sweep: Sweep, order: Order) -> bool:
        """Whether folding the appended examples into the tree pays before the next sweep."""
        return order.outgrown(fits=sweep.tree_tokens <= self.engine.cache_tokens)

    def forget(self) -> None:
        """Drop remembered sweeps: they belong to an order that is not used any more."""
        self._memory.clear()

    def proposals(self, labels: Labels, sweep: Sweep, order: Order, positions: Sequence[int]) -> Array:
        """Calibrated label log-probabilities of unlabelled `positions` given all of D, [positions, labels].

        All share one context, so a batch costs one query each. The bias is the sweep's, so that a row does not
        depend on what else is in the batch.
        """
        tree = self.trees(labels).given_all(order, positions)
        return calibrate(self.engine.score(tree, self.encoder.label_ids), sweep.bias)

    def count_proposals(self, labels: Labels, positions: Sequence[int]) -> None:
        """Note that plain order would have computed one prompt, all of D but the example itself, for each proposal."""
        trees = self.trees(labels)
        lengths = {position: len(trees.demonstration(position)) for position in labels}
        context = len(self.encoder.prefix) + sum(lengths.values())
        for position in positions:
            self.plain.plain_tokens += context - lengths.get(position, 0) + len(trees.query(position))

    def count_unchanged(self, labels: Labels, order: Order) -> None:
        """Note that Algorithm 1 as printed would have swept D = `labels` once more."""
        self.plain.unchanged_tokens += self._memory[_memory_key(labels, order)][1]

    def zero_shot(self, positions: Sequence[int]) -> Array:
        """Calibrated label log-probabilities without demonstrations, [positions, labels]."""
        tree = self.trees({}).given_all(Order(()), positions)
        scores = self.engine.score(tree, self.encoder.label_ids)
        bias, bias_tokens = self._bias(scores, Order(()), {})
        self.plain.plain_tokens += tree.prompt_tokens + bias_tokens
        return calibrate(scores, bias)

    def _bias(self, scores: Array, order: Order, labels: Labels) -> tuple[Array, int]:
        """What calibration takes out, [labels], and the tokens of the prompts that it asks for in plain order."""
        if self._calibration == "batch":
            return label_bias(scores), 0
        if self._calibration == "none":
            return np.zeros(scores.shape[1]), 0
        content_free = content_free_examples(self.dataset)
        context = replace(self.trees(labels), query=lambda row: self.encoder.query(content_free[row]))
        tree = context.given_all(order, range(len(content_free)))
        return label_bias(self.engine.score(tree, self.encoder.label_ids)), tree.prompt_tokens


def _memory_key(labels: Labels, order: Order) -> MemoryKey:
    return order, tuple(sorted(labels.items()))


def content_free_examples(dataset: ICMDataset) -> list[ICMExample]:
    """The text that all inputs share at both ends, with a `CONTENT_FREE` text between: the template, emptied."""
    inputs = [example.input for example in dataset]
    start = os.path.commonprefix(inputs)  # noqa: RUF071 - text, not paths
    end = os.path.commonprefix([text[len(start) :][::-1] for text in inputs])[::-1]  # noqa: RUF071
    return [ICMExample(f"{start}{content}{end}") for content in CONTENT_FREE]
