"""Mending pairs of labels that break a rule, without a sweep: by label log-probabilities that are known already."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from icm.calibration import Array
from icm.consistency import ConsistencyIndex
from icm.examples import LabelSpace
from icm.search.scoring import Labels


@dataclass(frozen=True)
class Repairs:
    """Which new labels for a pair are a repair, and which of them is the best.

    Attributes:
        checks: related pairs.
        space: the labels to choose from.
        log_probs: position → label log-probabilities, [labels].
        weight: what one nat is worth in inconsistencies: a change that loses more than it mends is no repair. With 0
            all that mend are.
        trusted: labels that no repair changes.
    """

    checks: ConsistencyIndex
    space: LabelSpace
    log_probs: Mapping[int, Array]
    weight: float = 0.0
    trusted: Labels = field(default_factory=dict)

    def best(self, labels: Labels, pair: tuple[int, int]) -> Labels | None:
        """The likeliest labels for a pair that leave fewer inconsistencies than `labels`; None if there are none."""
        i, j = pair
        options: list[Labels] = [{i: a, j: b} for a, b in self.checks.options(i, j, self.space)]
        broken = self._broken(labels, pair)
        repairs = [
            option
            for option in options
            if keeps(option, self.trusted)
            and broken - self._broken({**labels, **option}, pair) > max(0.0, -self.weight * self.gain(labels, option))
        ]
        return max(repairs, key=lambda option: self.gain(labels, option), default=None)

    def gain(self, labels: Labels, change: Labels) -> float:
        """The nats by which the changed labels are likelier than the present ones."""
        now, then = ({p: self.log_probs[p][self.space.index(given[p])] for p in change} for given in (labels, change))
        return float(sum(then[position] - now[position] for position in change))

    def _broken(self, labels: Labels, pair: tuple[int, int]) -> int:
        """Inconsistencies that the labels of the pair take part in."""
        return len({broken for position in pair for broken in self.checks.violations_of(position, labels)})


def keeps(labels: Labels, trusted: Labels) -> bool:
    """Whether labels of trusted examples are the trusted ones."""
    return all(trusted.get(position, label) == label for position, label in labels.items())


def make_consistent(labels: dict[int, str], repairs: Repairs) -> dict[int, str]:
    """Mend inconsistent pairs, those first whose repair makes the labels likeliest, while there are any to mend.

    Every repair leaves fewer inconsistencies, so this ends.
    """
    while broken := _repairable(labels, repairs):
        for pair in sorted(broken, key=lambda pair: -broken[pair]):
            # Repairs made since may have mended this pair or the labels around it, so it is looked at again.
            labels = {**labels, **(repairs.best(labels, pair) or {})}
    return labels


def _repairable(labels: Labels, repairs: Repairs) -> dict[tuple[int, int], float]:
    """The inconsistent pairs that have a repair, and its gain."""
    best = {pair: repairs.best(labels, pair) for pair in repairs.checks.violations(labels)}
    return {pair: repairs.gain(labels, found) for pair, found in best.items() if found is not None}
