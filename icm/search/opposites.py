"""Pairs of examples of which the rules say that one is True: a model's answers to both judge each."""

from collections.abc import Collection, Mapping

from icm.calibration import Array, over_labels
from icm.consistency import ConsistencyIndex
from icm.examples import LabelSpace


def opposites(checks: ConsistencyIndex, space: LabelSpace, known: Collection[int] = ()) -> dict[int, int]:
    """Position → that of the other of its pair, where rules tie it to no further example and allow the two labels to
    stand either way round and no other. Pairs with an example whose label is `known` are left out.

    Larger groups are not judged together: of four claims three are False before a model is asked, so that log-odds
    given the rules would not be 0 for one that knows nothing.
    """
    found = dict[int, int]()
    for one, others in enumerate(checks.neighbours):
        if len(space.labels) == 2 and len(others) == 1 and not {one, *others} & {*known}:
            (other,) = others
            ways = [(a, b) for a in space.labels for b in space.labels]
            held = [a != b for a, b in ways if not checks.violations_of(one, {one: a, other: b})]
            if len(checks.neighbours[other]) == 1 and held == [True, True]:
                found[one] = other
    return found


def together(rows: Mapping[int, Array], pairs: Mapping[int, int]) -> dict[int, Array]:
    """Position → label log-probabilities, [labels], from position → those of each answer: for pairs, what both answers
    say if they are independent and one of the two is True. Log-odds of such a pair add up."""
    return {p: over_labels((row + rows[pairs[p]][::-1])[None])[0] if p in pairs else row for p, row in rows.items()}
