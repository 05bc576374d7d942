"""Whether found labels carry signal, judged without gold: by what the run itself has seen.

The log-odds of a result file were taken under demonstration orders that no search has used. Labels that only agree
with the order they were found with are worth a coin there, ln(1/labels), or less. What is coherent need not be what was
meant: a labelling that the length or a single word of the texts gives away is flagged.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from icm.calibration import SIGNAL
from icm.results.format import ICMResult, LabeledExample

COHERENT_AGREEMENT = 0.9
"""Share of labels that fresh orders confirm in a coherent labelling: between what SmolLM2 shows on TruthfulQA, which it
does not know (0.86), and on reviews, which it does (0.94 and more). README's table of verdicts has them all."""
CUE = 0.9
"""Agreement (balanced accuracy) of a surface cue with the labels that is flagged."""


@dataclass(frozen=True)
class Trust:
    """What speaks for found labels.

    Attributes:
        verdict: `coherent`, `weak` or `nothing found`.
        coherence: mean ln p(label | others) over that of a coin, nats; 0 is a coin.
        low, high: its 95 % interval (Student's t over examples).
        agreement: share of the labels that are the likeliest under orders that were not used to find them.
        cue: the surface cue that gives most labels away, and its balanced accuracy against the labels.
    """

    verdict: str
    coherence: float
    low: float
    high: float
    agreement: float
    cue: tuple[str, float]

    @property
    def flagged(self) -> bool:
        """Whether the cue alone nearly gives the labels."""
        return self.cue[1] >= CUE

    def __str__(self) -> str:
        found = (
            f"{self.verdict}: P(D) is {self.coherence:+.2f} nats over a coin's [{self.low:+.2f}, {self.high:+.2f}], "
            f"{self.agreement:.0%} of the labels confirmed under unseen orders"
        )
        if self.verdict == "nothing found":
            found += "; the model cannot tell, or tells otherwise each time: do not train on these labels"
        return f"{found}; {self.cue[0]} alone gives {self.cue[1]:.0%} of them away" if self.flagged else found


def judged(result: ICMResult) -> Trust | None:
    """What speaks for the labels; None where no model has judged them in context (random and zero-shot labels)."""
    items = [item for item in result.labeled_examples if item.log_odds is not None]
    if result.record.algorithm not in ("icm", "bootstrap") or len(items) < 2:
        return None
    odds = np.array([item.log_odds for item in items])
    over_coin = -np.logaddexp(0.0, -odds) + math.log(len(result.label_space.labels))
    mean, spread = float(over_coin.mean()), float(over_coin.std(ddof=1)) / math.sqrt(len(items))
    margin = _t(len(items) - 1) * spread
    agreement = float((odds > 0).mean())
    return Trust(
        _verdict(mean - margin, agreement, len({item.label for item in items})),
        mean,
        mean - margin,
        mean + margin,
        agreement,
        surface_cue(items),
    )


def _verdict(low: float, agreement: float, labels: int) -> str:
    if low <= SIGNAL or labels < 2:
        return "nothing found"
    return "coherent" if agreement >= COHERENT_AGREEMENT else "weak"


def _t(freedom: int) -> float:
    from scipy.stats import t  # a second that other commands need not spend

    return float(t.ppf(0.975, freedom))


def surface_cue(items: Sequence[LabeledExample]) -> tuple[str, float]:
    """The cue (length, or a word that is there or not) that is best at telling the most frequent label from the others,
    and its balanced accuracy."""
    most = Counter(item.label for item in items).most_common(1)[0][0]
    target = np.array([item.label == most for item in items])
    if target.all():
        return "nothing", 0.5
    texts = [item.example.input for item in items]
    found = {"the length": _best_split(np.array([len(text) for text in texts], dtype=float), target)}
    words = [set(re.findall(r"\w+", text.lower())) for text in texts]
    for word in sorted(set().union(*words)):
        found[f"the word {word!r}"] = _balanced(np.array([word in held for held in words]), target)
    return max(found.items(), key=lambda entry: entry[1])


def _best_split(values: np.ndarray, target: np.ndarray) -> float:
    return max(_balanced(values >= value, target) for value in np.unique(values))


def _balanced(cue: np.ndarray, target: np.ndarray) -> float:
    """Balanced accuracy of a cue, whichever way round."""
    found = fmean([cue[target].mean(), 1 - cue[~target].mean()])
    return max(found, 1 - found)
