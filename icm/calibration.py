"""Calibration of label log-probabilities: what a model prefers before it has read the item is taken out.

All functions map arrays [items, labels] of log-probabilities over the full vocabulary to log-probabilities over the
label space, natural log, rows summing to 1 in probability.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FEWEST = 8
"""Items a label below which answers do not tell how frequent labels are."""
RAREST = 0.05
"""Share below which a group of answers is taken for outliers rather than for a label."""
SIGNIFICANCE = 0.01
"""Of the test whether labels are equally frequent: a context, of which a search has dozens, is tested by itself."""


def over_labels(log_probs: Array) -> Array:
    """ln p(label | item, one of the labels): uncalibrated."""
    from scipy.special import log_softmax  # a second that reading a result file need not spend

    return np.asarray(log_softmax(log_probs, axis=-1))


def label_bias(log_probs: Array) -> Array:
    """Label log-probability that no single item explains, [labels].

    Batch calibration (Zhou et al. 2023, arXiv 2309.17249) takes the mean over the items at hand, contextual calibration
    (Zhao et al. 2021, arXiv 2102.09690) over content-free queries. Over items it supposes that labels are equally
    frequent. Where the answers show that they are not, each label counts once, however many items have it: the mean is
    that of the labels' prototypes, the means of a Gaussian mixture (prototypical calibration, Han et al. 2022, arXiv
    2205.10183). They show it where a mixture with weights of its own is likelier than one of equal weights, by the
    likelihood ratio.
    """
    from scipy.stats import chi2  # a second that reading a result file need not spend

    items, labels = log_probs.shape
    bias = np.asarray(over_labels(log_probs).mean(axis=0))
    found = calibrate(log_probs, bias).argmax(axis=1)
    if items < FEWEST * labels or len(set(found.tolist())) < labels:
        return bias
    places = over_labels(log_probs) - over_labels(log_probs).mean(axis=1, keepdims=True)  # the last column adds nothing
    starts = np.array([places[found == label].mean(axis=0) for label in range(labels)])
    equal, free = (_mixture(places[:, :-1], starts[:, :-1], weighted) for weighted in (False, True))
    ratio = 2 * (free.log_likelihood - equal.log_likelihood)
    if free.weights.min() < RAREST or ratio < chi2.isf(SIGNIFICANCE, labels - 1):
        return bias
    middle = free.means.mean(axis=0)
    return np.append(middle, -middle.sum())


@dataclass(frozen=True)
class _Mixture:
    """Gaussians of one covariance: their weights [labels], means [labels, dimensions], and the log-likelihood."""

    weights: Array
    means: Array
    log_likelihood: float


def _mixture(places: Array, means: Array, weighted: bool) -> _Mixture:
    """The mixture that expectation-maximization finds from `means`, [labels, dimensions], for `places`, [items,
    dimensions]; with weights of its own or with equal ones, which libraries do not have."""
    items, dimensions = places.shape
    weights, floor = np.full(len(means), 1 / len(means)), 1e-9 * np.eye(dimensions)
    covariance, before = np.cov(places.T).reshape(dimensions, dimensions) / 4 + floor, -np.inf
    for _ in range(200):
        off = places[:, None] - means
        distances = np.einsum("ikd,de,ike->ik", off, np.linalg.inv(covariance), off)
        densities = np.log(weights) - (distances + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2
        each = np.logaddexp.reduce(densities, axis=1)
        if each.sum() - before < 1e-6 * items:
            break
        before = each.sum()
        shares = np.exp(densities - each[:, None])
        sums = shares.sum(axis=0) + 1e-9
        weights = sums / sums.sum() if weighted else weights
        means = shares.T @ places / sums[:, None]
        off = places[:, None] - means
        covariance = np.einsum("ik,ikd,ike->de", shares, off, off) / items + floor
    return _Mixture(weights, means, float(each.sum()))


def calibrate(log_probs: Array, bias: Array) -> Array:
    """Subtract a label bias and renormalise. With `label_bias(log_probs)` the mean log-odds become 0, so a model
    that answers the same for every item is worth ln(1/labels) an item, whatever it answers."""
    return over_labels(over_labels(log_probs) - bias)


def log_odds(log_probs: Array, labels: NDArray[np.intp]) -> Array:
    """ln p/(1-p) of each row's `labels` entry, in nats, from normalised log-probabilities [items, labels]."""
    chosen = np.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    others = log_probs.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    return np.asarray(chosen - np.logaddexp.reduce(others, axis=1))
