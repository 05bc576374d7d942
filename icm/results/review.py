"""A page on which somebody looks at found labels and confirms or changes them: one file, no server, no network.

Texts stand in it as data and become text nodes, never markup; its policy lets no script and no style run but the page's
own, by their hashes, and fetches nothing.
"""

import base64
import hashlib
import re
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from markupsafe import Markup

from icm.errors import ConfigError
from icm.files import fingerprint
from icm.results.asking import By, Likeness, questions
from icm.results.format import ICMResult, LabeledExample

DISAGREEING = 3
"""Texts with another label that are shown beside one."""
_MOST_ALIKE, _LEAST_ALIKE = 20, 0.1
_RANDOM = 2**40 + 6  # a stream of randomness that no search draws from


@dataclass(frozen=True)
class Item:
    """One label to look at.

    Attributes:
        id, text, found: the example and its label.
        probability: of the label given others; None for labels that no model scored.
        random: whether it was drawn at random: what is right of these estimates what is right of all.
        disagree: label and text of the most alike examples that have another label.
    """

    id: str
    text: str
    found: str
    probability: float | None
    random: bool
    disagree: tuple[tuple[str, str], ...]


def review_items(result: ICMResult, count: int, seed: int = 0) -> list[Item]:
    """At most `count` labels that are not trusted yet, in turn one drawn at random and one of the least certain.

    Raises:
        ConfigError: all are trusted, or `count` is below 1.
    """
    by: By = "uncertainty" if any(item.log_odds is not None for item in result.labeled_examples) else "random"
    asked = [question.item for question in questions(result, count, by)]
    left = [item for item in result.labeled_examples if not item.trusted]
    places = np.random.default_rng([seed, _RANDOM]).permutation(len(left))[: -(-count // 2)]
    drawn = [left[int(place)] for place in places]
    known = {item.example.id for item in drawn}
    others = [item for item in asked if item.example.id not in known][: count - len(drawn)]
    turns = [item for item in chain.from_iterable(zip_longest(drawn, others)) if item is not None]
    alike = _Alike(result)
    return [_item(item, item.example.id in known, alike) for item in turns]


class _Alike:
    """Finds texts that are like one and have another label."""

    def __init__(self, result: ICMResult) -> None:
        self.items = result.labeled_examples
        self._likeness = Likeness([item.example.input for item in self.items])
        self._place = {item.example.id: place for place, item in enumerate(self.items)}

    def disagreeing(self, item: LabeledExample) -> tuple[tuple[str, str], ...]:
        row = self._likeness.row(self._place[item.example.id])
        nearest = np.argsort(-row, kind="stable")[:_MOST_ALIKE]
        found = [self.items[place] for place in nearest if row[place] >= _LEAST_ALIKE]
        return tuple((o.label, o.example.input) for o in found if o.label != item.label)[:DISAGREEING]


def _item(item: LabeledExample, random: bool, alike: _Alike) -> Item:
    odds = item.log_odds
    probability = None if odds is None else float(0.5 * (1 + np.tanh(odds / 2)))
    return Item(item.example.id, item.example.input, item.label, probability, random, alike.disagreeing(item))


def write_review(path: str | Path, result: ICMResult, count: int, seed: int = 0) -> int:
    """Write the page; returns the number of labels on it. Labels that are trusted already are in what it downloads.

    Raises:
        ConfigError: the path does not end in .html, or see `review_items`.
    """
    from icm.results.pages import write_page  # matplotlib takes a second

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output {path}: expected a file that ends in .html")
    items = review_items(result, count, seed)
    script, style = (Path(__file__).with_name(f"review.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    name = Path(result.file or result.task).stem
    data = {
        "items": [asdict(item) for item in items],
        "labels": result.label_space.labels,
        "trusted": [
            {"id": item.example.id, "text": item.example.input, "label": item.label}
            for item in result.labeled_examples
            if item.trusted
        ],
        "file": f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('.-') or 'labels'}.trusted.jsonl",
        "key": f"icm-review-{fingerprint([[item.id, item.found] for item in items])}",
    }
    write_page(
        Path(path),
        Path(__file__).with_name("review.html.jinja"),
        title=f"Labels of {name}",
        data=data,
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    return len(items)


def _hash(text: str) -> str:
    """The text as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
