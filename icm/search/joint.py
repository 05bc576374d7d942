"""Joint proposals: earlier orders propose, the present one judges; at a fresh order all of D at once.

A label that is proposed and judged in the same order can be a copy of its neighbours there. So what is proposed for a
labelled example is the label that the orders before the present one preferred on average. And pairs that a proposal
makes inconsistent are mended by the same preferences before it is scored, in place of Algorithm 2, which sweeps once
for each option of each pair: most of a search's cost.
"""

from collections.abc import Mapping

import numpy as np

from icm.calibration import Array
from icm.search.problem import Problem, State
from icm.search.repair import Repairs, make_consistent
from icm.search.scoring import Labels

NEW_ORDER = 0.25
"""Weight of a further order in the mean over orders: about the last seven count."""


class Joint:
    """Proposals from what earlier orders preferred.

    Attributes:
        preferences: position → mean label log-probabilities, [labels], over the orders before the present one.
    """

    def __init__(self, problem: Problem, preferences: Mapping[int, Array]) -> None:
        self._problem = problem
        self.preferences = dict(preferences)

    def candidate(self, state: State, position: int, log_probs: Array, rng: np.random.Generator) -> State:
        """D' = D with the likeliest label for x_i, and with others for the pairs that this breaks."""
        labels = {**state.labels, position: self._problem.likeliest(log_probs)}
        if labels != state.labels:
            labels = self.mended(labels, {**self._preferred(state), position: log_probs})
        return self._problem.proposed(state, labels)

    def at_fresh_order(self, left: State, state: State) -> State:
        """D' with the labels that the orders before prefer for all of D at once.

        What was labelled early, given few others, is out of date until it is drawn again.
        """
        self._leave(left)
        return self._all_at_once(state)

    def improved(self, state: State, rng: np.random.Generator) -> State:
        """The better of D and its joint proposal."""
        return max(state, self._all_at_once(state), key=lambda found: found.utility)

    def finished(self, state: State, rest: Mapping[int, Array], rng: np.random.Generator) -> Labels:
        """The last joint proposal or what it was made for, with labels for the examples that no iteration has drawn."""
        self._leave(state)
        self.preferences |= rest
        return self.improved(self._problem.completed(state, rest), rng).labels

    def mended(self, labels: dict[int, str], preferred: Mapping[int, Array]) -> dict[int, str]:
        """The labels, with others for pairs that break a rule where U rises by it, as far as `preferred` can tell."""
        config = self._problem.config
        if not config.consistency:
            return labels
        weight = config.alpha / (len(labels) if config.objective == "mean" else 1)
        problem = self._problem
        return make_consistent(labels, Repairs(problem.checks, problem.label_space, preferred, weight, problem.trusted))

    def _preferred(self, state: State) -> dict[int, Array]:
        """Label log-probabilities of all of D: the mean over earlier orders, the present one's where there is none."""
        earlier = {position: row for position, row in self.preferences.items() if position in state.labels}
        return state.sweep.by_position | earlier

    def _all_at_once(self, state: State) -> State:
        preferred = self._preferred(state)
        known = state.labels.keys() & self.preferences.keys()
        labels = {**state.labels, **{p: self._problem.likeliest(preferred[p]) for p in known}, **self._problem.trusted}
        return self._problem.proposed(state, self.mended(labels, preferred))

    def _leave(self, state: State) -> None:
        """The present order becomes an earlier one."""
        for position, row in state.sweep.by_position.items():
            before = self.preferences.get(position, row)
            self.preferences[position] = before + NEW_ORDER * (row - before)
