"""Which labels somebody should look at: those that would help the search most, no two of them nearly the same text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icm.errors import ConfigError
from icm.examples import ICMExample
from icm.results.format import ICMResult, LabeledExample
from icm.text import words

By = Literal["uncertainty", "influence", "random"]
SAME = 0.6
"""Share of words (Jaccard) from which on two texts are near-duplicates."""
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

        held = [words(text) for text in texts]
        everywhere = set.intersection(*held) if len(held) > 1 else set[str]()
        column = {word: number for number, word in enumerate(sorted(set[str]().union(*held) - everywhere))}
        places = [sorted(column[word] for word in found - everywhere) for found in held]
        self._sizes = np.array([len(found) for found in places])
        starts = np.concatenate([[0], np.cumsum(self._sizes)])
        flat = np.array([place for found in places for place in found], dtype=np.int64)
        self._words = csr_array((np.ones(len(flat)), flat, starts), shape=(len(texts), max(1, len(column))))

    def row(self, place: int) -> NDArray[np.float64]:
        """Likeness of one text to all, 0 to itself."""
        shared = (self._words[place : place + 1] @ self._words.T).toarray()[0]
        union = self._sizes[place] + self._sizes - shared
        alike = np.where(union > 0, shared / np.maximum(union, 1), 1.0)
        alike[place] = 0.0
        return np.asarray(alike)


def questions(result: ICMResult, count: int, by: By, seed: int = 0) -> list[Question]:
    """At most `count` examples to ask about, none of them trusted already, none nearly the same text as one before.

    Args:
        result: found labels.
        count: examples wanted.
        by: `uncertainty`: those whose label's log-odds are nearest to 0. `influence`: those that the others are surest
            of: they are the core of what was found, and if they are wrong, so is most of it. `random`: drawn.
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
    order = _drawn(len(items), seed) if by == "random" else _by_odds(result, by)
    found, alike = list[Question](), np.zeros(len(items))
    for place, why in order:
        if len(found) == count:
            break
        if not items[place].trusted and alike[place] < SAME:
            found.append(Question(items[place], why))
            alike = np.maximum(alike, likeness.row(place))
            alike[place] = 1.0
    return found


def _by_odds(result: ICMResult, by: By) -> Iterator[tuple[int, str]]:
    odds = {place: item.log_odds for place, item in enumerate(result.labeled_examples)}
    known = {place: value for place, value in odds.items() if value is not None}
    if not known:
        raise ConfigError(
            f"{result.file or 'the result'}: no model scored its labels, so none is more or less certain than another; "
            "ask --by random"
        )
    word = "uncertain" if by == "uncertainty" else "influential"
    for place in sorted(known, key=lambda place: abs(known[place]) if by == "uncertainty" else -known[place]):
        chance = 0.5 * (1 + np.tanh(known[place] / 2))
        yield place, f"{word}: p = {chance:.2f} given other labels (log-odds {known[place]:+.2f})"


def _drawn(count: int, seed: int) -> Iterator[tuple[int, str]]:
    for place in np.random.default_rng([seed, _RANDOM]).permutation(count):
        yield int(place), f"random, seed {seed}"


COLUMNS = ("id", "text", "found", "why", "label")
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for a formula; not behind a blank, which reading takes off again."""


def question_rows(found: Sequence[Question], result: ICMResult) -> list[dict[str, str]]:
    """The questions as rows of a table whose last column is to be filled: the text alone where the data have one, else
    the whole input. Behind them stand the labels that the result was given, so that the next run is given them too."""
    given = [Question(item, "given before") for item in result.labeled_examples if item.trusted]
    labels = [""] * len(found) + [question.item.label for question in given]
    cells = ((q.item.example.id, _shown(q.item.example), q.item.label, q.why) for q in [*found, *given])
    return [dict(zip(COLUMNS, (*row, label), strict=True)) for row, label in zip(cells, labels, strict=True)]


def _shown(example: ICMExample) -> str:
    text = example.metadata.get("text")
    shown = text if isinstance(text, str) and text in example.input else example.input
    return f" {shown}" if shown.startswith(FORMULA) else shown
