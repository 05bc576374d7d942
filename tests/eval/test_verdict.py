"""One sentence says what found labels are worth beside none and beside true ones."""

from types import SimpleNamespace as Plain
from typing import Any

import pytest

from eval.report.verdict import verdict


def condition(name: str, kind: str, value: float, source: str | None = None, base: str = "model") -> Any:
    config = Plain(labels_from=source, preamble=False)
    return Plain(
        name=name, kind=kind, config=config, headline=Plain(value=value, high=value + 0.1), gold=range(100), base=base
    )


def evaluation(conditions: list[Any], gaps: dict[str, Any], given: int = 0, labels: str = "ab") -> Any:
    plain = next((c for c in conditions if c.kind == "zero-shot"), None)
    experiment = Plain(given=lambda config: given, label_space=Plain(labels=labels))
    return Plain(conditions=conditions, gaps=gaps, plain=lambda condition: plain, experiment=experiment)


ZERO, GOLDEN = condition("Zero-shot Base", "zero-shot", 0.5), condition("Golden", "fine-tuned", 0.9, "gold")
FOUND = condition("ICM", "fine-tuned", 0.8, "labels")
CHAT = condition("Chat", "chat", 0.6)
OTHER = condition("Chat", "chat", 0.6, base="another model")
SHOWN = condition("M", "many-shot", 0.7, "labels")


@pytest.mark.parametrize(
    ("conditions", "share", "said"),
    [
        ([ZERO, FOUND, GOLDEN], 0.75, "on 80% (ICM); true labels of the same examples give 90%."),
        ([ZERO, CHAT, FOUND, GOLDEN], 0.75, "of 100 held-out items, in its chat format on 60%; fine-tuned on"),
        ([ZERO, OTHER, FOUND, GOLDEN], 0.75, "of 100 held-out items; fine-tuned on"),
        ([ZERO, SHOWN, FOUND, GOLDEN], 0.75, "fine-tuned on labels that it found itself, on 80% (ICM)"),
        ([ZERO, FOUND, GOLDEN], None, "True labels give 90%, not better beyond doubt"),
    ],
)
def test_the_verdict_is_one_sentence_of_figures(conditions: list[Any], share: float | None, said: str) -> None:
    gaps = {"ICM": {"to": "Golden", "value": share}}
    assert said in (verdict(evaluation(conditions, gaps)) or "")


def test_without_golden_it_says_what_was_found() -> None:
    said = verdict(evaluation([ZERO, SHOWN], {}))
    assert said is not None and said.endswith("shown labels that it found itself, on 70% (M).")


def test_labels_that_were_given_are_not_called_found() -> None:
    said = verdict(evaluation([ZERO, FOUND], {}, given=5))
    assert said is not None and "fine-tuned on labels that it found itself and 5 given ones, on 80%" in said


def test_plain_and_chat_answers_alone_are_told_and_what_is_the_wrong_way_round() -> None:
    swapped = condition("Zero-shot Chat", "chat", 0.3)
    assert verdict(evaluation([ZERO], {})) == "Asked plainly, the model is right on 50% of 100 held-out items."
    said = verdict(evaluation([ZERO, swapped], {})) or ""
    assert "items, in its chat format on 30%. Zero-shot Chat is right on less than half" in said
    assert "less than half" not in (verdict(evaluation([ZERO, swapped], {}, labels="abc")) or "")


@pytest.mark.parametrize("conditions", [[FOUND, GOLDEN], [ZERO, GOLDEN], []])
def test_without_both_sides_there_is_no_verdict(conditions: list[Any]) -> None:
    assert verdict(evaluation(conditions, {})) is None
