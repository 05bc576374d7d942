"""Internal Coherence Maximization: Algorithms 1 and 2 of arXiv 2506.10139.

Every random draw comes from (seed, restart, batch, iteration), so proposals for future iterations can be computed in
one batch without changing the result, and an interrupted run continues as if it had not been interrupted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from icm.acceptance import FIRST_SAMPLE, is_settled, sample_sizes
from icm.baselines import Initial, make_consistent
from icm.calibration import Array
from icm.config import SearchConfig
from icm.consistency import ConsistencyIndex
from icm.predictability import Labels, Order, Scorer, Sweep, draw_order
from icm.preferences import Preferences
from icm.trace import Row

ORDER, FINAL, COMPLETE, SAMPLE = 1, 2, 3, 4
"""Purposes of random streams other than an iteration's own decision."""


@dataclass(frozen=True)
class State:
    """A labelling D under a demonstration order.

    Attributes:
        labels: D.
        order: demonstration order of the sweep.
        sweep: leave-one-out scores of D; of a sample where decisions are made from samples.
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
        self._proposals: dict[int, str] = {}
        self._preferences = Preferences()
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
        state = self._scored(labels, order)
        self.scorer.count_sweep(labels, order)
        return state

    def _scored(self, labels: Labels, order: Order) -> State:
        sweep = self.scorer.sweep(labels, order)
        terms = sweep.predictabilities(labels)
        predictability = float(terms.mean() if self.config.objective == "mean" else terms.sum())
        broken = self._inconsistencies(labels)
        return State(labels, order, sweep, broken, self.config.alpha * predictability - broken)

    def _view(self, labels: Labels, order: Order) -> Sweep:
        """The leaves that proposals are read from: all, or the first sample where decisions are made from samples."""
        sampled = self._sample(labels)[:FIRST_SAMPLE] if self.config.acceptance_error else None
        return self.scorer.sweep(labels, order, sampled)

    def _viewed(self, state: State) -> State:
        return replace(state, sweep=self._view(state.labels, state.order))

    def _sample(self, labels: Labels) -> list[int]:
        """The labelled positions in the random sequence in which samples of the leaves are taken under this order."""
        sequence = self._rng(self._refreshed, SAMPLE).permutation(len(self._ids))
        return [int(position) for position in sequence if position in labels]

    def _inconsistencies(self, labels: Labels) -> int:
        return len(self.checks.violations(labels)) if self.config.consistency else 0

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
        self._preferences.earlier = dict(initial.preferences)
        first = self.evaluate(initial.labels, draw_order(initial.labels, self._rng(0, ORDER)))
        better = max(first, self._joint_candidate(first), key=lambda state: state.utility)
        state = self.fix(better, self._rng(0))
        self._preferences.enter(state.sweep.by_position)
        self._record(
            {
                "type": "start",
                "iteration": 0,
                "changes": self._by_id(state.labels),
                "utility": state.utility,
                **self._preferences.to_row(self._ids),
            }
        )
        return self._viewed(state)

    def _step(self, state: State, iteration: int) -> State:
        rng = self._rng(iteration)
        position = self._pick(state, rng.random())
        # U(D') - U(D) > T·ln(u) is the published rule: where U rises, else with probability exp(delta / T).
        threshold = temperature(self.config, iteration) * math.log(1 - rng.random())
        proposal = self._propose(state, position, iteration)
        previous = state.labels.get(position)
        if proposal == previous:
            self.scorer.count_unchanged(state.labels, state.order)
            return self._decide(state, state, iteration, position, proposal, True)
        order = state.order if previous is not None else state.order.append([position])
        state, candidate = self._compare(state, {**state.labels, position: proposal}, order, position, threshold)
        candidate = self.fix(candidate, rng)
        accepted = candidate.utility - state.utility > threshold
        return self._viewed(self._decide(state, candidate, iteration, position, proposal, accepted))

    def _compare(
        self, state: State, labels: Labels, order: Order, position: int, threshold: float
    ) -> tuple[State, State]:
        """D and D', which differ at `position`, scored on as many leaves as it takes to tell U(D') - U(D) from
        `threshold`."""
        if not self.config.acceptance_error or self._inconsistencies(labels):
            return self._scored(state.labels, state.order), self.evaluate(labels, order)
        others = [p for p in self._sample(state.labels) if p != position]
        for size in sample_sizes(len(others)):
            estimates = self._estimates(state, labels, order, position, others[:size]) + state.inconsistencies
            if is_settled(estimates, len(others), threshold, self.config.acceptance_error):
                self.scorer.count_sweep(labels, order)
                sweep = self.scorer.sweep(labels, order, others[:size])
                return state, State(labels, order, sweep, 0, state.utility + float(estimates.mean()))
        return self._scored(state.labels, state.order), self.evaluate(labels, order)

    def _estimates(self, state: State, labels: Labels, order: Order, position: int, sample: Sequence[int]) -> Array:
        """What each sampled leaf says of alpha·(P(D') - P(D)), [sample]; their mean over all leaves is just that. The
        leaf at `position`, where the labels differ, is no matter of sampling."""
        mean = self.config.objective == "mean"
        sizes = [len(state.labels), len(labels)] if mean else [1, 1]
        sweeps = [
            self.scorer.sweep(labelled, ordered, {*sample, position} & labelled.keys())
            for labelled, ordered in ((state.labels, state.order), (labels, order))
        ]
        before, after = (
            dict(zip(sweep.positions, sweep.predictabilities(labelled) / size, strict=True))
            for sweep, labelled, size in zip(sweeps, (state.labels, labels), sizes, strict=True)
        )
        others = len(state.labels.keys() - {position})
        certain = after[position] - before.get(position, 0.0)
        return self.config.alpha * np.array([others * (after[p] - before[p]) + certain for p in sample])

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

    def _propose(self, state: State, position: int, iteration: int) -> str:
        """argmax_y p(y | x_i, D without x_i): known for labelled examples, one query for the others."""
        self.scorer.count_proposals(state.labels, [position])
        if position in state.labels:
            sweep = state.sweep
            if position not in sweep.positions:
                sweep = self.scorer.sweep(state.labels, state.order, {*sweep.positions, position})
            log_probs = sweep.by_position[position]
            if self.config.joint_proposals:
                log_probs = self._preferences.averaged(position, log_probs)
            return self.scorer.dataset.label_space.labels[int(log_probs.argmax())]
        if position not in self._proposals:
            ahead = range(iteration, iteration + self.config.lookahead)
            picks = dict.fromkeys(self._pick(state, self._rng(later).random()) for later in ahead)
            self._proposals |= self._argmax(state, [p for p in picks if p not in state.labels])
        return self._proposals[position]

    def _argmax(self, state: State, positions: Sequence[int]) -> dict[int, str]:
        best = self.scorer.proposals(state.labels, state.sweep, state.order, positions).argmax(axis=1)
        names = self.scorer.dataset.label_space.labels
        return {position: names[column] for position, column in zip(positions, best, strict=True)}

    def _needs_order(self, state: State, iteration: int) -> bool:
        if iteration == self._refreshed:  # an interrupted run had drawn this order already
            return False
        return (
            self.scorer.outgrown(state.sweep, state.order) or iteration - self._refreshed >= self.config.refresh_every
        )

    def _refresh(self, state: State, iteration: int) -> State:
        """Redraw the order. Utility is an expectation over orders: a labelling that is only coherent in the order
        it was found with does not survive this."""
        self._preferences.leave(state.sweep.by_position)
        self.scorer.forget()
        self._refreshed = iteration
        before = self.evaluate(state.labels, draw_order(state.labels, self._rng(iteration, ORDER)))
        candidate = self._joint_candidate(before)
        changes = {p: label for p, label in candidate.labels.items() if before.labels[p] != label}
        accepted = candidate.utility > before.utility
        state = candidate if accepted else before
        self._preferences.enter(state.sweep.by_position)
        self._record(
            {
                "type": "order",
                "iteration": iteration,
                "proposed": len(changes),
                "changes": self._by_id(changes) if accepted else {},
                "delta": candidate.utility - before.utility,
                "utility": state.utility,
                "labelled": len(state.labels),
                **self._preferences.to_row(self._ids),
            }
        )
        self._turn(accepted)
        return self._viewed(state)

    def _turn(self, changed: bool) -> None:
        """What holds at a fresh order, whether it is drawn or read from a trace."""
        self._proposals.clear()
        if changed:
            self._count(True)

    def _joint_candidate(self, state: State) -> State:
        """D', with the labels that earlier orders prefer for all of D at once, scored under the present order.

        A label that is proposed and judged in the same order can be a copy of its neighbours there; and what was
        labelled early, given few others, is out of date until it is drawn again.
        """
        if not self.config.joint_proposals:
            return state
        names, earlier = self.scorer.dataset.label_space.labels, self._preferences.earlier
        log_probs = np.zeros((len(self._ids), len(names)))
        proposal = dict(state.labels)
        for position in state.labels.keys() & earlier.keys():
            log_probs[position] = earlier[position]
            proposal[position] = names[int(earlier[position].argmax())]
        if self.config.consistency:
            proposal = make_consistent(proposal, log_probs, self.checks, self.scorer)
        return state if proposal == state.labels else self.evaluate(proposal, state.order)

    def _complete(self, state: State) -> State:
        """Label what the iterations have not reached, by argmax given D, and propose jointly a last time."""
        rest = [position for position in range(len(self._ids)) if position not in state.labels]
        if not rest and not self.config.joint_proposals:
            return state
        self.scorer.count_proposals(state.labels, rest)
        labels = {**state.labels, **(self._argmax(state, rest) if rest else {})}
        self._preferences.leave(state.sweep.by_position)
        complete = self.evaluate(labels, draw_order(labels, self._rng(COMPLETE, COMPLETE, ORDER)))
        better = max(complete, self._joint_candidate(complete), key=lambda state: state.utility)
        return self.fix(better, self._rng(COMPLETE, COMPLETE))

    def judge(self, labels: Labels, iterations: int) -> SearchOutcome:
        """What labels are worth under orders that no search has used."""
        orders = [draw_order(labels, self._rng(number, FINAL)) for number in range(self.config.final_orders)]
        states = [self.evaluate(labels, order) for order in orders]
        terms = [dict(zip(s.order.positions, s.sweep.predictabilities(labels), strict=True)) for s in states]
        log_odds = {p: float(np.mean([_log_odds(term[p]) for term in terms])) for p in labels}
        return SearchOutcome(labels, float(np.mean([s.utility for s in states])), log_odds, iterations)

    def _by_id(self, labels: Labels) -> dict[str, str]:
        return {self._ids[position]: label for position, label in labels.items()}

    def _by_position(self, labels: Mapping[str, str]) -> dict[int, str]:
        return {self._positions[example_id]: label for example_id, label in labels.items()}

    def _resume(self, history: Sequence[Row]) -> tuple[State, int]:
        """Replay the decisions; only the last sweep is computed again."""
        labels: dict[int, str] = {}
        order, iteration, utility = Order(()), 0, 0.0
        for row in history:
            if row["type"] in ("start", "order"):
                labels = {**labels, **self._by_position(row["changes"])}
                self._refreshed = row["iteration"]
                order = draw_order(labels, self._rng(self._refreshed, ORDER))
                self._preferences.from_row(row, self._positions)
                self._turn(bool(row["changes"]))
            elif row["type"] == "decision":
                iteration = row["iteration"]
                changes = self._by_position(row["changes"]) if row["accepted"] else {}
                order = order.append(position for position in changes if position not in labels)
                labels = {**labels, **changes}
                self._count(bool(changes))
            utility = row.get("utility", utility)
        state = State(labels, order, self._view(labels, order), self._inconsistencies(labels), utility)
        return state, iteration


def _log_odds(log_probability: float) -> float:
    """ln p/(1-p) from ln p, stable at both ends."""
    return log_probability - math.log(max(-math.expm1(min(log_probability, -1e-12)), 1e-12))
