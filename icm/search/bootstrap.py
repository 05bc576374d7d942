"""Bootstrap: rounds of relabelling. A baseline, and what a search starts from unless the settings say otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from icm.calibration import BIASES, Array, calibrate_claims
from icm.search.problem import Problem
from icm.search.repair import Repairs, make_consistent
from icm.search.scoring import Labels
from icm.search.simple import argmax_labels, relabel, seed_labels


@dataclass(frozen=True)
class Initial:
    """What a search starts from.

    Attributes:
        labels: some examples' or all.
        preferences: position → mean label log-probabilities, [labels], of the rounds that led to the labels.
        rounds: of relabelling.
    """

    labels: Labels
    preferences: Mapping[int, Array] = field(default_factory=dict)
    rounds: int = 0


def initial(problem: Problem, rng: np.random.Generator) -> Initial:
    """The labels a search starts from: K of them, or all for `init: bootstrap`; or those of an earlier result."""
    if problem.config.init == "bootstrap" and len(problem.start) < len(problem.free):
        return bootstrap(problem, rng)
    return Initial(seed_labels(problem, rng))


def bootstrap(problem: Problem, rng: np.random.Generator) -> Initial:
    """Labels of all examples: rounds of relabelling them with the last round's labels as balanced demonstrations.

    "Eliciting base models with simple unsupervised techniques" (2026): K demonstrations, then twice as many a round.
    Each round draws a fresh order. Inconsistent pairs take the likeliest consistent labels. The preferences are the
    mean over the rounds, in which each new one counts as much as all before it. Trusted labels are demonstrations of
    every round. Labels of an earlier result take the place of the K; where it has all of them, its log-odds count as a
    round. With trusted or such labels all rounds count the same, found is the likeliest by their mean, so that what is
    given is not lost from round to round, and a round that changes nothing is the last one.
    """
    space, config, trusted = problem.label_space, problem.config, problem.trusted
    labels, shots = seed_labels(problem, rng), config.initial_examples
    again = 0 < len(problem.start) == len(problem.free)
    preferences = earlier(problem) if again else np.zeros((len(problem.positions), len(space.labels)))
    steady = again or bool(trusted)
    for turn in range(config.bootstrap_rounds):
        found = {position: label for position, label in labels.items() if position not in trusted}
        log_probs = relabel(problem.scorer, {**balanced(found, space.labels, shots, rng), **trusted}, rng)
        share = 1 / (1 + turn + again) if steady else 0.5 if turn else 1.0
        preferences = (1 - share) * preferences + share * log_probs
        before, labels = labels, likeliest(problem, preferences if steady else log_probs)
        if steady and labels == before:
            break
        shots = min(2 * shots, len(problem.positions))
    return Initial(labels, dict(enumerate(preferences)), turn + 1)


def earlier(problem: Problem) -> Array:
    """Label log-probabilities by the log-odds of the earlier result, calibrated as a round's, [examples, labels]; even
    where they are not known."""
    names, dataset = problem.label_space.labels, problem.scorer.dataset
    log_probs = np.full((len(problem.positions), len(names)), -np.log(len(names)))
    known = [position for position in sorted(problem.start) if dataset.start[dataset[position].id][1]]
    for position in known:
        label, odds = dataset.start[dataset[position].id]
        log_probs[position] = -np.logaddexp(0.0, odds) - np.log(len(names) - 1)
        log_probs[position, names.index(label)] = -np.logaddexp(0.0, -odds)
    if known and (bias := BIASES.get(problem.config.calibration)):
        log_probs[known] = calibrate_claims(log_probs[known], problem.scorer.claims[known], bias)
    return log_probs


def likeliest(problem: Problem, log_probs: Array) -> dict[int, str]:
    """The likeliest consistent label of every example by `log_probs`, [examples, labels], the trusted ones as given."""
    space, trusted = problem.label_space, problem.trusted
    labels = {**argmax_labels(log_probs, space.labels), **trusted}
    if not problem.config.consistency:
        return labels
    repairs = Repairs(problem.checks, space, dict(enumerate(log_probs)), trusted=trusted)
    return make_consistent(labels, repairs)


def balanced(labels: Labels, names: Sequence[str], shots: int, rng: np.random.Generator) -> Labels:
    """At most `shots` examples drawn at random, the same number of each label as far as there are any."""
    members = {name: [position for position, label in sorted(labels.items()) if label == name] for name in names}
    present = [name for name in names if members[name]]
    if not present:
        return {}
    each = min(max(1, shots // len(present)), *(len(members[name]) for name in present))
    return {int(p): name for name in present for p in rng.permutation(members[name])[:each]}
