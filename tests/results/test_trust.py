"""What speaks for labels without gold: a coin is told from signal, and surface cues are flagged."""

import numpy as np
import pytest

from icm.examples import ICMExample, LabelSpace
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.trust import judged


def result(odds: list[float], texts: list[str], labels: list[str], algorithm: str = "icm") -> ICMResult:
    items = [LabeledExample(ICMExample(t), label, o) for t, label, o in zip(texts, labels, odds, strict=True)]
    return ICMResult(items, None, LabelSpace(), "claims", RunRecord(algorithm=algorithm))


def texts(count: int) -> list[str]:
    """Of about one length, with no word in common that could tell labels apart."""
    return [f"claim {number:03d}" for number in range(count)]


ALTERNATING = ["True", "False"] * 32


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"), [(2.0, 0.8, "coherent"), (0.6, 0.8, "weak"), (0.0, 0.8, "nothing found")]
)
def test_signal_is_told_from_a_coin(mean: float, spread: float, verdict: str) -> None:
    odds = np.random.default_rng(0).normal(mean, spread, 64).tolist()
    trust = judged(result(odds, texts(64), ALTERNATING))
    assert trust is not None and trust.verdict == verdict
    expected = np.mean([np.log(1 / (1 + np.exp(-value))) for value in odds]) + np.log(2)
    assert trust.coherence == pytest.approx(expected)
    assert trust.low < trust.coherence < trust.high
    assert trust.agreement == np.mean(np.array(odds) > 0)
    assert not trust.flagged and verdict in str(trust)


def test_length_and_words_that_give_the_labels_away_are_flagged() -> None:
    long = [text + (" and so on and on" if number % 2 else "") for number, text in enumerate(texts(64))]
    worded = [text + (" north" if number % 2 else " south") for number, text in enumerate(texts(64))]
    for given, cue in ((long, "the length"), (worded, "the word 'north'")):
        trust = judged(result([2.0, 2.5] * 32, given, ALTERNATING))
        assert trust is not None and trust.flagged and trust.cue == (cue, 1.0)
        assert f"{cue} alone gives 100% of them away" in str(trust)


def test_collapsed_labels_are_nothing_and_unjudged_ones_are_not_judged() -> None:
    trust = judged(result([3.0] * 64, texts(64), ["True"] * 64))
    assert trust is not None and trust.verdict == "nothing found"
    for algorithm in ("random", "zero-shot"):
        assert judged(result([2.0] * 64, texts(64), ALTERNATING, algorithm)) is None
