"""How sure a label is, once the rules count."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.search_runs import groups, pairs

from icm.calibration import over_labels
from icm.consistency import LogicalConsistencyChecker
from icm.consistency.rules import AtMostOneTrueRule, ComparisonConsistencyRule, ExactlyOneTrueRule, IdenticalTextRule
from icm.examples import ICMDataset, LabelSpace
from icm.search.ruled import MOST, given_rules, related

ODDS = st.lists(st.floats(-9, 9), min_size=2, max_size=5)


def ruled(dataset: ICMDataset, rule: object, odds: list[float]) -> list[float]:
    """Log-odds of True after the rule counts, from those before."""
    index = LogicalConsistencyChecker([rule]).index(dataset)  # type: ignore[list-item]
    rows = {p: over_labels(np.array([[value, 0.0]]))[0] for p, value in enumerate(odds)}
    found = given_rules(rows, related(index, dataset.label_space))
    return [float(found[p][0] - found[p][1]) for p in range(len(odds))]


@given(ODDS)
def test_of_claims_of_which_one_is_true_the_likelier_counts(odds: list[float]) -> None:
    """The closed form: softmax over the claims, against 1 in n."""
    found = ruled(groups(1, len(odds)), ExactlyOneTrueRule(), odds)
    for place, value in enumerate(odds):
        others = [other for number, other in enumerate(odds) if number != place]
        assert found[place] == pytest.approx(value - np.logaddexp.reduce(others) + math.log(len(others)), abs=1e-9)


@given(ODDS)
def test_at_most_one_is_what_its_labellings_say(odds: list[float]) -> None:
    found = ruled(groups(1, len(odds)), AtMostOneTrueRule(), odds)
    ways = [way for way in product([0, 1], repeat=len(odds)) if sum(way) <= 1]
    for place in range(len(odds)):
        sides = [[way for way in ways if way[place] == side] for side in (1, 0)]
        true, false = (np.mean([math.exp(np.dot(way, odds)) for way in side]) for side in sides)
        assert found[place] == pytest.approx(math.log(true / false), abs=1e-6)


@pytest.mark.parametrize("value", [-3.0, 0.0, 3.0])
def test_a_model_that_does_not_tell_claims_apart_is_worth_a_coin(value: float) -> None:
    for size in (2, 3, 5):
        assert ruled(groups(1, size), ExactlyOneTrueRule(), [value] * size) == pytest.approx([0.0] * size, abs=1e-9)


def test_inverse_pairs_add_up_and_others_stay(tokenizer: object) -> None:
    dataset = pairs(2)
    odds = [1.0, 2.0, -1.0, 0.5]
    found = ruled(dataset, ComparisonConsistencyRule(), odds)
    for place, example in enumerate(dataset):
        other = next(p for p, e in enumerate(dataset) if e.id == example.relations.inverse)
        assert found[place] == pytest.approx(odds[place] - odds[other])
    assert ruled(dataset, IdenticalTextRule(), odds) == pytest.approx(odds)


def test_too_many_related_examples_are_judged_one_by_one() -> None:
    size = int(math.log2(MOST))
    odds = np.linspace(-1, 1, size + 1).tolist()
    assert ruled(groups(1, size), ExactlyOneTrueRule(), odds[:size]) != pytest.approx(odds[:size])
    assert ruled(groups(1, size + 1), ExactlyOneTrueRule(), odds) == pytest.approx(odds)


def test_a_label_that_can_never_hold_leaves_answers_as_they_are() -> None:
    class AllFalse(AtMostOneTrueRule):
        def consistent(self, a: object, label_a: str, b: object, label_b: str) -> bool:
            return label_a == label_b == "False"

    assert ruled(groups(1, 3), AllFalse(), [1.0, 2.0, -1.0]) == pytest.approx([1.0, 2.0, -1.0])


def test_labels_of_three_names_count_too() -> None:
    class Different(AtMostOneTrueRule):
        def consistent(self, a: object, label_a: str, b: object, label_b: str) -> bool:
            return label_a != label_b

    space = LabelSpace(("red", "green", "blue"))
    dataset = ICMDataset(groups(1, 2).examples, space)
    rows = {0: np.log([0.6, 0.3, 0.1]), 1: np.log([0.8, 0.1, 0.1])}
    found = given_rules(rows, related(LogicalConsistencyChecker([Different()]).index(dataset), space))
    red = 0.6 * (0.1 + 0.1)
    green, blue = 0.3 * (0.8 + 0.1), 0.1 * (0.8 + 0.1)
    assert np.exp(found[0]) == pytest.approx(np.array([red, green, blue]) / (red + green + blue))
