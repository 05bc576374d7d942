"""Bootstrap: rounds of relabelling. A baseline, and what a search starts from unless the settings say otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from icm.calibration import Array
from icm.search.problem import Problem
from icm.search.repair import Repairs, make_consistent
from icm.search.scoring import Labels, Scorer
from icm.search.simple import argmax_labels, seed_labels


@dataclass(frozen=True)
class Initial:
    """What a search starts from.

    Attributes:
        labels: some examples' or all.
        preferences: position → mean label log-probabilities, [labels], of the rounds that led to the labels.
    """

    labels: Labels
    preferences: Mapping[int, Array] = field(default_factory=dict)


def initial(problem: Problem, rng: np.random.Generator) -> Initial:
    """The labels a search starts from: K of them, or all for `init: bootstrap`."""
    if problem.config.init == "bootstrap":
        return bootstrap(problem, rng)
    return Initial(seed_labels(problem, rng))


def bootstrap(problem: Problem, rng: np.random.Generator) -> Initial:
    """Labels of all examples: rounds of relabelling them with the last round's labels as balanced demonstrations.

    "Eliciting base models with simple unsupervised techniques" (2026): K demonstrations, then twice as many a round.
    Each round draws a fresh order. Inconsistent pairs take the likeliest consistent labels. The preferences are the
    mean over the rounds, in which each new one counts as much as all before it.
    """
    space, config = problem.label_space, problem.config
    labels, shots = seed_labels(problem, rng), config.initial_examples
    preferences = np.zeros((len(problem.positions), len(space.labels)))
    for turn in range(config.bootstrap_rounds):
        log_probs = relabel(problem.scorer, balanced(labels, space.labels, shots, rng), rng)
        labels = likeliest(problem, log_probs)
        preferences = (preferences + log_probs) / 2 if turn else log_probs
        shots = min(2 * shots, len(problem.positions))
    return Initial(labels, dict(enumerate(preferences)))


def likeliest(problem: Problem, log_probs: Array) -> dict[int, str]:
    """The likeliest consistent label of every example by `log_probs`, [examples, labels]."""
    space = problem.label_space
    labels = argmax_labels(log_probs, space.labels)
    if not problem.config.consistency:
        return labels
    return make_consistent(labels, Repairs(problem.checks, space, dict(enumerate(log_probs))))


def relabel(scorer: Scorer, demonstrations: Labels, rng: np.random.Generator) -> Array:
    """Log-probabilities of every example given the demonstrations (without itself), [examples, labels]."""
    order = scorer.draw(demonstrations, rng)
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
