"""Everything an evaluation leaves: results.json, samples, table, figure, report."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from eval.experiment import Experiment
from eval.intervals import Estimate, accuracy
from eval.multiple_choice import MultipleChoiceRun
from eval.report.figure import Bar, draw_bars, write_png
from eval.report.page import write_report
from eval.scores import ConditionScores, ScoredRun, comparisons, condition_scores, recovered_gaps
from eval.settings import slug
from icm.calibration import log_odds
from icm.examples import ICMExample
from icm.files import atomic_write, file_sha256, fingerprint, write_json, write_jsonl
from icm.labelling.metadata import package_versions

_SHORT = {"accuracy": "acc", "balanced_accuracy": "balanced_acc", "macro_f1": "macro_f1"}


@dataclass(frozen=True)
class Outputs:
    """All outputs of one evaluation.

    Attributes:
        experiment: what was asked.
        scored: every run's answers.
        chosen: TruthfulQA MC1 and MC2, if asked for.
        folder: where to write.
        seconds: wall-clock time of this start; what earlier starts answered is not in it.
    """

    experiment: Experiment
    scored: Sequence[ScoredRun]
    chosen: Sequence[MultipleChoiceRun]
    folder: Path
    seconds: float

    def write(self) -> None:
        """Write all files, each atomically; results.json last, so that it stands for the rest."""
        for condition in self.conditions:
            write_jsonl(self.folder / f"samples_{slug(condition.name)}.jsonl", self._samples(condition))
        with atomic_write(self.folder / "results.md") as handle:
            handle.write(self.table)
        write_png(draw_bars(self.bars, self._title()), self.folder / "figure_1.png")
        write_report(self.folder / "report.html", self.experiment, self.conditions, self.bars, self.results)
        write_json(self.folder / "results.json", self.results)

    @cached_property
    def conditions(self) -> list[ConditionScores]:
        """In the settings' order."""
        settings = self.experiment.settings
        names = [condition.name for condition in settings.conditions]
        return condition_scores(self.scored, self.experiment.data, names, settings.calibration)

    @cached_property
    def bars(self) -> list[Bar]:
        """The figure's bars."""
        return [_bar(condition) for condition in self.conditions]

    @cached_property
    def results(self) -> dict[str, Any]:
        """Content of results.json: lm-evaluation-harness's schema, and what it has no place for behind it."""
        settings = self.experiment.settings
        return {
            "results": {slug(c.name): _condition_results(c) for c in self.conditions} | self._multiple_choice(),
            "configs": {slug(c.name): asdict(c.runs[0].run.config) for c in self.conditions},
            "versions": {slug(c.name): 1 for c in self.conditions},
            "n-shot": {slug(c.name): c.runs[0].facts.get("shots", 0) for c in self.conditions},
            "n-samples": {slug(c.name): _sample_counts(c) for c in self.conditions},
            "higher_is_better": {slug(c.name): {"acc": True, "brier": False, "ece": False} for c in self.conditions},
            "config": asdict(settings),
            "git_hash": git_hash(),
            "date": datetime.now(UTC).timestamp(),
            "task_hashes": {slug(c.name): fingerprint(c.runs[0].run.identity) for c in self.conditions},
            "package_versions": dict(package_versions()),
            "platform": platform.platform(terse=True),
            "total_evaluation_time_seconds": round(self.seconds, 2),
            "calibration": settings.calibration,
            "data_fingerprint": self.experiment.data.dataset.fingerprint,
            "label_files": {path: file_sha256(path) for path in self.experiment.label_files},
            "comparisons": self.comparisons,
            "gap_recovered": recovered_gaps(self.conditions),
            "notes": self.notes,
        }

    @cached_property
    def comparisons(self) -> list[dict[str, Any]]:
        """Every two conditions, paired."""
        return comparisons(self.conditions)

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        return [note for condition in self.conditions for note in _notes(condition, self.experiment)]

    @cached_property
    def table(self) -> str:
        """The figures as Markdown."""
        data = self.experiment.data.dataset
        lines = [
            f"# {data.name}: {len(data)} held-out items, {len({e.group for e in data})} questions",
            "",
            "| condition | accuracy | 95 % interval | raw | AUROC | Brier | ECE | seeds | gap recovered | failures |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(self._line(condition) for condition in self.conditions),
        ]
        if self.chosen:
            lines += [
                "",
                "| TruthfulQA | MC1 | 95 % interval | MC2 | 95 % interval | questions |",
                "|---|---|---|---|---|---|",
            ]
            lines += [_multiple_choice_line(run) for run in self.chosen]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]) + "\n"

    def _line(self, condition: ConditionScores) -> str:
        metrics = condition.metrics(condition.calibration)
        raw = condition.metrics("none")["accuracy"]
        cells = [
            condition.name,
            f"{condition.headline.value:.3f}",
            _interval(condition.headline),
            f"{raw:.3f}",
            *(_number(metrics[key]) for key in ("auroc", "brier", "ece")),
            _spread(condition.seed_accuracies),
            self._gap(condition),
            str(condition.failures),
        ]
        return f"| {' | '.join(cells)} |"

    def summary(self) -> Table:
        """The main figures for a terminal of 80 columns."""
        table = Table(title=self._title(), title_justify="left", box=SIMPLE)
        table.add_column("condition", no_wrap=True)
        for name in ("accuracy", "95 % interval", "raw", "gap recovered"):
            table.add_column(name, justify="right", no_wrap=True)
        for condition in self.conditions:
            raw = f"{condition.metrics('none')['accuracy']:.3f}"
            headline = condition.headline
            table.add_row(condition.name, f"{headline.value:.3f}", _interval(headline), raw, self._gap(condition))
        return table

    def _gap(self, condition: ConditionScores) -> str:
        gap = self.results["gap_recovered"].get(condition.name)
        if gap is None:
            return ""
        return "–" if gap["value"] is None else f"{gap['value']:.0%} ({gap['low']:.0%} – {gap['high']:.0%})"

    def _title(self) -> str:
        data = self.experiment.data.dataset
        return f"{data.name}: accuracy on {len(data)} held-out items"

    def _multiple_choice(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for run in self.chosen:
            for name, values in (("mc1", run.mc1), ("mc2", run.mc2)):
                key = f"truthfulqa_{name}-{slug(run.run.config.name)}-seed{run.run.seed}"
                alias = f"{name.upper()}, {run.run.config.name}"
                found[key] = {"alias": alias, **_accuracy("none", run.estimate(values)), "usage": run.usage}
        return found

    def _samples(self, condition: ConditionScores) -> list[dict[str, Any]]:
        examples = self.experiment.examples
        return [self._sample(run, place, example) for run in condition.runs for place, example in enumerate(examples)]

    def _sample(self, run: ScoredRun, place: int, example: ICMExample) -> dict[str, Any]:
        labels, gold = self.experiment.label_space.labels, self.experiment.data.gold[example.id]
        answer = run.answers[place]
        row: dict[str, Any] = {
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
        for name, normalised in (("none", run.raw), ("batch", run.batch)):
            if name == "batch" and normalised is None:
                continue
            predicted = int(run.predictions(name)[place])
            row[f"label,{name}"] = labels[predicted] if predicted >= 0 else None
            row[f"acc,{name}"] = float(predicted >= 0 and labels[predicted] == gold)
            row[f"log_odds,{name}"] = None if normalised is None else _log_odds(normalised[place], predicted)
        return row


def _log_odds(log_probs: Any, label: int) -> float:
    """Of the predicted label against the others, in nats."""
    return float(log_odds(log_probs[None], np.array([label]))[0])


def _bar(condition: ConditionScores) -> Bar:
    raw = float(condition.correct("none").mean())
    kind = condition.runs[0].run.config.kind
    source = condition.runs[0].run.config.labels_from
    return Bar(condition.name, kind, source, condition.headline, raw, len(condition.gold), condition.seed_accuracies)


def _condition_results(condition: ConditionScores) -> dict[str, Any]:
    """One entry of `results`: `metric,filter` keys, where the filter is the calibration (`none` is raw)."""
    filters = ["none"] + (["batch"] if condition.runs[0].batch is not None else [])
    found: dict[str, Any] = {"alias": condition.name}
    for name in filters:
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


def _notes(condition: ConditionScores, experiment: Experiment) -> list[str]:
    notes = []
    trained = condition.runs[0].facts.get("gold_labels")
    if trained:
        notes.append(f"{condition.name}: a supervised control without a model, trained on {trained} gold labels")
    for run in condition.runs:
        left_out = run.facts.get("shots_left_out", 0)
        if left_out:
            shots = run.facts["shots"]
            notes.append(
                f"{condition.name}, seed {run.run.seed}: {shots} shots; {left_out} more did not fit the context"
            )
        elif 0 < run.facts.get("shots", 0) < experiment.settings.shots:
            notes.append(
                f"{condition.name}, seed {run.run.seed}: {run.facts['shots']} shots; the label file has no more"
            )
        errors = [answer.error for answer in run.answers if answer.error]
        if errors:
            notes.append(f"{condition.name}: {len(errors)} items without an answer count as wrong; first: {errors[0]}")
    return notes


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} – {estimate.high:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _spread(values: Sequence[float]) -> str:
    return "1" if len(values) == 1 else f"{len(values)} (sd {np.std(values, ddof=1):.3f})"


def _multiple_choice_line(run: MultipleChoiceRun) -> str:
    one, two = run.estimate(run.mc1), run.estimate(run.mc2)
    name = run.run.config.name
    return f"| {name} | {one.value:.3f} | {_interval(one)} | {two.value:.3f} | {_interval(two)} | {len(run.ids)} |"


def git_hash() -> str | None:
    """Commit of the code, with `-dirty` if it was changed since; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
