"""Mutual predictability: how well each label is predicted by others, and what that would have cost in plain order.

Leave-one-out, as published, gives every label a context of its own. What a context makes the model prefer, by its last
labels above all, is then different for each label and cannot be told from what the label's own text says; small models
follow it more than the text. So by default a few contexts of some examples each are asked about all the others, the
preference that all answers of a context share is taken out, and a label's answers are averaged. That also costs less.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from icm.calibration import BIASES, Array, calibrate, claim_biases, label_bias, over_labels
from icm.config import SearchConfig
from icm.engines.base import Engine
from icm.examples import ICMDataset, ICMExample, claim_of_each
from icm.prompts import PromptEncoder, PromptTree
from icm.search.trees import Order, TreeBuilder, balanced_order, draw_order

Labels = Mapping[int, str]
"""Labelled part D: dataset position → label."""

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Queries without content for contextual calibration (Zhao et al. 2021)."""


@dataclass(frozen=True)
class Sweep:
    """Label log-probabilities of all labelled examples, given others, under one order.

    Attributes:
        positions: rows.
        log_probs: [rows, labels], calibrated, normalised over the label space, natural log.
        bias: [claims, labels], what calibration took out of leave-one-out scores.
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


Context = tuple[tuple[int, str], ...]
"""Labelled examples in the order in which they are shown."""


@dataclass(frozen=True)
class Answers:
    """What a context says of all other examples.

    Attributes:
        log_probs: [examples, labels], calibrated over the context's own answers; 0 for those that were not asked.
        asked: [examples], those outside of the context.
        plain_tokens: of its prompts, each computed alone.
    """

    log_probs: Array
    asked: NDArray[np.bool_]
    plain_tokens: int


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
        trusted: labels that stay as they are.
        claims: number of each example's claim, [examples], see `claim_of_each`.
    """

    def __init__(
        self, engine: Engine, dataset: ICMDataset, config: SearchConfig, plain: PlainCost | None = None
    ) -> None:
        self.dataset = dataset
        self.engine = engine
        self.encoder = PromptEncoder(engine.tokenizer, dataset.label_space)
        self.plain = plain or PlainCost()
        self.trusted: Labels = {p: dataset.trusted[e.id] for p, e in enumerate(dataset) if e.id in dataset.trusted}
        self.claims = claim_of_each(dataset.examples, dataset.trusted)
        self._calibration = config.calibration
        self._shots, self._contexts = config.shots, config.contexts
        self._memory: dict[MemoryKey, tuple[Sweep, int]] = {}
        self._asked: dict[Context, Answers] = {}

    def trees(self, labels: Labels) -> TreeBuilder:
        """The tree builder for D = `labels`."""
        return TreeBuilder(
            lambda position: self.encoder.demonstration(self.dataset[position], labels[position]),
            lambda position: self.encoder.query(self.dataset[position]),
            self.encoder.prefix,
        )

    def sweep(self, labels: Labels, order: Order) -> Sweep:
        """Scores of D = `labels` under `order`. Repeats are answered from memory."""
        key = _memory_key(labels, order)
        if key not in self._memory:
            self._memory[key] = (self._over_contexts if self._shots else self._leave_one_out)(labels, order)
        sweep, tokens = self._memory[key]
        self.plain.plain_tokens += tokens
        return sweep

    def draw(self, labels: Labels, rng: np.random.Generator) -> Order:
        """A fresh random order of D. For shared contexts the labels take turns in it, the trusted ones first."""
        if not self._shots:
            return draw_order(labels, rng)
        trusted = {position: label for position, label in labels.items() if position in self.trusted}
        rest = {position: label for position, label in labels.items() if position not in self.trusted}
        return Order(balanced_order(trusted, rng).settled + balanced_order(rest, rng).settled)

    def _leave_one_out(self, labels: Labels, order: Order) -> tuple[Sweep, int]:
        tree = self.trees(labels).leave_one_out(order)
        scores = self.engine.score_labels(tree, self.encoder.labels)
        bias, bias_tokens = self._bias(scores, order.positions, order, labels)
        log_probs = calibrate(scores, bias[self.claims[list(order.positions)]])
        sweep = Sweep(order.positions, log_probs, bias, self.dataset.label_space.labels, tree.tree_tokens)
        return sweep, self._plain(tree) + bias_tokens

    def _over_contexts(self, labels: Labels, order: Order) -> tuple[Sweep, int]:
        answers = self._answers(labels, order)
        log_probs = _mean(answers, order.positions)
        names = self.dataset.label_space.labels
        sweep = Sweep(order.positions, log_probs, np.zeros((1, len(names))), names, tree_tokens=0)
        return sweep, sum(answer.plain_tokens for answer in answers)

    def _answers(self, labels: Labels, order: Order) -> list[Answers]:
        """What the contexts of the order say; those that were asked before, with the same labels, are not again."""
        shots = max(self._shots or 0, len(self.dataset.label_space.labels))
        drawn = order.contexts(shots, self._contexts, self.trusted)
        contexts = [tuple((p, labels[p]) for p in context) for context in drawn]
        if new := [context for context in contexts if context not in self._asked]:
            rest = [[p for p in range(len(self.dataset)) if p not in dict(context)] for context in new]
            tree = self.trees(labels).given_each([list(dict(context)) for context in new], rest)
            scores = self.engine.score_labels(tree, self.encoder.labels)
            rows = np.split(scores, np.cumsum([len(positions) for positions in rest])[:-1])
            for context, positions, found in zip(new, rest, rows, strict=True):
                self._asked[context] = self._calibrated(context, positions, found)
        return [self._asked[context] for context in contexts]

    def _calibrated(self, context: Context, positions: Sequence[int], scores: Array) -> Answers:
        labels, order = dict(context), Order(tuple(dict(context)))
        bias, bias_tokens = self._bias(scores, positions, order, labels)
        log_probs, asked = np.zeros((len(self.dataset), scores.shape[1])), np.zeros(len(self.dataset), dtype=bool)
        log_probs[positions], asked[positions] = calibrate(scores, bias[self.claims[positions]]), True
        plain = self.encoder.labels.plain_tokens
        shown = len(self.encoder.prefix) + sum(len(self.trees(labels).demonstration(p)) for p in labels)
        tokens = sum(plain(shown + len(self.encoder.query(self.dataset[p]))) for p in positions)
        return Answers(log_probs, asked, tokens + bias_tokens)

    def outgrown(self, sweep: Sweep, order: Order) -> bool:
        """Whether folding the appended examples into the tree pays before the next sweep."""
        return order.outgrown(fits=sweep.tree_tokens <= self.engine.cache_tokens)

    def forget(self) -> None:
        """Drop remembered sweeps: they belong to an order that is not used any more."""
        self._memory.clear()
        self._asked.clear()

    def proposals(self, labels: Labels, sweep: Sweep, order: Order, positions: Sequence[int]) -> Array:
        """Calibrated label log-probabilities of unlabelled `positions` given D, [positions, labels].

        The contexts of the sweep were asked about them already. Without, all share one context, so a batch costs one
        query each; the bias is the sweep's, so that a row does not depend on what else is in the batch.
        """
        if self._shots:
            return _mean(self._answers(labels, order), positions)
        tree = self.trees(labels).given_all(order, positions)
        scores = self.engine.score_labels(tree, self.encoder.labels)
        return calibrate(scores, sweep.bias[self.claims[list(positions)]])

    def count_proposals(self, labels: Labels, positions: Sequence[int]) -> None:
        """Note that plain order would have computed one prompt, all of D but the example itself, for each proposal;
        nothing where the sweep's contexts have said it."""
        if self._shots:
            return
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
        bias, bias_tokens = self._bias(scores, positions, Order(()), {})
        self.plain.plain_tokens += self._plain(tree) + bias_tokens
        return calibrate(scores, bias[self.claims[list(positions)]])

    def _bias(self, scores: Array, positions: Sequence[int], order: Order, labels: Labels) -> tuple[Array, int]:
        """What calibration takes out of the scores of `positions`, [claims, labels], and the tokens of the prompts that
        it asks for in plain order."""
        claims, names = int(self.claims.max()) + 1, scores.shape[1]
        if self._calibration in BIASES:
            return claim_biases(scores, self.claims[list(positions)], claims, BIASES[self._calibration]), 0
        if self._calibration == "none":
            return np.zeros((claims, names)), 0
        held = [[self.dataset[p] for p in np.flatnonzero(self.claims == claim)] for claim in range(claims)]
        content_free = [example for one in held for example in content_free_examples(one)]
        context = replace(self.trees(labels), query=lambda row: self.encoder.query(content_free[row]))
        tree = context.given_all(order, range(len(content_free)))
        scores = self.engine.score_labels(tree, self.encoder.labels)
        return np.array([label_bias(rows) for rows in np.split(scores, claims)]), self._plain(tree)

    def _plain(self, tree: PromptTree) -> int:
        """Tokens of the tree's prompts in plain order."""
        return self.encoder.labels.plain_tokens(tree.prompt_tokens, tree.queries)


def _mean(answers: Sequence[Answers], positions: Sequence[int]) -> Array:
    """The mean over the contexts that a position is not in, normalised over the labels, [positions, labels]."""
    rows = list(positions)
    times = np.sum([answer.asked[rows] for answer in answers], axis=0)
    return over_labels(np.sum([answer.log_probs[rows] for answer in answers], axis=0) / times[:, None])


def _memory_key(labels: Labels, order: Order) -> MemoryKey:
    return order, tuple(sorted(labels.items()))


def content_free_examples(examples: Sequence[ICMExample]) -> list[ICMExample]:
    """The text that all inputs share at both ends, with a `CONTENT_FREE` text between: the template, emptied. One input
    alone does not tell it."""
    inputs = [example.input for example in examples] if len(examples) > 1 else [""]
    start = os.path.commonprefix(inputs)  # noqa: RUF071 - text, not paths
    end = os.path.commonprefix([text[len(start) :][::-1] for text in inputs])[::-1]  # noqa: RUF071
    return [ICMExample(f"{start}{content}{end}") for content in CONTENT_FREE]
