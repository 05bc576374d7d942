"""Whether found labels carry signal, judged without gold: by what the run itself has seen.

The log-odds of a result file were taken under demonstration orders that no search has used. Labels that only agree
with the order they were found with are worth a coin there, ln(1/labels), or less. What is coherent need not be what was
meant: a labelling that the length or a single word of the texts gives away is flagged, and one that judges questions
rather than their answers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from icm.results.coherence import Coherence, coherence
from icm.results.format import ICMResult, LabeledExample
from icm.text import words

CUE = 0.9
"""Agreement (balanced accuracy) of the length or a word with the labels that is flagged."""
QUESTION = 0.3
"""Share of the variance of preferences between questions that is flagged: models that label TruthfulQA's questions, all
answers true or all false by what it is about, come to 0.34 and more. docs/results.md has them all."""


@dataclass(frozen=True)
class Cue:
    """What can give labels away besides what they mean.

    Attributes:
        name: of the cue.
        share: of the labels that it gives away (balanced accuracy), or of the preferences that it explains.
        limit: of the share, from which on it is flagged.
        chance: the share that a cue has which says nothing.
        says: what the share is, as text.
    """

    name: str
    share: float
    limit: float = CUE
    chance: float = 0.5
    says: str = "gives {:.0%} of them away"

    @property
    def flagged(self) -> bool:
        """Whether the cue alone says enough of the labels to doubt what they mean."""
        return self.share >= self.limit

    @property
    def explained(self) -> float:
        """Share of the labels that the cue gives away beyond chance; 0 where it is not flagged."""
        return (self.share - self.chance) / (1 - self.chance) if self.flagged else 0.0

    def __str__(self) -> str:
        return f"{self.name} alone {self.says.format(self.share)}"


@dataclass(frozen=True)
class Trust(Coherence):
    """What speaks for found labels.

    Attributes:
        cue: the one that comes nearest to its limit, or farthest above it.
    """

    cue: Cue

    @property
    def support(self) -> float:
        """Share of the labels that unseen orders confirm and no flagged cue explains. It ranks labellings by how many
        are right, over tasks and models (docs/results.md)."""
        return self.agreement * (1 - self.cue.explained)

    def __str__(self) -> str:
        found = (
            f"{self.verdict}: P(D) is {self.coherence:+.2f} nats over a coin's [{self.low:+.2f}, {self.high:+.2f}], "
            f"{self.agreement:.0%} of the labels confirmed under unseen orders"
        )
        if self.verdict == "nothing found":
            found += "; the model cannot tell, or tells otherwise each time: do not train on these labels"
        return f"{found}; {self.cue}, which leaves {self.support:.0%}" if self.cue.flagged else found


def judged(result: ICMResult) -> Trust | None:
    """What speaks for the labels; None where no model has judged them in context (random and zero-shot labels)."""
    items = [item for item in result.labeled_examples if item.log_odds is not None]
    if result.record.algorithm not in ("icm", "bootstrap", "auto") or len(items) < 2:
        return None
    labels, odds = [item.label for item in items], [item.log_odds for item in items if item.log_odds is not None]
    found = coherence(labels, odds, len(result.label_space.labels))
    return Trust(**vars(found), cue=surface_cue(items))


def surface_cue(items: Sequence[LabeledExample]) -> Cue:
    """The cue for the most frequent label that comes nearest to its limit: the length, a word that is there or not, or
    the question."""
    most = Counter(item.label for item in items).most_common(1)[0][0]
    target = np.array([item.label == most for item in items])
    if target.all():
        return Cue("nothing", 0.5)
    texts = [item.example.input for item in items]
    found = [Cue("the length", _best_split(np.array([len(text) for text in texts], dtype=float), target))]
    held = [words(text) for text in texts]
    for word in sorted(set[str]().union(*held)):
        found.append(Cue(f"the word {word!r}", _balanced(np.array([word in some for some in held]), target)))
    preferences = np.array([item.log_odds for item in items], dtype=float) * np.where(target, 1, -1)
    between = _between(preferences, [item.example.group for item in items])
    found.append(Cue("the question", between, QUESTION, 0.0, "explains {:.0%} of what the model prefers"))
    return max(found, key=lambda cue: cue.share - cue.limit)


def _between(values: np.ndarray, groups: Sequence[str]) -> float:
    """Intraclass correlation ICC(1) (Shrout and Fleiss 1979, sizes as they are): the share of the variance that lies
    between groups. 0 where most values are alone in theirs, all are the same, or chance does as much in one of 100
    draws (F test)."""
    from scipy.stats import f  # a second that other commands need not spend

    counts = Counter(groups)
    several = [place for place, group in enumerate(groups) if counts[group] > 1]
    names, member = np.unique([groups[place] for place in several], return_inverse=True)
    if len(names) < 2 or 2 * len(several) < len(groups) or np.ptp(values[several]) == 0:
        return 0.0
    held, sizes, freedom = values[several], np.bincount(member), (len(names) - 1, len(several) - len(names))
    means = np.bincount(member, held) / sizes
    between = float(sizes @ (means - held.mean()) ** 2) / freedom[0]
    within = float(((held - means[member]) ** 2).sum()) / freedom[1]
    if between < f.ppf(0.99, *freedom) * within:
        return 0.0
    size = (len(held) - float(sizes @ sizes) / len(held)) / freedom[0]
    return (between - within) / (between + (size - 1) * within)


def _best_split(values: np.ndarray, target: np.ndarray) -> float:
    return max(_balanced(values >= value, target) for value in np.unique(values))


def _balanced(cue: np.ndarray, target: np.ndarray) -> float:
    """Balanced accuracy of a cue, whichever way round."""
    found = fmean([cue[target].mean(), 1 - cue[~target].mean()])
    return max(found, 1 - found)
