"""What speaks for labels without gold: a coin is told from signal, and surface cues are flagged."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from icm.examples import ICMExample, LabelSpace, Relations
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.trust import Cue, _between, judged


def result(
    odds: list[float], texts: list[str], labels: list[str], algorithm: str = "icm", answers: int = 1
) -> ICMResult:
    """Labelled claims, so many to a question."""
    examples = [ICMExample(text, relations=Relations(group=f"{n // answers}")) for n, text in enumerate(texts)]
    items = [LabeledExample(e, label, o) for e, label, o in zip(examples, labels, odds, strict=True)]
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
    assert not trust.cue.flagged and verdict in str(trust)
    assert trust.support == trust.agreement, "what is not flagged explains nothing"


def test_length_and_words_that_give_the_labels_away_are_flagged() -> None:
    long = [text + (" and so on and on" if number % 2 else "") for number, text in enumerate(texts(64))]
    worded = [text + (" north" if number % 2 else " south") for number, text in enumerate(texts(64))]
    for given, cue in ((long, "the length"), (worded, "the word 'north'")):
        trust = judged(result([2.0, 2.5] * 32, given, ALTERNATING))
        assert trust is not None and trust.cue.flagged and trust.cue == Cue(cue, 1.0)
        assert f"{cue} alone gives 100% of them away, which leaves 0%" in str(trust) and trust.support == 0


def test_characters_and_signs_give_labels_away_where_no_spaces_part_words() -> None:
    for one, other in (("这家店很坏", "这家店很好"), ("so 😡 it is", "so 😊 it is")):
        same = [f"{(one, other)[number % 2]}{number:03d}" for number in range(64)]
        trust = judged(result([2.0, 2.5] * 32, same, ALTERNATING))
        assert trust is not None and trust.cue.flagged and trust.cue.share == 1


def test_labels_of_the_question_are_flagged_and_those_of_its_answers_are_not() -> None:
    by_question, within = (["True"] * 4 + ["False"] * 4) * 8, ["True", "False"] * 32
    mostly = [label if place % 8 else "False" for place, label in enumerate(by_question)]
    coin = np.random.default_rng(0).choice(["True", "False"], 64).tolist()
    for labels, flagged in ((by_question, True), (mostly, True), (within, False), (coin, False)):
        trust = judged(result([2.0, 2.5] * 32, texts(64), labels, answers=4))
        assert trust is not None and trust.cue.flagged == flagged == ("the question alone explains" in str(trust))
    most = judged(result([2.0, 2.0, 2.0, -0.1] * 16, texts(64), by_question, answers=4))
    assert most is not None and most.agreement == 0.75
    assert most.support == pytest.approx(0.75 * (1 - most.cue.share)) and 0.3 < most.cue.share < 0.9
    alone = judged(result([2.0, 2.5] * 32, texts(64), by_question))
    assert alone is not None and not alone.cue.flagged


def test_share_of_the_question_is_the_intraclass_correlation() -> None:
    # Shrout and Fleiss (1979), table 2: six targets, four judges; ICC(1) from F
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    values, groups = np.array(ratings, dtype=float).ravel(), [str(place // 4) for place in range(24)]
    assert _between(values, groups) == 0  # chance does as much: F is 1.79 with 5 and 18 degrees of freedom
    ratio = f_oneway(*ratings * 20).statistic
    many = _between(np.tile(values, 20), [f"{part} {group}" for part in range(20) for group in groups])
    assert many == pytest.approx((ratio - 1) / (ratio + 3)) and many > 0.1
    assert _between(np.array([0.1] * 6), list("aabbcc")) == 0
    assert _between(np.array([1.0, 1.1, -1.0, -1.1, *values]), list("aabbcdefghijklmnopqrstuvwxyz")) == 0  # few of many


def test_collapsed_labels_are_nothing_and_unjudged_ones_are_not_judged() -> None:
    trust = judged(result([3.0] * 64, texts(64), ["True"] * 64))
    assert trust is not None and trust.verdict == "nothing found"
    for algorithm in ("random", "zero-shot"):
        assert judged(result([2.0] * 64, texts(64), ALTERNATING, algorithm)) is None
