"""samples_<condition>.jsonl: one line an item and seed, as lm-evaluation-harness logs them."""

from collections.abc import Sequence

import numpy as np

from eval.scores import ConditionScores, Evaluation, Floats, ScoredRun
from icm.calibration import log_odds
from icm.examples import ICMExample
from icm.files import JsonObject, fingerprint


def sample_rows(evaluation: Evaluation, condition: ConditionScores) -> list[JsonObject]:
    """Rows of all seeds, each in held-out order."""
    gold = evaluation.experiment.data.gold
    return [
        _row(run, place, example, gold[example.id], condition.calibrations)
        for run in condition.runs
        for place, example in enumerate(evaluation.experiment.examples)
    ]


def _row(run: ScoredRun, place: int, example: ICMExample, gold: str, calibrations: Sequence[str]) -> JsonObject:
    answer = run.answers[place]
    row: JsonObject = {
        "doc_id": example.id,
        "doc": {"input": example.input, "group": example.group, **example.metadata},
        "target": gold,
        "seed": run.run.seed,
        "log_probs": answer.log_probs,
        "error": answer.error,
        "doc_hash": fingerprint([example.id, dict(example.metadata)]),
        "prompt_hash": answer.prompt_hash,
        "target_hash": fingerprint(gold),
    }
    for name in calibrations:
        label, log_probs = int(run.predictions(name)[place]), run.normalised(name)
        row[f"label,{name}"] = run.labels[label] if label >= 0 else None
        row[f"acc,{name}"] = float(label >= 0 and run.labels[label] == gold)
        row[f"log_odds,{name}"] = None if log_probs is None else _log_odds(log_probs[place], label)
    return row


def _log_odds(log_probs: Floats, label: int) -> float:
    """Of the predicted label against the others, in nats."""
    return float(log_odds(log_probs[None], np.array([label]))[0])
