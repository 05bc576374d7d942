"""Which labels somebody should look at: those that would help the search most, no two of them nearly the same text."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icm.errors import ConfigError
from icm.results.format import ICMResult, LabeledExample

By = Literal["uncertainty", "influence", "random"]
SAME = 0.6
"""Share of words (Jaccard) from which on two texts are near-duplicates."""
NEIGHBOURS = 5
"""The texts most like a text that count as its neighbours."""
_AT_ONCE = 1024
_RANDOM = 2**40 + 5  # a stream of randomness that no search draws from


@dataclass(frozen=True)
class Question:
    """An example whose label is asked for, and why."""

    item: LabeledExample
    why: str


class Likeness:
    """How alike texts are: the share of their words that they have in common (Jaccard), without words that all have.

    Args:
        texts: of the examples.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from scipy.sparse import csr_array  # a second that other commands need not spend

        words = [{*re.findall(r"\w+", text.lower())} for text in texts]
        everywhere = set.intersection(*words) if len(words) > 1 else set[str]()
        column = {word: number for number, word in enumerate(sorted(set().union(*words) - everywhere))}
        places = [sorted(column[word] for word in found - everywhere) for found in words]
        self._sizes = np.array([len(found) for found in places])
        starts = np.concatenate([[0], np.cumsum(self._sizes)])
        flat = np.array([place for found in places for place in found], dtype=np.int64)
        self._words = csr_array((np.ones(len(flat)), flat, starts), shape=(len(texts), max(1, len(column))))

    def rows(self, first: int, last: int) -> NDArray[np.float64]:
        """Likeness of texts `first` up to `last` to all texts, [last - first, texts]; 0 to themselves."""
        shared = (self._words[first:last] @ self._words.T).toarray()
        union = self._sizes[first:last, None] + self._sizes[None, :] - shared
        alike = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
        alike[np.arange(last - first), np.arange(first, last)] = 0.0
        return np.asarray(alike)

    def row(self, place: int) -> NDArray[np.float64]:
        """Likeness of one text to all."""
        return np.asarray(self.rows(place, place + 1)[0])

    @cached_property
    def nearest(self) -> NDArray[np.intp]:
        """The `NEIGHBOURS` texts most like each, the first of equal ones, [texts, neighbours]."""
        count, size = len(self._sizes), min(NEIGHBOURS, len(self._sizes) - 1)
        blocks = (self.rows(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))
        return np.concatenate([np.argsort(-block, axis=1, kind="stable")[:, :size] for block in blocks])


def questions(result: ICMResult, count: int, by: By, seed: int = 0) -> list[Question]:
    """At most `count` examples to ask about, none of them trusted already, none nearly the same text as one before.

    Args:
        result: found labels.
        count: examples wanted.
        by: `uncertainty`: whose label's log-odds are nearest to 0. `influence`: which are among the texts most like
            most others, those left out that an earlier one is among already; the log-odds say nothing there.
            `random`: drawn, which alone gives an estimate of all.
        seed: of the draw.

    Raises:
        ConfigError: nothing is left to ask about, or there are no log-odds to go by.
    """
    items = result.labeled_examples
    if count < 1:
        raise ConfigError(f"--count: found {count}, expected at least 1")
    if all(item.trusted for item in items):
        raise ConfigError(f"{result.file or 'the result'}: all its labels are trusted; nothing is left to ask about")
    likeness = Likeness([item.example.input for item in items])
    orders: dict[By, Callable[[], Iterator[tuple[int, str]]]] = {
        "uncertainty": lambda: _uncertain(result),
        "influence": lambda: _influential(likeness),
        "random": lambda: _drawn(len(items), seed),
    }
    found, alike = list[Question](), np.zeros(len(items))
    for place, why in orders[by]():
        if len(found) == count:
            break
        if not items[place].trusted and alike[place] < SAME:
            found.append(Question(items[place], why))
            alike = np.maximum(alike, likeness.row(place))
            alike[place] = 1.0
    return found


def _uncertain(result: ICMResult) -> Iterator[tuple[int, str]]:
    odds = {place: item.log_odds for place, item in enumerate(result.labeled_examples)}
    known = {place: value for place, value in odds.items() if value is not None}
    if not known:
        raise ConfigError(
            f"{result.file or 'the result'}: no model scored its labels, so none is less certain than another; "
            "ask --by influence or random"
        )
    for place in sorted(known, key=lambda place: abs(known[place])):
        yield place, f"uncertain: p = {1 / (1 + np.exp(-known[place])):.2f} (log-odds {known[place]:+.2f})"


def _influential(likeness: Likeness) -> Iterator[tuple[int, str]]:
    """Greedy cover: each time the text that is a neighbour of most texts that have no chosen neighbour yet."""
    nearest = likeness.nearest
    serves: list[set[int]] = [set() for _ in nearest]
    for place, neighbours in enumerate(nearest):
        for neighbour in neighbours:
            serves[int(neighbour)].add(place)
    open_, left = set(range(len(nearest))), set(range(len(nearest)))
    while left:
        best = max(left, key=lambda place: (len(serves[place] & open_), len(serves[place]), -place))
        left.discard(best)
        total, new = len(serves[best]), len(serves[best] & open_)
        open_ -= {*serves[best], best}
        yield best, f"influential: among the {nearest.shape[1]} texts most like {total} others, {new} of them new"


def _drawn(count: int, seed: int) -> Iterator[tuple[int, str]]:
    for place in np.random.default_rng([seed, _RANDOM]).permutation(count):
        yield int(place), f"random, seed {seed}"


COLUMNS = ("id", "text", "found", "why", "label")


def question_rows(found: Sequence[Question]) -> list[dict[str, str]]:
    """The questions as rows of a table whose last column is to be filled."""
    cells = ((q.item.example.id, q.item.example.input, q.item.label, q.why, "") for q in found)
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]
