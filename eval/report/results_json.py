"""results.json: lm-evaluation-harness's schema, and what it has no place for behind it."""

from dataclasses import asdict, fields
from datetime import UTC, datetime

import numpy as np

from eval.benchmarks.scores import BenchmarkScores
from eval.intervals import Estimate, accuracy
from eval.multiple_choice import MultipleChoiceRun
from eval.report.verdict import verdict
from eval.scores import ConditionScores, Evaluation
from eval.settings import EvalConfig, slug
from icm.config import WorkersConfig
from icm.files import JsonObject, file_sha256, fingerprint
from icm.provenance import git_revision, machine, package_versions

_SHORT = {"accuracy": "acc", "balanced_accuracy": "balanced_acc", "macro_f1": "macro_f1"}


def results(evaluation: Evaluation) -> JsonObject:
    """Content of results.json."""
    experiment, code = evaluation.experiment, git_revision()
    settings, by_slug = experiment.settings, {slug(c.name): c for c in evaluation.conditions}
    first = {name: c.runs[0] for name, c in by_slug.items()}
    chosen = {key: entry for run in evaluation.chosen for key, entry in _multiple_choice(run).items()}
    return {
        "results": {name: _condition_results(c) for name, c in by_slug.items()} | chosen | _harness(evaluation),
        "configs": {name: asdict(run.run.config) for name, run in first.items()},
        "versions": dict.fromkeys(by_slug, 1),
        "n-shot": {name: run.facts.get("shots", 0) for name, run in first.items()},
        "n-samples": {name: _sample_counts(c) for name, c in by_slug.items()},
        "higher_is_better": {name: {"acc": True, "brier": False, "ece": False} for name in by_slug},
        "config": {**_decisive(settings), "data": asdict(experiment.source)},
        "git_hash": code and str(code),
        "date": datetime.now(UTC).timestamp(),
        "task_hashes": {name: fingerprint(run.run.identity) for name, run in first.items()},
        "package_versions": package_versions(),
        "platform": machine(),
        "total_evaluation_time_seconds": round(evaluation.seconds, 2),
        "engine_starts": evaluation.engine_starts,
        "calibration": settings.calibration,
        "data_fingerprint": experiment.data.dataset.fingerprint,
        "label_files": {path: file_sha256(path) for path in experiment.label_files},
        "comparisons": evaluation.comparisons,
        "gap_recovered": evaluation.gaps,
        **({"benchmarks": [_benchmark(scores) for scores in evaluation.benchmarks]} if evaluation.benchmarks else {}),
        "verdict": verdict(evaluation),
        "notes": evaluation.notes,
    }


def _decisive(settings: EvalConfig) -> JsonObject:
    """The settings, without who answers, which decides nothing."""
    left_out = {field.name for field in fields(WorkersConfig)}
    return {name: value for name, value in asdict(settings).items() if name not in left_out}


def _condition_results(condition: ConditionScores) -> JsonObject:
    """One entry of `results`: `metric,filter` keys, where the filter is the calibration (`none` is raw)."""
    found: JsonObject = {"alias": condition.name}
    for name in condition.calibrations:
        metrics = condition.metrics(name)
        found |= _accuracy(name, accuracy(condition.correct(name).mean(axis=1), condition.groups))
        found |= {f"{_SHORT.get(key, key)},{name}": value for key, value in metrics.items() if key != "accuracy"}
        found[f"acc_seeds,{name}"] = condition.correct(name).mean(axis=0).tolist()
    if len(condition.runs) > 1:
        found["acc_seeds_std"] = float(np.std(condition.seed_accuracies, ddof=1))
    accuracies = [run.run.label_accuracy for run in condition.runs if run.run.label_accuracy is not None]
    if accuracies:
        found["demonstration_label_accuracy"] = accuracies
    return found | {"failures": condition.failures, "label_mass": _label_mass(condition), "usage": condition.usage()}


def _accuracy(name: str, estimate: Estimate) -> dict[str, float]:
    return {
        f"acc,{name}": estimate.value,
        f"acc_stderr,{name}": estimate.stderr,
        f"acc_ci95_low,{name}": estimate.low,
        f"acc_ci95_high,{name}": estimate.high,
    }


def _label_mass(condition: ConditionScores) -> float | None:
    """Mean probability that the model puts on any of the labels; small values mean the prompt does not ask for them."""
    found = [run.log_probs for run in condition.runs]
    if any(log_probs is None for log_probs in found):
        return None
    return float(np.mean([np.exp(log_probs).sum(axis=1).mean() for log_probs in found if log_probs is not None]))


def _sample_counts(condition: ConditionScores) -> dict[str, int]:
    items = len(condition.gold)
    return {
        "original": items,
        "effective": items,
        "questions": len(set(condition.groups)),
        "seeds": len(condition.runs),
    }


def _multiple_choice(run: MultipleChoiceRun) -> JsonObject:
    """MC1 and MC2 of one run, each as an entry of `results`."""
    name, seed = run.run.config.name, run.run.seed
    return {
        f"truthfulqa_{metric}-{slug(name)}-seed{seed}": {
            "alias": f"{metric.upper()}, {name}",
            **_accuracy("none", run.estimate(values)),
            "usage": run.usage,
        }
        for metric, values in (("mc1", run.mc1), ("mc2", run.mc2))
    }


def _harness(evaluation: Evaluation) -> JsonObject:
    """The harness's own entries of `results`, and the folder with its files."""
    found: JsonObject = {}
    for run in evaluation.benchmark_runs:
        results = run.results
        for name, entry in {**results["results"], **results.get("groups", {})}.items():
            alias = f"{name}, {run.run.config.name}"
            found[f"{name}-{run.run.key}"] = {**entry, "alias": alias, "folder": f"benchmarks/{run.folder.name}"}
    return found


def _benchmark(scores: BenchmarkScores) -> JsonObject:
    """One metric of one task: every condition, mean over seeds, and every two of them compared item by item."""
    return {
        "task": scores.task,
        "metric": scores.metric,
        "title": scores.title,
        "n-shot": scores.shots,
        "items": len(scores.conditions[0].ids),
        "higher_is_better": scores.higher_is_better,
        "conditions": {
            c.config.name: {**{key: _finite(value) for key, value in asdict(c.estimate).items()}, "seeds": c.seeds}
            for c in scores.conditions
        },
        "comparisons": scores.comparisons,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
