"""The loop of Algorithm 1 (arXiv 2506.10139): draw x_i, propose D', accept or reject it, cool down.

How D' comes about is the proposer's: as printed (`icm.search.published`) or jointly (`icm.search.joint`).

Every random draw comes from (seed, restart, batch, iteration), so proposals for future iterations can be computed in
one batch without changing the result, and an interrupted run continues as if it had not been interrupted.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from icm.calibration import Array
from icm.config import SearchConfig
from icm.results.coherence import SIGNAL
from icm.results.trace import Decision, FreshOrder, SearchRow, Start
from icm.search.bootstrap import Initial, initial
from icm.search.joint import Joint
from icm.search.problem import COMPLETE, ORDER, Problem, SearchOutcome, State
from icm.search.published import Published
from icm.search.scoring import Labels
from icm.search.trees import Order

logger = logging.getLogger(__name__)


class Proposer(Protocol):
    """How D' comes about.

    Attributes:
        preferences: position → label log-probabilities, [labels], to propose from in place of the present order's.
    """

    preferences: dict[int, Array]

    def candidate(self, state: State, position: int, log_probs: Array, rng: np.random.Generator) -> State:
        """D', in which x_i has the likeliest label by `log_probs`; `state` itself where that changes nothing."""
        ...

    def at_fresh_order(self, left: State, state: State) -> State:
        """D' for a fresh order, that of `state`, given D under the order before; `state` itself where there is nothing
        to propose."""
        ...

    def improved(self, state: State, rng: np.random.Generator) -> State:
        """What a search starts from, given the initial labels."""
        ...

    def finished(self, state: State, rest: Mapping[int, Array], rng: np.random.Generator) -> Labels:
        """Labels of all examples, given label log-probabilities of those that no iteration has drawn."""
        ...


@dataclass
class Standing:
    """Where a search stands, besides its state.

    Attributes:
        iteration: iterations done.
        refreshed: the iteration that the present order was drawn for.
        unchanged: decisions since one changed a label.
    """

    iteration: int = 0
    refreshed: int = 0
    unchanged: int = 0

    def count(self, changed: bool) -> None:
        """Note a decision."""
        self.unchanged = 0 if changed else self.unchanged + 1


def search(
    problem: Problem,
    record: Callable[[SearchRow], None],
    history: Sequence[SearchRow] = (),
    start: Initial | None = None,
) -> SearchOutcome:
    """Search labels for a batch, or go on behind the rows (`history`) of an interrupted search.

    `record` receives each trace row as it happens; `start` is what a search starts from, where that is known already.
    """
    if history:
        labels, order, preferences, standing = replayed(problem, history)
        loop = Search(problem, proposer(problem, preferences), record, standing)
        with problem.scorer.uncounted():
            state = problem.evaluate(labels, order)
        return loop.run(state)
    start = start or initial(problem, problem.rng(0))
    loop = Search(problem, proposer(problem, start.preferences), record, Standing())
    return loop.run(loop.start(start.labels))


def proposer(problem: Problem, preferences: Mapping[int, Array]) -> Proposer:
    """The proposer that the settings name."""
    return Joint(problem, preferences) if problem.config.joint_proposals else Published(problem)


def replayed(problem: Problem, history: Sequence[SearchRow]) -> tuple[Labels, Order, Mapping[int, Array], Standing]:
    """What the rows of an interrupted search lead to: D, its order, the preferences, and where the search stood."""
    positions = {example.id: position for position, example in enumerate(problem.scorer.dataset)}
    labels: dict[int, str] = {}
    order, preferences, standing = Order(()), dict[int, Array](), Standing()
    for row in history:
        if not isinstance(row, Start | FreshOrder | Decision):
            continue
        changes = {positions[key]: label for key, label in row.changes.items()} if row.accepted else {}
        if isinstance(row, Decision):
            standing.iteration = row.iteration
            order = order.append(position for position in changes if position not in labels)
            standing.count(bool(changes))
        else:
            standing.refreshed = row.iteration
            ordered = {positions[key]: label for key, label in (getattr(row, "ordered", None) or {}).items()}
            order = problem.scorer.draw(labels or ordered or changes, problem.rng(row.iteration, ORDER))
            preferences = {positions[key]: np.array(values) for key, values in (row.preferences or {}).items()}
            if changes:
                standing.count(True)
        labels |= changes
    return labels, order, preferences, standing


