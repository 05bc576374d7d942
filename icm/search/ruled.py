"""What a model's answers say of a label once the rules count: of two claims of which one is True, it is by how much one
is likelier than the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from icm.calibration import Array, over_labels
from icm.consistency import ConsistencyIndex
from icm.examples import LabelSpace

MOST = 1024
"""Labellings of related examples that are looked at; more related ones are judged one by one."""


@dataclass(frozen=True)
class Related:
    """Examples that rules tie together.

    Attributes:
        members: their positions.
        allowed: [labellings, members], label numbers: all labellings that keep the rules.
    """

    members: tuple[int, ...]
    allowed: NDArray[np.intp]

    def given_rules(self, rows: Array) -> Array:
        """Label log-probabilities, given that the rules hold, of answers that were independent, [members, labels].

        What the rules say without a model (three claims of four are False) is taken out, so that a model that does not
        tell the members apart is worth a coin.
        """
        from scipy.special import logsumexp  # a second that other commands need not spend

        each = np.arange(len(self.members))
        weights = rows[each, self.allowed].sum(axis=1)
        found = np.empty_like(rows)
        for label in range(rows.shape[1]):
            has = self.allowed == label
            found[:, label] = [logsumexp(weights[has[:, m]]) - np.log(has[:, m].sum()) for m in each]
        return over_labels(found)


def related(checks: ConsistencyIndex, space: LabelSpace) -> list[Related]:
    """The examples that have others to agree with, but where those are too many (`MOST`) or a label can never hold."""
    found, seen = list[Related](), set[int]()
    for start in range(len(checks.neighbours)):
        if start in seen:
            continue
        members = _connected(start, checks.neighbours)
        seen.update(members)
        if len(members) > 1 and len(space.labels) ** len(members) <= MOST:
            allowed = np.array(_allowed(members, checks, space), dtype=np.intp).reshape(-1, len(members))
            if all((allowed == label).any(axis=0).all() for label in range(len(space.labels))):
                found.append(Related(members, allowed))
    return found


def _connected(start: int, neighbours: Sequence[Sequence[int]]) -> tuple[int, ...]:
    found, ahead = {start}, [start]
    while ahead:
        new = set(neighbours[ahead.pop()]) - found
        found |= new
        ahead += new
    return tuple(sorted(found))


def _allowed(members: Sequence[int], checks: ConsistencyIndex, space: LabelSpace) -> list[tuple[int, ...]]:
    ways = product(range(len(space.labels)), repeat=len(members))

    def keeps_rules(way: Sequence[int]) -> bool:
        labels = {member: space.labels[label] for member, label in zip(members, way, strict=True)}
        return not any(checks.violations_of(member, labels) for member in members)

    return [way for way in ways if keeps_rules(way)]


def given_rules(rows: Mapping[int, Array], found: Sequence[Related]) -> dict[int, Array]:
    """Position → label log-probabilities, those of related examples given the rules."""
    said = dict(rows)
    for some in found:
        if rows.keys() >= {*some.members}:
            said.update(zip(some.members, some.given_rules(np.array([rows[p] for p in some.members])), strict=True))
    return said
