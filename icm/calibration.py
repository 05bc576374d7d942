"""Calibration of label log-probabilities: what a model prefers before it has read the item is taken out.

All functions map arrays [items, labels] of log-probabilities over the full vocabulary to log-probabilities over the
label space, natural log, rows summing to 1 in probability.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bias = Callable[[Array], Array]
"""Label log-probabilities [items, labels] → what is taken out of them, [labels]."""

FEWEST = 8
"""Items a label below which their answers do not tell prototypes."""
OWN = 4
"""Items of a claim below which the bias is that of all claims."""


def over_labels(log_probs: Array) -> Array:
    """ln p(label | item, one of the labels): uncalibrated."""
    from scipy.special import log_softmax  # a second that reading a result file need not spend

    return np.asarray(log_softmax(log_probs, axis=-1))


def label_bias(log_probs: Array) -> Array:
    """Mean label log-probability over items, [labels]: the preference that no single item explains.

    Batch calibration (Zhou et al. 2023, arXiv 2309.17249) takes it over the items at hand; contextual calibration
    (Zhao et al. 2021, arXiv 2102.09690) over content-free queries.
    """
    return np.asarray(over_labels(log_probs).mean(axis=0))


def prototype_bias(log_probs: Array) -> Array:
    """Mean of the labels' prototypes, [labels]: each label counts once, however many items have it.

    Prototypical calibration (Han et al. 2022, arXiv 2205.10183). Prototypes are the means of a Gaussian mixture of one
    covariance, a component a label, which starts from the items that have the label by `label_bias`. Where items
    are too few (`FEWEST` a label) or none has some label, it is `label_bias`.
    """
    labels, bias = log_probs.shape[1], label_bias(log_probs)
    found = calibrate(log_probs, bias).argmax(axis=1)
    if len(log_probs) < FEWEST * labels or len(set(found.tolist())) < labels:
        return bias
    from sklearn.mixture import GaussianMixture  # two seconds that other calibrations need not spend

    rows = over_labels(log_probs)
    places = rows[:, :-1] - rows.mean(axis=1, keepdims=True)  # the last column follows from the others
    starts = np.array([places[found == label].mean(axis=0) for label in range(labels)])
    mixture = GaussianMixture(
        labels, covariance_type="tied", means_init=starts, init_params="random", max_iter=1000, random_state=0
    )
    middle = mixture.fit(places).means_.mean(axis=0)
    return np.append(middle, -middle.sum())


BIASES: Mapping[str, Bias] = {"batch": label_bias, "prototypical": prototype_bias}
"""What is taken out over the items at hand, by the name of the calibration."""


def claim_biases(log_probs: Array, claims: NDArray[np.intp], count: int, bias: Bias) -> Array:
    """The bias of each claim's items, [claims, labels]; that of all items for a claim with fewer than `OWN`.

    Args:
        claims: number of each item's claim, below `count`, [items].
    """
    found = np.tile(bias(log_probs), (count, 1))
    for claim in range(count if count > 1 else 0):
        held = log_probs[claims == claim]
        if len(held) >= OWN:
            found[claim] = bias(held)
    return found


def calibrate(log_probs: Array, bias: Array) -> Array:
    """Subtract a label bias, [labels] or one an item, and renormalise. With `label_bias(log_probs)` the mean log-odds
    become 0, so a model that answers the same for every item is worth ln(1/labels) an item, whatever it answers."""
    return over_labels(over_labels(log_probs) - bias)


def calibrate_claims(log_probs: Array, claims: NDArray[np.intp], bias: Bias) -> Array:
    """Subtract the bias of each item's claim (`claim_biases`) and renormalise."""
    return calibrate(log_probs, claim_biases(log_probs, claims, int(claims.max()) + 1, bias)[claims])


def log_odds(log_probs: Array, labels: NDArray[np.intp]) -> Array:
    """ln p/(1-p) of each row's `labels` entry, in nats, from normalised log-probabilities [items, labels]."""
    chosen = np.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    others = log_probs.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    return np.asarray(chosen - np.logaddexp.reduce(others, axis=1))
