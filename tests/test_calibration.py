"""What calibration takes out: the preference that no single item explains."""

from collections.abc import Callable

import numpy as np
import pytest

from icm.calibration import FEWEST, Array, calibrate, label_bias, over_labels, prototype_bias


def answers(shares: list[float], items: int, seed: int, apart: float = 4.0) -> tuple[Array, Array]:
    """Log-probabilities [items, labels], in random order, of a model that tells labels of these shares `apart` by so
    many standard deviations, and prefers some of them whatever the item is; and the labels."""
    rng, labels = np.random.default_rng(seed), len(shares)
    gold = rng.permutation(np.repeat(np.arange(labels), np.round(np.array(shares) * items).astype(int)))
    told = apart / np.sqrt(2) * np.eye(labels)[gold]
    return over_labels(told + rng.normal(size=(len(gold), labels)) + 3 * rng.normal(size=labels)), gold


def right(log_probs: Array, bias: Array, gold: Array) -> float:
    return float(np.mean(calibrate(log_probs, bias).argmax(axis=1) == gold))


@pytest.mark.parametrize("shares", [[0.8, 0.2], [0.1, 0.9], [0.7, 0.15, 0.15], [0.1, 0.2, 0.7]])
def test_prototypes_tell_a_rare_label_from_a_frequent_one(shares: list[float]) -> None:
    found = [answers(shares, 100, seed) for seed in range(10)]
    by_mean, by_prototypes = (
        np.mean([right(log_probs, bias(log_probs), gold) for log_probs, gold in found])
        for bias in (label_bias, prototype_bias)
    )
    assert by_mean < 0.9
    assert by_prototypes > by_mean + 0.05


@pytest.mark.parametrize(("apart", "loss"), [(4.0, 0.01), (2.0, 0.05)])
def test_prototypes_of_equally_frequent_labels_cost_little(apart: float, loss: float) -> None:
    found = [answers([0.5, 0.5], 60, seed, apart) for seed in range(20)]
    by_mean, by_prototypes = (
        np.mean([right(log_probs, bias(log_probs), gold) for log_probs, gold in found])
        for bias in (label_bias, prototype_bias)
    )
    assert by_prototypes > by_mean - loss


def test_labels_may_come_in_any_order() -> None:
    log_probs, _ = answers([0.7, 0.2, 0.1], 90, seed=3)
    there, order = calibrate(log_probs, prototype_bias(log_probs)), [2, 0, 1]
    turned = log_probs[:, order]
    assert not np.allclose(there, calibrate(log_probs, label_bias(log_probs)), atol=0.1)
    assert np.allclose(calibrate(turned, prototype_bias(turned)), there[:, order], atol=0.01)


def test_too_few_items_have_no_prototypes() -> None:
    log_probs, _ = answers([0.8, 0.2], 40, seed=2)
    few, enough = log_probs[: 2 * FEWEST - 1], log_probs[: 2 * FEWEST]
    assert len(set(calibrate(few, label_bias(few)).argmax(axis=1))) == 2
    assert np.array_equal(prototype_bias(few), label_bias(few))
    assert not np.allclose(calibrate(enough, prototype_bias(enough)), calibrate(enough, label_bias(enough)))


@pytest.mark.parametrize("bias", [label_bias, prototype_bias])
def test_a_model_that_answers_the_same_for_every_item_prefers_nothing(bias: Callable[[Array], Array]) -> None:
    log_probs = over_labels(np.tile([2.0, -1.0, 0.5], (50, 1)))
    assert np.allclose(calibrate(log_probs, bias(log_probs)), -np.log(3))


def test_two_answers_alone_are_told_apart_however_frequent_they_are() -> None:
    gold = np.repeat([1, 0], [1, 40])
    log_probs = over_labels(np.array([[1.2, 0.0], [0.2, 0.0]])[gold])
    calibrated = calibrate(log_probs, prototype_bias(log_probs))
    assert np.allclose(np.abs(calibrated[:, 0] - calibrated[:, 1]), 0.5, atol=1e-3)
