"""Labels without a search: at random, and the model's own answers. Baselines, and the first labels of a search."""

from collections.abc import Sequence

import numpy as np

from icm.calibration import Array, log_odds
from icm.search.problem import Problem, SearchOutcome
from icm.search.scoring import Labels, Scorer


def random_labels(problem: Problem, rng: np.random.Generator) -> SearchOutcome:
    """Each label as often as the others, but for the trusted ones; the model is not asked."""
    labels = problem.label_space.random_labels(len(problem.positions), rng)
    return SearchOutcome({**labels, **problem.trusted}, None, {}, 0)


def zero_shot(problem: Problem, rng: np.random.Generator) -> SearchOutcome:
    """The model's own answers without demonstrations but the trusted labels."""
    names = problem.label_space.labels
    log_probs = own_answers(problem, rng)
    labels = {**argmax_labels(log_probs, names), **problem.trusted}
    columns = np.array([names.index(labels[position]) for position in problem.positions])
    return SearchOutcome(labels, None, dict(enumerate(log_odds(log_probs, columns).tolist())), 0)


def own_answers(problem: Problem, rng: np.random.Generator) -> Array:
    """Label log-probabilities without demonstrations but the trusted labels, [examples, labels]."""
    if problem.trusted:
        return relabel(problem.scorer, problem.trusted, rng)
    return problem.scorer.zero_shot(problem.positions)


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


def argmax_labels(log_probs: Array, names: Sequence[str]) -> dict[int, str]:
    """The likeliest label of each row."""
    return {row: names[column] for row, column in enumerate(log_probs.argmax(axis=1))}


def seed_labels(problem: Problem, rng: np.random.Generator) -> Labels:
    """Those of an earlier result and the trusted ones. Without an earlier result K labels, the trusted ones among them:
    the others at random on random examples, or the model's own answers with the largest margin, balanced."""
    config, space, trusted = problem.config, problem.label_space, problem.trusted
    free, count = problem.free, min(config.initial_examples, len(problem.positions)) - len(trusted)
    if problem.start or count <= 0:
        return {**problem.start, **trusted}
    if config.init == "random":
        chosen = [free[int(place)] for place in rng.permutation(len(free))[:count]]
        return {chosen[place]: label for place, label in space.random_labels(count, rng).items()} | {**trusted}
    found = confident_labels(own_answers(problem, rng)[free], space.labels, count)
    return {free[row]: label for row, label in found.items()} | {**trusted}


def confident_labels(log_probs: Array, names: Sequence[str], count: int) -> Labels:
    """The `count` rows that are surest of their label, the labels in turn, so that they are balanced."""
    labels: dict[int, str] = {}
    for turn in range(count):
        column = turn % len(names)
        free = [row for row in range(len(log_probs)) if row not in labels]
        labels[max(free, key=lambda row: log_probs[row, column])] = names[column]
    return labels
