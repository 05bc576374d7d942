"""Internal Coherence Maximization: Algorithms 1 and 2 of arXiv 2506.10139.

Every random draw comes from (seed, restart, batch, iteration), so proposals for future iterations can be computed in
one batch without changing the result, and an interrupted run continues as if it had not been interrupted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from icm.calibration import Array
from icm.config import SearchConfig
from icm.consistency import ConsistencyIndex
from icm.results.trace import Row
from icm.search.bootstrap import Initial, make_consistent
from icm.search.scoring import Labels, Order, PlainCost, Scorer, Sweep, draw_order

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
    """What one search found.

    Attributes:
        labels: a label for every position.
        utility: U(D), averaged over orders that the search has not used; None for labels that no model scored.
        log_odds: position → ln p/(1-p) of its label given all others, nats, same orders.
        iterations: iterations done.
    """

    labels: Labels
    utility: float | None
    log_odds: Mapping[int, float]
    iterations: int


def temperature(config: SearchConfig, iteration: int) -> float:
    """T at `iteration` (from 1), driven by iterations, not by accepted changes."""
    start, end = config.initial_temperature, config.final_temperature
    if config.schedule == "geometric":
        return max(end, start * config.cooling_rate**iteration)
    if config.schedule == "linear":
        return start + (end - start) * min(1.0, iteration / config.max_iterations)
    return max(end, start / (1 + config.beta * math.log(iteration)))


class Search:
    """One search over one batch of examples.

    Args:
        scorer: scores label assignments of the batch.
        checks: its related pairs.
        config: settings.
        stream: numbers that start every random stream: (seed, restart, batch).
        record: receives each trace row as it happens.
    """

    def __init__(
        self,
        scorer: Scorer,
        checks: ConsistencyIndex,
        config: SearchConfig,
        stream: tuple[int, ...],
        record: Callable[[Row], None],
    ) -> None:
        self.scorer = scorer
        self.checks = checks
        self.config = config
        self._stream = stream
        self._record = record
        self._ids = [example.id for example in scorer.dataset]
        self._positions = {example_id: position for position, example_id in enumerate(self._ids)}
        self._proposals: dict[int, Array] = {}
        self._preferences: dict[int, Array] = {}  # mean log-probabilities over the orders before the present one
        self._refreshed = 0
        self._unchanged = 0

    def run(self, initial: Initial, history: Sequence[Row] = ()) -> SearchOutcome:
        """Search from `initial`, or continue after the rows of an interrupted run."""
        state, done = self._resume(history) if history else (self._start(initial), 0)
        iteration = done
        while iteration < self.config.max_iterations and not self._settled():
            iteration += 1
            if self._needs_order(state, iteration):
                state = self._refresh(state, iteration)
            state = self._step(state, iteration)
        return self.judge(self._complete(state).labels, iteration)

    def evaluate(self, labels: Labels, order: Order) -> State:
        """Score D = `labels` under `order`."""
        sweep = self.scorer.sweep(labels, order)
        terms = sweep.predictabilities(labels)
        predictability = float(terms.mean() if self.config.objective == "mean" else terms.sum())
        broken = len(self.checks.violations(labels)) if self.config.consistency else 0
        return State(labels, order, sweep, broken, self.config.alpha * predictability - broken)

    def fix(self, state: State, rng: np.random.Generator) -> State:
        """Algorithm 2 (consistencyfix). States are values, so a rejected proposal leaves nothing behind."""
        for _ in range(self.config.max_fix_steps if self.config.consistency else 0):
            pairs = self.checks.violations(state.labels)
            if not pairs:
                break
            i, j = pairs[rng.integers(len(pairs))]
            options = self.checks.options(i, j, self.scorer.dataset.label_space)
            fixed = [self.evaluate({**state.labels, i: a, j: b}, state.order) for a, b in options]
            state = max([state, *fixed], key=lambda option: option.utility)
        return state

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((*self._stream, *purpose))

    def _start(self, initial: Initial) -> State:
        self._preferences = dict(initial.preferences) if self.config.joint_proposals else {}
        first = self.evaluate(initial.labels, draw_order(initial.labels, self._rng(0, ORDER)))
        state = self._improved(first, self._rng(0))
        self._record(
            {
                "type": "start",
                "iteration": 0,
                "changes": self._by_id(state.labels),
                "accepted": True,
                "utility": state.utility,
                "preferences": self._preferences_by_id(),
            }
        )
        return state

    def _step(self, state: State, iteration: int) -> State:
        rng = self._rng(iteration)
        position = self._pick(state, rng.random())
        threshold = rng.random()
        row = self._proposal(state, position, iteration)
        proposal, previous = self._label(row), state.labels.get(position)
        labels = {**state.labels, position: proposal}
        if self.config.joint_proposals and proposal != previous:
            labels = self._mended(labels, {**self._preferred(state), position: row})
        if labels == state.labels:
            self.scorer.count_unchanged(state.labels, state.order)
            return self._decide(state, state, iteration, position, proposal, True)
        order = state.order if previous is not None else state.order.append([position])
        candidate = self.evaluate(labels, order)
        if not self.config.joint_proposals:
            candidate = self.fix(candidate, rng)
        delta = candidate.utility - state.utility
        accepted = delta > 0 or threshold < math.exp(delta / temperature(self.config, iteration))
        return self._decide(state, candidate, iteration, position, proposal, accepted)

    def _decide(
        self, state: State, candidate: State, iteration: int, position: int, proposal: str, accepted: bool
    ) -> State:
        """Record one decision and return the state it leads to."""
        changes = {p: label for p, label in candidate.labels.items() if state.labels.get(p) != label}
        result = candidate if accepted else state
        self._record(
            {
                "type": "decision",
                "iteration": iteration,
                "example": self._ids[position],
                "previous": state.labels.get(position),
                "proposal": proposal,
                "accepted": accepted,
                "changes": self._by_id(changes),
                "delta": candidate.utility - state.utility,
                "utility": result.utility,
                "inconsistencies": result.inconsistencies,
                "temperature": temperature(self.config, iteration),
                "labelled": len(result.labels),
            }
        )
        self._count(bool(changes) and accepted)
        return result

    def _count(self, changed: bool) -> None:
        self._unchanged = 0 if changed else self._unchanged + 1
        if changed:
            self._proposals.clear()

    def _settled(self) -> bool:
        """As many draws as there are examples, with a fresh order among them, changed nothing."""
        quiet = max(len(self._ids), 2 * self.config.refresh_every)
        return self.config.early_stop and self._unchanged >= quiet

    def _pick(self, state: State, draw: float) -> int:
        """Sample x_i. Unlabelled examples that share a rule with a labelled one weigh `priority_weight`."""
        weights = np.ones(len(self._ids))
        for position in range(len(self._ids)):
            if position not in state.labels and any(n in state.labels for n in self.checks.neighbours[position]):
                weights[position] = self.config.priority_weight
        edges = np.cumsum(weights)
        return int(np.searchsorted(edges, draw * edges[-1], side="right"))

    def _proposal(self, state: State, position: int, iteration: int) -> Array:
        """Label log-probabilities to propose from: the mean over earlier orders, if any scored the example, else
        log p(y | x_i, D without x_i), known for labelled examples and one query for the others."""
        if position in state.labels and position in self._preferences:
            return self._preferences[position]
        self.scorer.count_proposals(state.labels, [position])
        if position in state.labels:
            return state.sweep.by_position[position]
        if position not in self._proposals:
            ahead = range(iteration, iteration + self.config.lookahead)
            picks = dict.fromkeys(self._pick(state, self._rng(later).random()) for later in ahead)
            asked = [p for p in picks if p not in state.labels]
            rows = self.scorer.proposals(state.labels, state.sweep, state.order, asked)
            self._proposals |= dict(zip(asked, rows, strict=True))
        return self._proposals[position]

    def _preferred(self, state: State) -> dict[int, Array]:
        """Label log-probabilities of all of D: the mean over earlier orders, the present one's where there is none."""
        earlier = {position: row for position, row in self._preferences.items() if position in state.labels}
        return state.sweep.by_position | earlier

    def _mended(self, labels: dict[int, str], preferred: Mapping[int, Array]) -> dict[int, str]:
        """The labels, with others for pairs that break a rule where U rises by it, as far as `preferred` can tell.

        In place of Algorithm 2, which sweeps once for each option of each pair: most of a search's cost.
        """
        if not self.config.consistency:
            return labels
        log_probs = np.zeros((len(self._ids), len(self.scorer.dataset.label_space.labels)))
        log_probs[list(preferred)] = list(preferred.values())
        weight = self.config.alpha / (len(labels) if self.config.objective == "mean" else 1)
        return make_consistent(labels, log_probs, self.checks, self.scorer, weight)

    def _label(self, log_probs: Array) -> str:
        return self.scorer.dataset.label_space.labels[int(log_probs.argmax())]

    def _needs_order(self, state: State, iteration: int) -> bool:
        if iteration == self._refreshed:  # an interrupted run had drawn this order already
            return False
        return (
            self.scorer.outgrown(state.sweep, state.order) or iteration - self._refreshed >= self.config.refresh_every
        )

    def _refresh(self, state: State, iteration: int) -> State:
        """Redraw the order. Utility is an expectation over orders: a labelling that is only coherent in the order
        it was found with does not survive this."""
        self._leave_order(state)
        self._refreshed = iteration
        before = self.evaluate(state.labels, draw_order(state.labels, self._rng(iteration, ORDER)))
        candidate = self._joint_candidate(before) if self.config.joint_proposals else before
        changes = {p: label for p, label in candidate.labels.items() if before.labels[p] != label}
        accepted = candidate.utility > before.utility
        state = candidate if accepted else before
        self._record(
            {
                "type": "order",
                "iteration": iteration,
                "changes": self._by_id(changes),
                "accepted": accepted,
                "delta": candidate.utility - before.utility,
                "utility": state.utility,
                "labelled": len(state.labels),
                "preferences": self._preferences_by_id(),
            }
        )
        if accepted:
            self._count(True)
        return state

    def _leave_order(self, state: State) -> None:
        """The present order becomes an earlier one; each new one counts as much as all before it."""
        for position, row in state.sweep.by_position.items() if self.config.joint_proposals else ():
            self._preferences[position] = (self._preferences.get(position, row) + row) / 2
        self._proposals.clear()
        self.scorer.forget()

    def _joint_candidate(self, state: State) -> State:
        """D', with the labels that earlier orders prefer for all of D at once, scored under the present order.

        A label that is proposed and judged in the same order can be a copy of its neighbours there; and what was
        labelled early, given few others, is out of date until it is drawn again. D' is accepted where U rises: no
        temperature, as a whole labelling is at stake.
        """
        preferred = self._preferred(state)
        known = state.labels.keys() & self._preferences.keys()
        labels = {**state.labels, **{position: self._label(preferred[position]) for position in known}}
        labels = self._mended(labels, preferred)
        if labels == state.labels:
            return state
        return self.evaluate(labels, state.order)

    def _improved(self, state: State, rng: np.random.Generator) -> State:
        """The better of D and its joint proposal; D after Algorithm 2 where proposals are as published."""
        if self.config.joint_proposals:
            return max(state, self._joint_candidate(state), key=lambda found: found.utility)
        return self.fix(state, rng)

    def _complete(self, state: State) -> State:
        """Label what the iterations have not reached, by argmax given D, and propose jointly a last time."""
        rest = [position for position in range(len(self._ids)) if position not in state.labels]
        if not rest and not self.config.joint_proposals:
            return state
        preferred: dict[int, Array] = {}
        if rest:
            self.scorer.count_proposals(state.labels, rest)
            rows = self.scorer.proposals(state.labels, state.sweep, state.order, rest)
            preferred = dict(zip(rest, rows, strict=True))
        self._leave_order(state)
        if self.config.joint_proposals:
            self._preferences |= preferred
        labels = {**state.labels, **{position: self._label(row) for position, row in preferred.items()}}
        complete = self.evaluate(labels, draw_order(labels, self._rng(COMPLETE, COMPLETE, ORDER)))
        return self._improved(complete, self._rng(COMPLETE, COMPLETE))

    def judge(self, labels: Labels, iterations: int) -> SearchOutcome:
        """What labels are worth under orders that no search has used."""
        orders = [draw_order(labels, self._rng(number, FINAL)) for number in range(self.config.final_orders)]
        states = [self.evaluate(labels, order) for order in orders]
        terms = [dict(zip(s.order.positions, s.sweep.predictabilities(labels), strict=True)) for s in states]
        log_odds = {p: float(np.mean([_log_odds(term[p]) for term in terms])) for p in labels}
        return SearchOutcome(labels, float(np.mean([s.utility for s in states])), log_odds, iterations)

    def _by_id(self, labels: Labels) -> dict[str, str]:
        return {self._ids[position]: label for position, label in labels.items()}

    def _preferences_by_id(self) -> dict[str, list[float]]:
        return {self._ids[position]: row.tolist() for position, row in sorted(self._preferences.items())}

    def _by_position(self, labels: Mapping[str, str]) -> dict[int, str]:
        return {self._positions[example_id]: label for example_id, label in labels.items()}

    def _resume(self, history: Sequence[Row]) -> tuple[State, int]:
        """Replay decisions and orders; only the last sweep is computed again."""
        labels: dict[int, str] = {}
        order, iteration = Order(()), 0
        for row in history:
            if row["type"] not in ("start", "order", "decision"):
                continue
            changes = self._by_position(row["changes"]) if row["accepted"] else {}
            if row["type"] == "decision":
                iteration = row["iteration"]
                order = order.append(position for position in changes if position not in labels)
                self._count(bool(changes))
            else:
                self._refreshed = row["iteration"]
                order = draw_order(labels or changes, self._rng(self._refreshed, ORDER))
                self._preferences = {self._positions[key]: np.array(p) for key, p in row["preferences"].items()}
                if changes:
                    self._count(True)
            labels = {**labels, **changes}
        counted, self.scorer.plain = self.scorer.plain, PlainCost()
        state = self.evaluate(labels, order)
        self.scorer.plain = counted
        return state, iteration


def _log_odds(log_probability: float) -> float:
    """ln p/(1-p) from ln p, stable at both ends."""
    return log_probability - math.log(max(-math.expm1(min(log_probability, -1e-12)), 1e-12))
