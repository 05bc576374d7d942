"""One sentence says what found labels are worth beside none and beside true ones."""

from types import SimpleNamespace as Plain
from typing import Any

import pytest

from eval.report.verdict import verdict


def condition(name: str, kind: str, value: float, source: str | None = None) -> Any:
    config = Plain(labels_from=source, preamble=False)
    return Plain(name=name, kind=kind, config=config, headline=Plain(value=value), gold=range(100))


ZERO, GOLDEN = condition("Zero-shot Base", "zero-shot", 0.5), condition("Golden", "fine-tuned", 0.9, "gold")
FOUND = condition("ICM", "fine-tuned", 0.8, "labels")


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([ZERO, FOUND, GOLDEN], "on 80% (ICM); true labels give 90%. That is 75% of what true labels would add."),
        ([ZERO, condition("M", "many-shot", 0.7, "labels"), FOUND, GOLDEN], "on 80% (ICM); true labels give 90%."),
        ([ZERO, condition("M", "many-shot", 0.7, "labels")], "shown labels that it found itself, on 70% (M)."),
        ([condition("Z", "zero-shot", 0.89), FOUND, GOLDEN], "on this task there is nothing for labels to add."),
    ],
)
def test_the_verdict_is_one_sentence_of_figures(conditions: list[Any], said: str) -> None:
    assert said in (verdict(Plain(conditions=conditions)) or "")  # type: ignore[arg-type]


@pytest.mark.parametrize("conditions", [[FOUND, GOLDEN], [ZERO, GOLDEN], []])
def test_without_both_sides_there_is_no_verdict(conditions: list[Any]) -> None:
    assert verdict(Plain(conditions=conditions)) is None  # type: ignore[arg-type]
