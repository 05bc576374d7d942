"""`evaluate` module: how good label probabilities are."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import roc_auc_score

_DESCRIPTION = """AUROC (macro one-vs-rest for more than two labels), Brier score (sum over labels of squared error,
halved for two labels, so that it is the usual binary score), and ECE (expected calibration error of the predicted label
over ten bins of equal width; Guo et al. 2017, arXiv 1706.04599)."""
BINS = 10


class ProbabilityQuality(evaluate.Metric):
    """auroc (None if gold has one class only), brier, ece."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int32")}
        )
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description="label probabilities", features=features
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, Any]:
        probabilities, gold = np.array(predictions), np.array(references)
        return {
            "auroc": _auroc(probabilities, gold),
            "brier": _brier(probabilities, gold),
            "ece": _ece(probabilities, gold),
        }


def _auroc(probabilities: Any, gold: Any) -> float | None:
    present = np.unique(gold)
    if len(present) < 2:
        return None
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(gold == 1, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(gold == label, probabilities[:, label]) for label in present]))


def _brier(probabilities: Any, gold: Any) -> float:
    target = np.eye(probabilities.shape[1])[gold]
    total = float(((probabilities - target) ** 2).sum(axis=1).mean())
    return total / 2 if probabilities.shape[1] == 2 else total


def reliability(probabilities: Any, gold: Any) -> list[tuple[float, float, int]]:
    """Per bin of the predicted label's probability: mean probability, accuracy, items. Empty bins are left out."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        (float(confidence[bins == k].mean()), float(right[bins == k].mean()), int((bins == k).sum()))
        for k in np.unique(bins)
    ]


def _ece(probabilities: Any, gold: Any) -> float:
    return sum(count * abs(mean - share) for mean, share, count in reliability(probabilities, gold)) / len(gold)
