"""Texts with two equally coherent concepts, tone and topic, and a reader who learns from demonstrations' words."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from icm.engines.accounting import AccountingEngine
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.prompts import SEPARATOR, PromptTree

TONES = (("lovely", "superb", "charming", "splendid"), ("dreadful", "awful", "boring", "horrid"))
TOPICS = (("film", "actor", "scene", "cinema"), ("soup", "waiter", "menu", "kitchen"))
SPACE = LabelSpace(("first", "second"), (" first", " second"))


def two_concepts(size: int = 64, seed: int = 0) -> tuple[ICMDataset, dict[str, str], dict[str, str]]:
    """Texts of two words of tone and two of topic, and the labels of both concepts by example id."""
    rng = np.random.default_rng(seed)
    texts: dict[str, tuple[int, int]] = {}
    while len(texts) < size:
        for tone, topic in product((0, 1), (0, 1)):
            words = [*rng.choice(TONES[tone], 2, replace=False), *rng.choice(TOPICS[topic], 2, replace=False)]
            texts.setdefault(f"Note: {' '.join(map(str, rng.permutation(words)))}\nGroup:", (tone, topic))
    examples = {ICMExample(text).id: (ICMExample(text), kinds) for text, kinds in list(texts.items())[:size]}
    by_tone, by_topic = ({key: SPACE.labels[kinds[n]] for key, (_, kinds) in examples.items()} for n in (0, 1))
    return ICMDataset([example for example, _ in examples.values()], SPACE, "salience"), by_tone, by_topic


class Reader(AccountingEngine):
    """Learns in context: the more demonstrations of a label share words, or words that come with them, with the query,
    the likelier the label. What words come together the reader knows before, as a language model does."""

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> Any:
        """See `Engine.score`."""
        scores = super().score(tree, label_ids)
        decode: Any = self.tokenizer
        words = [decode.decode(token).strip() for token in label_ids]
        for row, path in tree.paths():
            *shown, query = decode.decode(list(path)).split(SEPARATOR)
            votes = np.zeros(len(words))
            for demonstration in shown:
                text, _, label = demonstration.rpartition(" ")
                votes[words.index(label)] += _alike(text, query)
            scores[row] = votes - np.logaddexp.reduce(votes)
        return scores


def _kinds(text: str) -> np.ndarray:
    found = {*text.replace("\n", " ").split()}
    return np.array([np.sign(len(found & {*a}) - len(found & {*b})) for a, b in (TONES, TOPICS)])


def _alike(text: str, other: str) -> float:
    return float(0.5 * _kinds(text) @ _kinds(other))
