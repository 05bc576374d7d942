"""The built-in `reviews` data set keeps what its users rely on: size, balance, distinct texts, a fair split,
and sentiment said mostly in plain words, as real customers do."""

import json
import re
from collections import Counter
from itertools import combinations, groupby, pairwise
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import icm.tasks.builtin

Review = dict[str, str]

LABELS = ("positive", "negative")
MAX_OVERLAP = 0.6
SCREEN_TOPICS = {"film", "documentary", "series"}


@pytest.fixture(scope="module")
def reviews() -> list[Review]:
    path = Path(icm.tasks.builtin.__file__).with_name("reviews.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def overlap(first: frozenset[str], second: frozenset[str]) -> float:
    """Jaccard index of two word sets."""
    return len(first & second) / len(first | second)


def test_every_row_has_the_four_fields_and_nothing_else(reviews: list[Review]) -> None:
    for number, row in enumerate(reviews, start=1):
        assert list(row) == ["text", "label", "split", "topic"], f"line {number}"
        assert row["label"] in LABELS and row["split"] in ("train", "test"), f"line {number}"
        assert all(isinstance(value, str) and value == value.strip() != "" for value in row.values()), f"line {number}"


def test_size_and_balance_of_each_split(reviews: list[Review]) -> None:
    counts = Counter((row["split"], row["label"]) for row in reviews)
    assert counts["train", "positive"] == counts["train", "negative"] == 120
    assert counts["test", "positive"] == counts["test", "negative"] >= 100


def test_topics_are_mixed_and_say_nothing_about_label_or_split(reviews: list[Review]) -> None:
    counts = Counter((row["topic"], row["label"], row["split"]) for row in reviews)
    topics = {row["topic"] for row in reviews}
    assert len(topics) >= 15
    for topic in topics:
        for split in ("train", "test"):
            assert counts[topic, "positive", split] == counts[topic, "negative", split] > 0, f"{topic}, {split}"
    assert 0.3 < sum(row["topic"] in SCREEN_TOPICS for row in reviews) / len(reviews) < 0.4


def test_texts_are_distinct_within_and_across_splits(reviews: list[Review]) -> None:
    pairs = combinations([(row["text"], words(row["text"])) for row in reviews], 2)
    close = [(a, b) for (a, a_words), (b, b_words) in pairs if overlap(a_words, b_words) >= MAX_OVERLAP]
    assert close == []


def test_texts_are_short_and_never_name_their_label(reviews: list[Review]) -> None:
    for row in reviews:
        assert 5 <= len(row["text"].split()) <= 46, row["text"]
        assert not re.search("|".join(LABELS), row["text"], flags=re.IGNORECASE), row["text"]


def test_row_order_does_not_reveal_the_label(reviews: list[Review]) -> None:
    labels = [row["label"] for row in reviews]
    longest_run = max(len(list(run)) for _, run in groupby(labels))
    changes = sum(first != second for first, second in pairwise(labels))
    assert longest_run <= 15
    assert 0.4 < changes / (len(labels) - 1) < 0.6


def test_length_does_not_reveal_the_label(reviews: list[Review]) -> None:
    """No threshold on the word count, in either direction, labels more than 60 % correctly."""
    lengths = [(len(row["text"].split()), row["label"] == "positive") for row in reviews]
    shares = [sum((n > cut) == positive for n, positive in lengths) / len(lengths) for cut in range(5, 47)]
    assert max(max(share, 1 - share) for share in shares) <= 0.6


def test_sentiment_is_plain_in_most_reviews_but_not_in_all(reviews: list[Review]) -> None:
    """Words alone, learnt on the train split, label most test reviews; some need irony or negation understood."""
    train, test = ([row for row in reviews if row["split"] == split] for split in ("train", "test"))
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    assert 0.75 <= model.score([row["text"] for row in test], [row["label"] for row in test]) <= 0.95
