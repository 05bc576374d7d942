"""How many labels agree with gold.

Gold is read here, beside the search and never inside it: labels are judged after they were written.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """Agreement with gold.

    Attributes:
        correct: labels equal to gold.
        total: labels that have gold.
        low, high: Wilson score interval at 95 % of correct / total.
        majority: accuracy of giving every example the most frequent gold label.
    """

    correct: int
    total: int
    low: float
    high: float
    majority: float

    @property
    def value(self) -> float:
        """Share of correct labels."""
        return self.correct / self.total


def measure_accuracy(labels: Mapping[str, str], gold: Mapping[str, str]) -> Accuracy | None:
    """Agreement of labels with gold, both by example id; None if no labelled example has gold."""
    # Imported here: SciPy takes a second that commands without gold need not spend.
    from scipy.stats import binomtest

    pairs = [(label, gold[key]) for key, label in labels.items() if key in gold]
    if not pairs:
        return None
    correct = sum(label == truth for label, truth in pairs)
    # The interval alone is wanted; at p = k/n the test itself costs nothing.
    interval = binomtest(correct, len(pairs), correct / len(pairs)).proportion_ci(method="wilson")
    most = max(Counter(truth for _, truth in pairs).values())
    return Accuracy(correct, len(pairs), float(interval.low), float(interval.high), most / len(pairs))
