"""One sentence of verdict: what labels that the model found itself are worth beside none and beside true ones."""

from collections.abc import Sequence

from eval.scores import ConditionScores, Evaluation
from icm.files import JsonObject

_HOW = {"fine-tuned": "fine-tuned on", "many-shot": "shown"}


def verdict(evaluation: Evaluation) -> str | None:
    """The sentence, from the fine-tuned conditions where there are any, else from the many-shot ones; None where the
    evaluation does not ask the model plainly, or not with found labels."""
    conditions = evaluation.conditions
    for kind, how in _HOW.items():
        # The last such condition: experiments list the search behind cheaper labelers.
        found = next((c for c in reversed(conditions) if c.kind == kind and c.config.labels_from == "labels"), None)
        if found is not None and (plain := evaluation.plain(found)) is not None:
            gap = evaluation.gaps.get(found.name)
            chat = next((c for c in conditions if c.kind == "chat" and c.base == plain.base), None)
            given = evaluation.experiment.given(found.config)
            own = "labels that it found itself" + (f" and {given} given ones" if given else "")
            said = _said(plain, chat, found, f"{how} {own}")
            return said + ("." if gap is None else _beside_golden(gap, conditions))
    return None


def _said(plain: ConditionScores, chat: ConditionScores | None, found: ConditionScores, how: str) -> str:
    items = f"{len(plain.gold)} held-out items"
    as_chat = f", in its chat format on {chat.headline.value:.0%}" if chat else ""
    return (
        f"Asked plainly, the model is right on {plain.headline.value:.0%} of {items}{as_chat}; "
        f"{how}, on {found.headline.value:.0%} ({found.name})"
    )


def _beside_golden(gap: JsonObject, conditions: Sequence[ConditionScores]) -> str:
    best = next(c for c in conditions if c.name == gap["to"]).headline.value
    if gap["value"] is None:
        return f". True labels give {best:.0%}, not better beyond doubt: here labels have nothing to show."
    return f"; true labels of the same examples give {best:.0%}."
