"""What calibration takes out: the preference that no single item explains, whatever the labels' shares are."""

import numpy as np
import pytest

from icm.calibration import Array, calibrate, label_bias, over_labels


def answers(shares: list[float], items: int, seed: int, spread: float = 0.25) -> tuple[Array, Array]:
    """Log-probabilities [items, labels] of a model that tells labels of these shares apart, but prefers some of them
    whatever the item is; and the labels."""
    rng, labels = np.random.default_rng(seed), len(shares)
    gold = np.repeat(np.arange(labels), np.round(np.array(shares) * items).astype(int))
    tilt = 3 * rng.normal(size=labels)
    return over_labels(np.eye(labels)[gold] + spread * rng.normal(size=(len(gold), labels)) + tilt), gold


def right(log_probs: Array, bias: Array, gold: Array) -> float:
    return float(np.mean(calibrate(log_probs, bias).argmax(axis=1) == gold))


def mean(log_probs: Array) -> Array:
    return np.asarray(over_labels(log_probs).mean(axis=0))


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.45, 0.55], [1 / 3, 1 / 3, 1 / 3]])
def test_labels_of_about_equal_frequency_are_calibrated_by_the_mean(shares: list[float]) -> None:
    for seed in range(10):
        log_probs, _ = answers(shares, 60, seed)
        assert np.allclose(label_bias(log_probs), mean(log_probs))


@pytest.mark.parametrize("shares", [[0.8, 0.2], [0.15, 0.85], [0.7, 0.15, 0.15], [0.1, 0.2, 0.7]])
def test_a_rare_label_is_told_from_a_frequent_one(shares: list[float]) -> None:
    found = [answers(shares, 64, seed) for seed in range(10)]
    by_mean = np.mean([right(log_probs, mean(log_probs), gold) for log_probs, gold in found])
    by_prototypes = np.mean([right(log_probs, label_bias(log_probs), gold) for log_probs, gold in found])
    assert by_mean < 0.93 < 0.95 < by_prototypes


def test_labels_may_come_in_any_order() -> None:
    log_probs, _ = answers([0.7, 0.2, 0.1], 90, seed=3)
    there = calibrate(log_probs, label_bias(log_probs))
    order = [2, 0, 1]
    turned = log_probs[:, order]
    assert np.allclose(calibrate(turned, label_bias(turned)), there[:, order], atol=1e-3)


def test_one_group_of_answers_is_calibrated_by_the_mean() -> None:
    rng = np.random.default_rng(5)
    draws = [over_labels(np.stack([rng.normal(size=60), np.zeros(60)], axis=1)) for _ in range(40)]
    assert sum(not np.allclose(label_bias(draw), mean(draw)) for draw in draws) <= 2


def test_outliers_are_no_label_of_their_own() -> None:
    log_probs, _ = answers([0.5, 0.5], 60, seed=1)
    log_probs[0] = over_labels(np.array([[9.0, 0.0]]))
    assert np.allclose(label_bias(log_probs), mean(log_probs))


@pytest.mark.parametrize("items", [1, 2, 15])
def test_few_items_are_calibrated_by_the_mean(items: int) -> None:
    log_probs, _ = answers([0.8, 0.2], 40, seed=2)
    assert np.allclose(label_bias(log_probs[:items]), mean(log_probs[:items]))


def test_a_model_that_answers_the_same_for_every_item_prefers_nothing() -> None:
    log_probs = over_labels(np.tile([2.0, -1.0, 0.5], (50, 1)))
    assert np.allclose(calibrate(log_probs, label_bias(log_probs)), -np.log(3))


def test_two_answers_alone_are_told_apart() -> None:
    log_probs = over_labels(np.repeat([[0.2, 0.0], [1.2, 0.0]], [10, 40], axis=0))
    assert right(log_probs, label_bias(log_probs), np.repeat([1, 0], [10, 40])) == 1.0
