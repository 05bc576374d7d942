"""`evaluate` module: how far predicted labels agree with gold."""

from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score, recall_score

_DESCRIPTION = "Accuracy, balanced accuracy (mean recall) and macro-F1 of label positions; -1 is no answer, and wrong."


class LabelAgreement(evaluate.Metric):
    """accuracy, balanced_accuracy, macro_f1, each from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description="label positions", features=features
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, Any]:
        present = sorted(set(references))
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "balanced_accuracy": float(
                recall_score(references, predictions, labels=present, average="macro", zero_division=0)
            ),
            "macro_f1": float(f1_score(references, predictions, labels=present, average="macro", zero_division=0)),
        }
