"""Algorithms 1 and 2 of arXiv 2506.10139 as printed: one label at a time, judged by sweeps alone.

Algorithm 1, but for the loop around it (`icm.search.algorithm`): x_i's label is the likeliest one given D without x_i
under the present order, and D' = consistencyfix(D with that label).
"""

from collections.abc import Mapping

import numpy as np

from icm.calibration import Array
from icm.search.problem import Problem, State
from icm.search.repair import keeps
from icm.search.scoring import Labels


class Published:
    """Proposals as printed.

    Attributes:
        preferences: empty, nothing is kept of an order that is left.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.preferences: dict[int, Array] = {}

    def candidate(self, state: State, position: int, log_probs: Array, rng: np.random.Generator) -> State:
        """D' = consistencyfix(D with the likeliest label for x_i); D itself if x_i has that label already."""
        labels = {**state.labels, position: self._problem.likeliest(log_probs)}
        found = self._problem.proposed(state, labels)
        return state if found is state else consistencyfix(self._problem, found, rng)

    def improved(self, state: State, rng: np.random.Generator) -> State:
        """D after Algorithm 2: as Algorithm 1 has it for the initial labels."""
        return consistencyfix(self._problem, state, rng)

    def at_fresh_order(self, left: State, state: State) -> State:
        """Algorithm 1 proposes nothing of its own for a fresh order."""
        return state

    def finished(self, state: State, rest: Mapping[int, Array], rng: np.random.Generator) -> Labels:
        """D, with labels for the examples that no iteration has drawn."""
        return self.improved(self._problem.completed(state, rest), rng).labels if rest else state.labels


def consistencyfix(problem: Problem, state: State, rng: np.random.Generator) -> State:
    """Algorithm 2: at most M times, the labels of an inconsistent pair, drawn at random, that U rises by most.

    States are values, so a rejected proposal leaves nothing behind.
    """
    for _ in range(problem.config.max_fix_steps if problem.config.consistency else 0):
        pairs = problem.checks.violations(state.labels)
        if not pairs:
            break
        i, j = pairs[rng.integers(len(pairs))]
        options = problem.checks.options(i, j, problem.label_space)
        repairs = [{**state.labels, i: a, j: b} for a, b in options]
        fixed = [problem.evaluate(labels, state.order) for labels in repairs if keeps(labels, problem.trusted)]
        state = max([state, *fixed], key=lambda option: option.utility)
    return state
