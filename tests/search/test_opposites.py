"""Pairs of which one is True are judged together; larger groups and pairs with a known label are not."""

from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.search_runs import groups, pairs

from icm.calibration import over_labels
from icm.consistency import LogicalConsistencyChecker
from icm.consistency.rules import (
    AtMostOneTrueRule,
    ComparisonConsistencyRule,
    ConsistencyRule,
    ExactlyOneTrueRule,
    IdenticalTextRule,
)
from icm.examples import ICMDataset, LabelSpace
from icm.search.opposites import opposites, together


def judged(dataset: ICMDataset, rule: ConsistencyRule, odds: list[float], known: Collection[int] = ()) -> list[float]:
    """Log-odds of True, from those of each answer."""
    index = LogicalConsistencyChecker([rule, IdenticalTextRule()]).index(dataset)
    rows = {p: over_labels(np.array([[value, 0.0]]))[0] for p, value in enumerate(odds)}
    found = together(rows, opposites(index, dataset.label_space, known))
    return [float(found[p][0] - found[p][1]) for p in range(len(odds))]


@given(st.floats(-9, 9), st.floats(-9, 9))
def test_of_two_claims_it_is_by_how_much_one_is_likelier(one: float, other: float) -> None:
    expected = [one - other, other - one]
    assert judged(groups(1, 2), ExactlyOneTrueRule(), [one, other]) == pytest.approx(expected, abs=1e-9)


def test_inverse_pairs_are_told_by_their_relation() -> None:
    dataset, odds = pairs(3), [1.0, 2.0, -1.0, 0.5, 0.0, -4.0]
    found = judged(dataset, ComparisonConsistencyRule(), odds)
    for place, example in enumerate(dataset):
        other = next(p for p, e in enumerate(dataset) if e.id == example.relations.inverse)
        assert found[place] == pytest.approx(odds[place] - odds[other])


@pytest.mark.parametrize(
    ("size", "rule", "known"),
    [
        (2, AtMostOneTrueRule(), ()),  # both may be False
        (2, IdenticalTextRule(), ()),
        (3, ExactlyOneTrueRule(), ()),
        (2, ExactlyOneTrueRule(), (1,)),  # the trusted label of one decides the other
    ],
)
def test_other_examples_are_judged_by_their_own_answers(
    size: int, rule: ConsistencyRule, known: tuple[int, ...]
) -> None:
    odds = [1.0, 2.0, -1.0][:size]
    assert judged(groups(1, size), rule, odds, known) == pytest.approx(odds)


def test_labels_of_three_names_have_no_opposite() -> None:
    dataset = ICMDataset(pairs(2).examples, LabelSpace(("True", "False", "Neither")))
    assert opposites(LogicalConsistencyChecker([ComparisonConsistencyRule()]).index(dataset), dataset.label_space) == {}
