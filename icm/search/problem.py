"""One batch of examples as a problem: what a labelling of it is worth, and what found labels are worth in the end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from icm.calibration import Array
from icm.config import SearchConfig
from icm.consistency import ConsistencyIndex
from icm.examples import LabelSpace
from icm.search.opposites import opposites, together
from icm.search.scoring import Labels, Scorer, Sweep
from icm.search.trees import Order

ORDER, FINAL, COMPLETE = 1, 2, 3
"""Purposes of random streams other than an iteration's own decision."""


@dataclass(frozen=True)
class State:
    """A labelling D under a demonstration order.

    Attributes:
        labels: D.
        order: demonstration order of the sweep.
        sweep: leave-one-out scores of D.
        inconsistencies: I(D).
        utility: U(D) = alpha·P(D) - I(D).
    """

    labels: Labels
    order: Order
    sweep: Sweep
    inconsistencies: int
    utility: float


@dataclass(frozen=True)
class SearchOutcome:
    """What a labeler found.

    Attributes:
        labels: a label for every position.
        utility: U(D), averaged over orders that the search has not used; None for labels that no model scored.
        log_odds: position → ln p/(1-p) of its label given others, of a pair those of both (`opposites`), nats, same
            orders.
        iterations: iterations done.
    """

    labels: Labels
    utility: float | None
    log_odds: Mapping[int, float]
    iterations: int


@dataclass(frozen=True)
class Problem:
    """One batch to label.

    Attributes:
        scorer: scores label assignments of the batch.
        checks: its related pairs.
        config: settings.
        stream: numbers that start every random stream: (seed, restart, batch).
    """

    scorer: Scorer
    checks: ConsistencyIndex
    config: SearchConfig
    stream: tuple[int, ...]

    @property
    def positions(self) -> range:
        """All examples."""
        return range(len(self.scorer.dataset))

    @property
    def trusted(self) -> Labels:
        """The labels that stay as they are."""
        return self.scorer.trusted

    @property
    def start(self) -> Labels:
        """Labels of an earlier result, all but the trusted ones."""
        dataset = self.scorer.dataset
        return {p: dataset.start[dataset[p].id][0] for p in self.free if dataset[p].id in dataset.start}

    @property
    def free(self) -> list[int]:
        """The examples whose labels are to be found."""
        return [position for position in self.positions if position not in self.trusted]

    @property
    def label_space(self) -> LabelSpace:
        """The labels to choose from."""
        return self.scorer.dataset.label_space

    def rng(self, *purpose: int) -> np.random.Generator:
        """The random stream of an iteration, or of another purpose. It depends on nothing that was drawn before."""
        return np.random.default_rng((*self.stream, *purpose))

    def fresh(self, labels: Labels, *purpose: int) -> State:
        """D = `labels` under a random order of its own."""
        self.scorer.forget()
        return self.evaluate(labels, self.scorer.draw(labels, self.rng(*purpose, ORDER)))

    def evaluate(self, labels: Labels, order: Order) -> State:
        """D = `labels`, scored under `order`."""
        sweep = self.scorer.sweep(labels, order)
        terms = sweep.predictabilities(labels)
        predictability = float(terms.mean() if self.config.objective == "mean" else terms.sum())
        broken = len(self.checks.violations(labels)) if self.config.consistency else 0
        return State(labels, order, sweep, broken, self.config.alpha * predictability - broken)

    def proposed(self, state: State, labels: Labels) -> State:
        """D' = `labels` under the order of D, new examples appended; D itself if it has these labels."""
        if labels == state.labels:
            return state
        new = [position for position in labels if position not in state.labels]
        return self.evaluate(labels, state.order.append(new) if new else state.order)

    def completed(self, state: State, rows: Mapping[int, Array]) -> State:
        """D with the likeliest labels of the examples it lacks, under a fresh order."""
        rest = {position: self.likeliest(row) for position, row in rows.items()}
        return self.fresh({**state.labels, **rest}, COMPLETE, COMPLETE)

    def likeliest(self, log_probs: Array) -> str:
        """The label with the highest of `log_probs`, [labels]."""
        return self.label_space.labels[int(log_probs.argmax())]

    def judge(self, labels: Labels, iterations: int) -> SearchOutcome:
        """What labels are worth under orders that no search has used: utility is an expectation over orders."""
        orders = [self.scorer.draw(labels, self.rng(number, FINAL)) for number in range(self.config.final_orders)]
        states = [self.evaluate(labels, order) for order in orders]
        pairs = opposites(self.checks, self.label_space, self.trusted) if self.config.consistency else {}
        rows = [together(state.sweep.by_position, pairs) for state in states]
        place = {p: self.label_space.index(label) for p, label in labels.items()}
        log_odds = {p: float(np.mean([_log_odds(row[p][place[p]]) for row in rows])) for p in labels}
        return SearchOutcome(labels, float(np.mean([s.utility for s in states])), log_odds, iterations)


def _log_odds(log_probability: float) -> float:
    """ln p/(1-p) from ln p, stable at both ends."""
    return log_probability - math.log(max(-math.expm1(min(log_probability, -1e-12)), 1e-12))
