"""Whether found labels carry signal, judged without gold: by what the run itself has seen.

The log-odds of a result file were taken under demonstration orders that no search has used. Labels that only agree
with the order they were found with are worth a coin there, ln(1/labels), or less. What is coherent need not be what was
meant: a labelling that the length or a single word of the texts gives away is flagged.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from icm.results.coherence import Coherence, coherence
from icm.results.format import ICMResult, LabeledExample

CUE = 0.9
"""Agreement (balanced accuracy) of a surface cue with the labels that is flagged."""


@dataclass(frozen=True)
class Trust(Coherence):
    """What speaks for found labels.

    Attributes:
        cue: the surface cue that gives most labels away, and its balanced accuracy against the labels.
    """

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
    if result.record.algorithm not in ("icm", "bootstrap", "auto") or len(items) < 2:
        return None
    labels, odds = [item.label for item in items], [item.log_odds for item in items if item.log_odds is not None]
    found = coherence(labels, odds, len(result.label_space.labels))
    return Trust(**vars(found), cue=surface_cue(items))


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
