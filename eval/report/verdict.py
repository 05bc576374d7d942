"""What is told in words: what labels that the model found itself are worth beside none and beside true ones, and which
answers are the wrong way round."""

from collections.abc import Sequence

from eval.scores import ConditionScores, Evaluation
from icm.files import JsonObject

_HOW = {"fine-tuned": "fine-tuned on", "many-shot": "shown"}


def verdict(evaluation: Evaluation) -> str | None:
    """A sentence on found labels, from the fine-tuned conditions where there are any, else from the many-shot ones; on
    plain and chat answers where these are all. One more for each condition that is right on less than half of the
    items, beyond doubt. None where there is nothing to say."""
    sentences = [_found(evaluation) or _without_labels(evaluation), *_swapped(evaluation)]
    return " ".join(filter(None, sentences)) or None


def _found(evaluation: Evaluation) -> str | None:
    conditions = evaluation.conditions
    for kind, how in _HOW.items():
        # The last such condition: experiments list the search behind cheaper labelers.
        found = next((c for c in reversed(conditions) if c.kind == kind and c.config.labels_from == "labels"), None)
        if found is not None and (plain := evaluation.plain(found)) is not None:
            gap = evaluation.gaps.get(found.name)
            given = evaluation.experiment.given(found.config)
            own = "labels that it found itself" + (f" and {given} given ones" if given else "")
            said = f"{_plainly(plain, conditions)}; {how} {own}, on {found.headline.value:.0%} ({found.name})"
            return said + ("." if gap is None else _beside_golden(gap, conditions))
    return None


def _without_labels(evaluation: Evaluation) -> str | None:
    conditions = evaluation.conditions
    plain = next((c for c in conditions if c.kind == "zero-shot"), None)
    alone = plain is not None and all(c.kind in ("zero-shot", "chat") for c in conditions)
    return f"{_plainly(plain, conditions)}." if plain is not None and alone else None


def _swapped(evaluation: Evaluation) -> list[str]:
    if len(evaluation.experiment.label_space.labels) != 2:
        return []
    return [
        f"{c.name} is right on less than half of them: what it tells apart has the names swapped, or is something else."
        for c in evaluation.conditions
        if c.headline.high < 0.5
    ]


def _plainly(plain: ConditionScores, conditions: Sequence[ConditionScores]) -> str:
    chat = next((c for c in conditions if c.kind == "chat" and c.base == plain.base), None)
    as_chat = f", in its chat format on {chat.headline.value:.0%}" if chat else ""
    return (
        f"Asked plainly, the model is right on {plain.headline.value:.0%} of {len(plain.gold)} held-out items{as_chat}"
    )


def _beside_golden(gap: JsonObject, conditions: Sequence[ConditionScores]) -> str:
    best = next(c for c in conditions if c.name == gap["to"]).headline.value
    if gap["value"] is None:
        return f". True labels give {best:.0%}, not better beyond doubt: here labels have nothing to show."
    return f"; true labels of the same examples give {best:.0%}."