def temperature(config: SearchConfig, iteration: int) -> float:
    """T at `iteration` (from 1), driven by iterations, not by accepted changes."""
    start, end = config.initial_temperature, config.final_temperature
    if config.schedule == "geometric":
        return max(end, start * config.cooling_rate**iteration)
    if config.schedule == "linear":
        return start + (end - start) * min(1.0, iteration / config.max_iterations)
    return max(end, start / (1 + config.beta * math.log(iteration)))


def drawn(problem: Problem, labels: Labels, draw: float) -> int:
    """x_i, no trusted one, by a number of [0, 1). Unlabelled examples that share a rule with a labelled one weigh
    `priority_weight`."""
    weights = np.zeros(len(problem.positions))
    weights[problem.free] = 1.0
    for position in problem.free:
        if position not in labels and any(n in labels for n in problem.checks.neighbours[position]):
            weights[position] = problem.config.priority_weight
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges, draw * edges[-1], side="right"))


class Search:
    """One search over one batch.

    Args:
        problem: the batch.
        proposer: how D' comes about.
        record: receives each trace row as it happens.
        standing: where the search stands.
    """

    def __init__(
        self, problem: Problem, proposer: Proposer, record: Callable[[SearchRow], None], standing: Standing
    ) -> None:
        self.proposer = proposer
        self.standing = standing
        self._problem = problem
        self._record = record
        self._ids = [example.id for example in problem.scorer.dataset]
        self._ahead: dict[int, Array] = {}  # proposals for coming iterations, good until D or its order changes

    def start(self, labels: Labels) -> State:
        """D before the first iteration."""
        state = self.proposer.improved(self._problem.fresh(labels, 0), self._problem.rng(0))
        self._record(
            Start(
                changes=self._by_id(state.labels),
                utility=state.utility,
                preferences=self._preferences_by_id(),
                ordered=None if state.labels == labels else self._by_id(labels),
            )
        )
        return state

    def run(self, state: State) -> SearchOutcome:
        """All iterations from D = `state` on, and what they have found."""
        standing = self.standing
        while self._problem.free and standing.iteration < self._problem.config.max_iterations:
            if self._settled(state) or self._hopeless(state):
                break
            standing.iteration += 1
            if self._needs_order(state):
                state = self.refresh(state)
            state = self.step(state)
        if hopeless := self._hopeless(state):
            logger.warning(
                "stopped after %d iterations: demonstration orders disagree; labels that some give are worth no "
                "more than a coin's to the next",
                standing.iteration,
            )
        labels = state.labels if hopeless else self._finished(state)
        return self._problem.judge(labels, standing.iteration)

    def step(self, state: State) -> State:
        """One iteration."""
        problem, iteration = self._problem, self.standing.iteration
        rng = problem.rng(iteration)
        position = drawn(problem, state.labels, rng.random())
        threshold = rng.random()
        log_probs = self._proposal(state, position)
        candidate = self.proposer.candidate(state, position, log_probs, rng)
        if candidate is state:
            problem.scorer.count_unchanged(state.labels, state.order)
        delta, heat = candidate.utility - state.utility, temperature(problem.config, iteration)
        accepted = delta > 0 or threshold < math.exp(delta / heat)
        result = candidate if accepted else state
        changes = _changes(state, candidate)
        self._record(
            Decision(
                iteration=iteration,
                example=self._ids[position],
                previous=state.labels.get(position),
                proposal=problem.likeliest(log_probs),
                accepted=accepted,
                changes=self._by_id(changes),
                delta=delta,
                utility=result.utility,
                inconsistencies=result.inconsistencies,
                temperature=heat,
                labelled=len(result.labels),
            )
        )
        self.standing.count(bool(changes) and accepted)
        if changes and accepted:
            self._ahead.clear()
        return result

    def refresh(self, state: State) -> State:
        """D under a fresh order, or what is proposed for it where U rises by that: no temperature, as a whole
        labelling is at stake.

        Utility is an expectation over orders: a labelling that is only coherent in the order it was found with does
        not survive this.
        """
        iteration = self.standing.refreshed = self.standing.iteration
        self._ahead.clear()
        before = self._problem.fresh(state.labels, iteration)
        candidate = self.proposer.at_fresh_order(state, before)
        accepted = candidate.utility > before.utility
        state = candidate if accepted else before
        self._record(
            FreshOrder(
                iteration=iteration,
                changes=self._by_id(_changes(before, candidate)),
                accepted=accepted,
                delta=candidate.utility - before.utility,
                utility=state.utility,
                labelled=len(state.labels),
                preferences=self._preferences_by_id(),
            )
        )
        if accepted:
            self.standing.count(True)
        return state

    def _hopeless(self, state: State) -> bool:
        """Found labels are worth hardly more than a coin's under an order that they were not found with."""
        config = self._problem.config
        # From other starts, or with labels that change one by one, the search itself has yet to find some.
        if not (config.early_stop and config.joint_proposals and config.init == "bootstrap"):
            return False
        found = float(state.sweep.predictabilities(state.labels).mean())
        return found <= SIGNAL - math.log(len(self._problem.label_space.labels))

    def _needs_order(self, state: State) -> bool:
        since = self.standing.iteration - self.standing.refreshed
        if since == 0:  # an interrupted run had drawn this order already
            return False
        return self._problem.scorer.outgrown(state.sweep, state.order) or since >= self._problem.config.refresh_every

    def _settled(self, state: State) -> bool:
        """Two fresh orders, which propose all labels at once, and the draws between changed nothing; or as many draws
        as there are examples, where some have no label yet or orders propose nothing."""
        config = self._problem.config
        at_once = config.joint_proposals and len(state.labels) == len(self._ids)
        enough = max(0 if at_once else len(self._ids), 2 * config.refresh_every)
        return config.early_stop and self.standing.unchanged >= enough

    def _proposal(self, state: State, position: int) -> Array:
        """Label log-probabilities to propose from: the proposer's preferences for a labelled example, if it has any,
        else log p(y | x_i, D without x_i), known for labelled examples and one query for the others."""
        if position in state.labels and position in self.proposer.preferences:
            return self.proposer.preferences[position]
        self._problem.scorer.count_proposals(state.labels, [position])
        if position in state.labels:
            return state.sweep.by_position[position]
        if position not in self._ahead:
            self._ahead |= self._asked(state, self._next_drawn(state))
        return self._ahead[position]

    def _next_drawn(self, state: State) -> list[int]:
        """The unlabelled examples that this and the coming iterations draw, as long as D stays as it is."""
        problem, first = self._problem, self.standing.iteration
        coming = range(first, first + problem.config.lookahead)
        picks = dict.fromkeys(drawn(problem, state.labels, problem.rng(later).random()) for later in coming)
        return [position for position in picks if position not in state.labels]

    def _asked(self, state: State, positions: Sequence[int]) -> dict[int, Array]:
        rows = self._problem.scorer.proposals(state.labels, state.sweep, state.order, positions)
        return dict(zip(positions, rows, strict=True))

    def _finished(self, state: State) -> Labels:
        """Labels of all examples, those included that the iterations have not reached."""
        rest = [position for position in self._problem.positions if position not in state.labels]
        self._problem.scorer.count_proposals(state.labels, rest)
        rows = self._asked(state, rest) if rest else {}
        return self.proposer.finished(state, rows, self._problem.rng(COMPLETE, COMPLETE))

    def _by_id(self, labels: Labels) -> dict[str, str]:
        return {self._ids[position]: label for position, label in labels.items()}

    def _preferences_by_id(self) -> dict[str, list[float]]:
        return {self._ids[position]: row.tolist() for position, row in sorted(self.proposer.preferences.items())}


def _changes(state: State, candidate: State) -> Labels:
    """The labels of D' that differ from those of D."""
    return {position: label for position, label in candidate.labels.items() if state.labels.get(position) != label}
