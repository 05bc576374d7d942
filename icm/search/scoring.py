"""Mutual predictability: leave-one-out sweeps of labelled examples, and what they would have cost in plain order."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from icm.calibration import Array, calibrate, label_bias
from icm.config import SearchConfig
from icm.engines.base import Engine
from icm.examples import ICMDataset, ICMExample
from icm.prompts import PromptEncoder, PromptTree
from icm.search.trees import Order, TreeBuilder

Labels = Mapping[int, str]
"""Labelled part D: dataset position → label."""

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Queries without content for contextual calibration (Zhao et al. 2021)."""


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
            scores = self.engine.score_labels(tree, self.encoder.labels)
            bias, bias_tokens = self._bias(scores, order, labels)
            log_probs, names = calibrate(scores, bias), self.dataset.label_space.labels
            sweep = Sweep(order.positions, log_probs, bias, names, tree.tree_tokens)
            self._memory[key] = (sweep, self._plain(tree) + bias_tokens)
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
        return calibrate(self.engine.score_labels(tree, self.encoder.labels), sweep.bias)

    def count_proposals(self, labels: Labels, positions: Sequence[int]) -> None:
        """Note that plain order would have computed one prompt, all of D but the example itself, for each proposal."""
        trees = self.trees(labels)
        lengths = {position: len(trees.demonstration(position)) for position in labels}
        context = len(self.encoder.prefix) + sum(lengths.values())
        for position in positions:
            prompt = context - lengths.get(position, 0) + len(trees.query(position))
            self.plain.plain_tokens += self.encoder.labels.plain_tokens(prompt)

    def count_unchanged(self, labels: Labels, order: Order) -> None:
        """Note that Algorithm 1 as printed would have swept D = `labels` once more."""
        self.plain.unchanged_tokens += self._memory[_memory_key(labels, order)][1]

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is scored inside was counted before, by the run that was interrupted."""
        counted, self.plain = self.plain, PlainCost()
        try:
            yield
        finally:
            self.plain = counted

    def zero_shot(self, positions: Sequence[int]) -> Array:
        """Calibrated label log-probabilities without demonstrations, [positions, labels]."""
        tree = self.trees({}).given_all(Order(()), positions)
        scores = self.engine.score_labels(tree, self.encoder.labels)
        bias, bias_tokens = self._bias(scores, Order(()), {})
        self.plain.plain_tokens += self._plain(tree) + bias_tokens
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
        scores = self.engine.score_labels(tree, self.encoder.labels)
        return label_bias(scores), self._plain(tree)

    def _plain(self, tree: PromptTree) -> int:
        """Tokens of the tree's prompts in plain order."""
        return self.encoder.labels.plain_tokens(tree.prompt_tokens, tree.queries)


def _memory_key(labels: Labels, order: Order) -> MemoryKey:
    return order, tuple(sorted(labels.items()))


def content_free_examples(dataset: ICMDataset) -> list[ICMExample]:
    """The text that all inputs share at both ends, with a `CONTENT_FREE` text between: the template, emptied."""
    inputs = [example.input for example in dataset]
    start = os.path.commonprefix(inputs)  # noqa: RUF071 - text, not paths
    end = os.path.commonprefix([text[len(start) :][::-1] for text in inputs])[::-1]  # noqa: RUF071
    return [ICMExample(f"{start}{content}{end}") for content in CONTENT_FREE]
