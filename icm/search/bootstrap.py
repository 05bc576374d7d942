"""Labelers without a search: random, zero-shot, bootstrap. Baselines, and ways to initialise the search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from icm.calibration import Array
from icm.config import SearchConfig
from icm.consistency import ConsistencyIndex
from icm.search.scoring import Labels, Scorer, draw_order


@dataclass(frozen=True)
class Initial:
    """What a search starts from.

    Attributes:
        labels: some examples' or all.
        preferences: position → mean label log-probabilities, [labels], of the rounds that led to the labels.
    """

    labels: Labels
    preferences: Mapping[int, Array] = field(default_factory=dict)


def initial(scorer: Scorer, checks: ConsistencyIndex, config: SearchConfig, rng: np.random.Generator) -> Initial:
    """The labels a search starts from: K of them, or all for `init: bootstrap`."""
    if config.init == "bootstrap":
        return bootstrap(scorer, checks, config, rng)
    return Initial(seed_labels(scorer, config, rng))


def seed_labels(scorer: Scorer, config: SearchConfig, rng: np.random.Generator) -> Labels:
    """K labels: at random on random examples, or the zero-shot answers with the largest margin, balanced."""
    names = scorer.dataset.label_space.labels
    count = min(config.initial_examples, len(scorer.dataset))
    if config.init == "random" or config.algorithm == "random":
        chosen = [int(p) for p in rng.permutation(len(scorer.dataset))[:count]]
        drawn = scorer.dataset.label_space.random_labels(count, rng)
        return {chosen[place]: label for place, label in drawn.items()}
    return confident_labels(scorer.zero_shot(range(len(scorer.dataset))), names, count)


def confident_labels(log_probs: Array, names: Sequence[str], count: int) -> Labels:
    """The `count` rows that are surest of their label, the labels in turn, so that they are balanced."""
    labels: dict[int, str] = {}
    for turn in range(count):
        column = turn % len(names)
        free = [row for row in range(len(log_probs)) if row not in labels]
        labels[max(free, key=lambda row: log_probs[row, column])] = names[column]
    return labels


def argmax_labels(log_probs: Array, positions: Sequence[int], names: Sequence[str]) -> dict[int, str]:
    """The likeliest label of each row."""
    best = log_probs.argmax(axis=1)
    return {position: names[column] for position, column in zip(positions, best, strict=True)}


def zero_shot(scorer: Scorer) -> tuple[Labels, Array]:
    """The model's own answers without demonstrations, and their log-probabilities [examples, labels]."""
    everything = range(len(scorer.dataset))
    log_probs = scorer.zero_shot(everything)
    return argmax_labels(log_probs, everything, scorer.dataset.label_space.labels), log_probs


def bootstrap(scorer: Scorer, checks: ConsistencyIndex, config: SearchConfig, rng: np.random.Generator) -> Initial:
    """Labels of all examples: rounds of relabelling them with the last round's labels as balanced demonstrations.

    "Eliciting base models with simple unsupervised techniques" (2026): K demonstrations, then twice as many a round.
    Each round draws a fresh order. Inconsistent pairs take the likeliest consistent labels. The preferences are the
    mean over the rounds, in which each new one counts as much as all before it.
    """
    names = scorer.dataset.label_space.labels
    labels, shots = seed_labels(scorer, config, rng), config.initial_examples
    preferences = np.zeros((len(scorer.dataset), len(names)))
    for turn in range(config.bootstrap_rounds):
        log_probs = relabel(scorer, balanced(labels, names, shots, rng), rng)
        labels = argmax_labels(log_probs, range(len(scorer.dataset)), names)
        if config.consistency:
            labels = make_consistent(labels, log_probs, checks, scorer)
        preferences = (preferences + log_probs) / 2 if turn else log_probs
        shots = min(2 * shots, len(scorer.dataset))
    return Initial(labels, dict(enumerate(preferences)))


def relabel(scorer: Scorer, demonstrations: Labels, rng: np.random.Generator) -> Array:
    """Log-probabilities of every example given the demonstrations (without itself), [examples, labels]."""
    order = draw_order(demonstrations, rng)
    sweep = scorer.sweep(demonstrations, order)
    rest = [position for position in range(len(scorer.dataset)) if position not in demonstrations]
    log_probs = np.zeros((len(scorer.dataset), len(scorer.dataset.label_space.labels)))
    log_probs[list(sweep.positions)] = sweep.log_probs
    if rest:
        scorer.count_proposals(demonstrations, rest)
        log_probs[rest] = scorer.proposals(demonstrations, sweep, order, rest)
    scorer.forget()
    return log_probs


def balanced(labels: Labels, names: Sequence[str], shots: int, rng: np.random.Generator) -> Labels:
    """At most `shots` examples drawn at random, the same number of each label as far as there are any."""
    members = {name: [position for position, label in sorted(labels.items()) if label == name] for name in names}
    present = [name for name in names if members[name]]
    each = min(max(1, shots // len(present)), *(len(members[name]) for name in present))
    return {int(p): name for name in present for p in rng.permutation(members[name])[:each]}


def make_consistent(
    labels: dict[int, str], log_probs: Array, checks: ConsistencyIndex, scorer: Scorer, weight: float = 0.0
) -> dict[int, str]:
    """Give inconsistent pairs their likeliest labels that leave fewer inconsistencies, the likeliest changes first.

    Args:
        labels: position → label.
        log_probs: of the labels of each position, [examples, labels].
        checks: related pairs.
        scorer: of the same data.
        weight: what one nat is worth in inconsistencies: a repair that loses more than it mends is not made. With 0
            all are made.
    """

    def gain(repair: Labels) -> float:
        rows, space = list(repair), scorer.dataset.label_space
        after, before = ([space.index(source[row]) for row in rows] for source in (repair, labels))
        return float((log_probs[rows, after] - log_probs[rows, before]).sum())

    def repair(pair: tuple[int, int]) -> Labels:
        i, j = pair
        options = [{i: a, j: b} for a, b in checks.options(i, j, scorer.dataset.label_space)]
        now = _broken(pair, labels, checks)
        mended = [(now - _broken(pair, {**labels, **option}, checks), option) for option in options]
        helpful = [option for fewer, option in mended if fewer > max(0.0, -weight * gain(option))]
        return max(helpful, key=gain, default={})

    while repairs := {pair: found for pair in checks.violations(labels) if (found := repair(pair))}:
        for pair in sorted(repairs, key=lambda pair: -gain(repairs[pair])):
            labels = {**labels, **repair(pair)}
    return labels


def _broken(pair: tuple[int, int], labels: Labels, checks: ConsistencyIndex) -> int:
    """Inconsistencies that the labels of a pair take part in."""
    return len({broken for position in pair for broken in checks.violations_of(position, labels)})
