"""Whether labels are worth more than a coin's under demonstration orders that they were not found with."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["coherent", "weak", "nothing found"]
COHERENT_AGREEMENT = 0.9
"""Share of labels that fresh orders confirm in a coherent labelling: between what SmolLM2 shows on TruthfulQA, which it
does not know (0.86), and on reviews, which it does (0.94 and more). docs/results.md has them all."""
SIGNAL = 0.02
"""Nats over a coin's ln(1/labels) that labels have to be worth to say anything: SmolLM2 comparing numbers, which it
cannot, comes to 0.003, judging reviews to 0.08 and more."""


@dataclass(frozen=True)
class Coherence:
    """How well labels are predicted from one another.

    Attributes:
        verdict: in a word or two.
        coherence: mean ln p(label | others) over that of a coin, nats; 0 is a coin.
        low, high: its 95 % interval (Student's t over examples).
        agreement: share of the labels that are the likeliest under orders that were not used to find them.
    """

    verdict: Verdict
    coherence: float
    low: float
    high: float
    agreement: float


def coherence(labels: Collection[str], log_odds: Sequence[float], space: int) -> Coherence:
    """The coherence of found labels.

    Args:
        labels: of the examples.
        log_odds: ln p/(1-p) of each label given others, nats, under orders that they were not found with.
        space: number of labels there are.
    """
    from scipy.stats import t  # a second that other commands need not spend

    odds = np.array(log_odds)
    over_coin = -np.logaddexp(0.0, -odds) + math.log(space)
    mean, agreement, margin = float(over_coin.mean()), float((odds > 0).mean()), math.inf
    if len(odds) > 1:
        margin = float(t.ppf(0.975, len(odds) - 1) * over_coin.std(ddof=1)) / math.sqrt(len(odds))
    if mean - margin <= SIGNAL or len(set(labels)) < 2:
        return Coherence("nothing found", mean, mean - margin, mean + margin, agreement)
    verdict: Verdict = "coherent" if agreement >= COHERENT_AGREEMENT else "weak"
    return Coherence(verdict, mean, mean - margin, mean + margin, agreement)
