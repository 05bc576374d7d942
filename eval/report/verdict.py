"""One sentence of verdict: what labels that the model found itself are worth beside none and beside true ones."""

from eval.scores import ConditionScores, Evaluation

_HOW = {"fine-tuned": "fine-tuned on", "many-shot": "shown"}


def verdict(evaluation: Evaluation) -> str | None:
    """The sentence, from the fine-tuned conditions where there are any, else from the many-shot ones; None where the
    evaluation does not ask the model plainly, or not with found labels."""
    conditions = evaluation.conditions
    plain = next((c for c in conditions if c.kind == "zero-shot" and not c.config.preamble), None)
    for kind, how in _HOW.items():
        found = _of(conditions, kind, "labels")
        if plain is not None and found is not None:
            return _sentence(plain, found, _of(conditions, kind, "gold"), how)
    return None


def _of(conditions: tuple[ConditionScores, ...], kind: str, source: str) -> ConditionScores | None:
    """The last such condition: experiments list the search behind cheaper labelers."""
    return next((c for c in reversed(conditions) if c.kind == kind and c.config.labels_from == source), None)


def _sentence(plain: ConditionScores, found: ConditionScores, golden: ConditionScores | None, how: str) -> str:
    before, after = plain.headline.value, found.headline.value
    said = (
        f"Asked plainly, the model is right on {before:.0%} of {len(plain.gold)} held-out items; "
        f"{how} labels that it found itself, on {after:.0%} ({found.name})"
    )
    if golden is None:
        return f"{said}."
    best = golden.headline.value
    if best - before < 0.02:  # within what small test sets cannot tell
        return f"{said}. True labels give {best:.0%}: on this task there is nothing for labels to add."
    share = (after - before) / (best - before)
    return f"{said}; true labels give {best:.0%}. That is {share:.0%} of what true labels would add."
