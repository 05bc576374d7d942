"""Leave-one-out trees: every leaf sees exactly the other demonstrations, at n·log2(n) cost."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm.calibration import calibrate, label_bias, log_odds, over_labels
from icm.engines.accounting import AccountingEngine
from icm.examples import ICMDataset, ICMExample
from icm.search.scoring import content_free_examples
from icm.search.trees import Order, TreeBuilder, draw_order

DEMONSTRATION, QUERY = 1000, 2000


def builder(length: int = 1) -> TreeBuilder:
    """Demonstration p is `length` tokens 1000 + p, query p is one token 2000 + p, the prefix is token 7."""
    return TreeBuilder(lambda p: (DEMONSTRATION + p,) * length, lambda p: (QUERY + p,), (7,))


@given(st.integers(0, 20), st.integers(0, 6), st.integers(0, 2**16))
def test_every_leaf_sees_all_others_once(settled: int, appended: int, seed: int) -> None:
    positions = np.random.default_rng(seed).permutation(settled + appended).tolist()
    order = Order(tuple(positions[:settled]), tuple(positions[settled:]))
    prompts = dict(builder().leave_one_out(order).paths())
    assert sorted(prompts) == list(range(len(positions)))
    for row, position in enumerate(order.positions):
        others = Counter({DEMONSTRATION + other: 1 for other in positions if other != position})
        assert prompts[row][0] == 7
        assert Counter(prompts[row][1:-1]) == others
        assert prompts[row][-1] == QUERY + position


@given(st.integers(0, 12), st.integers(0, 5))
def test_unlabelled_examples_see_everything(settled: int, appended: int) -> None:
    order = Order(tuple(range(settled)), tuple(range(settled, settled + appended)))
    prompts = dict(builder().given_all(order, [40, 41]).paths())
    for row, position in enumerate((40, 41)):
        assert Counter(prompts[row][1:-1]) == Counter(DEMONSTRATION + p for p in order.positions)
        assert prompts[row][-1] == QUERY + position


def test_complete_context_is_shared_with_the_leaves() -> None:
    order = Order(tuple(range(8)), (8,))
    engine = AccountingEngine()
    engine.score(builder().leave_one_out(order), [0, 1])
    before = engine.usage.computed_tokens
    engine.score(builder().given_all(order, [9]), [0, 1])
    # The context of all settled ones is there already; the appended demonstration and the query are not.
    assert engine.usage.computed_tokens - before == 2


@pytest.mark.parametrize("count", [64, 256])
def test_sweep_cost(count: int) -> None:
    length = 37
    order = draw_order(range(count), np.random.default_rng(0))
    trees = TreeBuilder(lambda p: (p,) * length, lambda p: (p,) * length)
    assert trees.leave_one_out(order).tree_tokens == count * (math.log2(count) + 1) * length
    assert trees.leave_one_out(order).prompt_tokens == count * count * length


def test_appended_growth_costs_one_demonstration_and_one_query_a_leaf() -> None:
    length, count = 30, 32
    trees = TreeBuilder(lambda p: (1, p) * (length // 2), lambda p: (2, p) * (length // 2))
    order = draw_order(range(count), np.random.default_rng(0)).append([count])
    engine = AccountingEngine()
    engine.score(trees.leave_one_out(order), [0, 1])
    before = engine.usage.computed_tokens
    engine.score(trees.leave_one_out(order.append([count + 1])), [0, 1])
    assert engine.usage.computed_tokens - before <= 2 * (count + 2) * length


def test_batch_calibration_makes_one_answer_for_all_worth_a_coin() -> None:
    sure = np.log(np.tile([0.99, 0.01], (10, 1)))
    np.testing.assert_allclose(calibrate(sure, label_bias(sure)), math.log(0.5))
    np.testing.assert_allclose(np.exp(over_labels(sure)).sum(axis=1), 1)


def test_batch_calibration_recovers_a_shifted_threshold() -> None:
    """Three labels, a constant preference for the first: calibrated argmax is right, raw argmax is not."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 20)
    scores = rng.normal(scale=0.3, size=(60, 3)) + 2 * np.eye(3)[truth] + np.array([4.0, 0, 0])
    assert (over_labels(scores).argmax(axis=1) == truth).mean() < 0.5
    assert (calibrate(scores, label_bias(scores)).argmax(axis=1) == truth).mean() > 0.95


def test_log_odds_of_several_labels() -> None:
    rows = np.log([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
    np.testing.assert_allclose(log_odds(rows, np.array([0, 1])), [math.log(7 / 3), 0.0], atol=1e-12)


def test_content_free_queries_keep_the_template() -> None:
    dataset = ICMDataset([ICMExample(f"Review: {text}\nSentiment:") for text in ("good", "bad", "dull")])
    assert content_free_examples(dataset)[0].input == "Review: N/A\nSentiment:"
