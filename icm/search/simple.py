"""Labels without a search: at random, and the model's own answers. Baselines, and the first labels of a search."""

from collections.abc import Sequence

import numpy as np

from icm.calibration import Array, log_odds
from icm.search.problem import Problem, SearchOutcome
from icm.search.scoring import Labels


def random_labels(problem: Problem, rng: np.random.Generator) -> SearchOutcome:
    """Each label as often as the others; the model is not asked."""
    return SearchOutcome(problem.label_space.random_labels(len(problem.positions), rng), None, {}, 0)


def zero_shot(problem: Problem) -> SearchOutcome:
    """The model's own answers without demonstrations."""
    log_probs = problem.scorer.zero_shot(problem.positions)
    labels = argmax_labels(log_probs, problem.label_space.labels)
    return SearchOutcome(labels, None, dict(enumerate(log_odds(log_probs, log_probs.argmax(axis=1)).tolist())), 0)


def argmax_labels(log_probs: Array, names: Sequence[str]) -> dict[int, str]:
    """The likeliest label of each row."""
    return {row: names[column] for row, column in enumerate(log_probs.argmax(axis=1))}


def seed_labels(problem: Problem, rng: np.random.Generator) -> Labels:
    """K labels: at random on random examples, or the zero-shot answers with the largest margin, balanced."""
    config, space = problem.config, problem.label_space
    count = min(config.initial_examples, len(problem.positions))
    if config.init == "random":
        chosen = [int(position) for position in rng.permutation(len(problem.positions))[:count]]
        return {chosen[place]: label for place, label in space.random_labels(count, rng).items()}
    return confident_labels(problem.scorer.zero_shot(problem.positions), space.labels, count)


def confident_labels(log_probs: Array, names: Sequence[str], count: int) -> Labels:
    """The `count` rows that are surest of their label, the labels in turn, so that they are balanced."""
    labels: dict[int, str] = {}
    for turn in range(count):
        column = turn % len(names)
        free = [row for row in range(len(log_probs)) if row not in labels]
        labels[max(free, key=lambda row: log_probs[row, column])] = names[column]
    return labels
