"""From answers to figures: every condition's metrics, raw and calibrated, and the comparisons between conditions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.harness import BenchmarkRun
from eval.benchmarks.scores import BenchmarkScores
from eval.conditions.answers import Answer
from eval.experiment import Experiment, Run, base_of
from eval.intervals import Estimate, accuracy, compare, gap_recovered
from eval.metrics.label_agreement import LabelAgreement
from eval.metrics.probability_quality import ProbabilityQuality
from eval.multiple_choice import MultipleChoiceRun
from eval.settings import ConditionConfig
from icm.calibration import Bias, calibrate_claims, label_bias, over_labels, prototype_bias
from icm.config import EngineConfig
from icm.files import JsonObject

Floats = NDArray[np.float64]
Metrics = dict[str, float | None]
NO_ANSWER = -1


@dataclass(frozen=True)
class ScoredRun:
    """One run's answers beside gold, in held-out order.

    Attributes:
        run: the condition and its seed.
        answers: one an item.
        usage: what they cost.
        facts: shots used and left out, gold labels used.
        labels: of the label space, in order.
        claims: number of each item's claim, see `claim_of_each`.
    """

    run: Run
    answers: tuple[Answer, ...]
    usage: dict[str, float]
    facts: dict[str, int]
    labels: tuple[str, ...]
    claims: NDArray[np.intp]

    @cached_property
    def log_probs(self) -> Floats | None:
        """Label log-probabilities [items, labels]; None unless every item has them."""
        rows = [answer.log_probs for answer in self.answers if answer.log_probs is not None]
        return np.array(rows) if len(rows) == len(self.answers) else None

    @cached_property
    def raw(self) -> Floats | None:
        """Normalised over the labels; natural log."""
        return None if self.log_probs is None else over_labels(self.log_probs)

    @cached_property
    def batch(self) -> Floats | None:
        """Centred over the held-out items; natural log. None for controls, whose probabilities are no model's habit."""
        return self._calibrated(label_bias)

    @cached_property
    def prototypical(self) -> Floats | None:
        """The same between the groups that the answers fall into."""
        return self._calibrated(prototype_bias)

    def _calibrated(self, bias: Bias) -> Floats | None:
        if self.log_probs is None or self.run.config.kind in ("majority", "surface"):
            return None
        return calibrate_claims(self.log_probs, self.claims, bias)

    def normalised(self, calibration: str) -> Floats | None:
        """`raw`, or what is asked for where that exists."""
        if calibration == "none" or self.batch is None:
            return self.raw
        return self.batch if calibration == "batch" else self.prototypical

    def predictions(self, calibration: str) -> NDArray[np.intp]:
        """Label positions; `NO_ANSWER` where the condition failed."""
        found = self.normalised(calibration)
        if found is not None:
            return np.asarray(found.argmax(axis=1))
        return np.array([self._one(answer) for answer in self.answers])

    def _one(self, answer: Answer) -> int:
        if answer.log_probs is not None:
            return int(np.argmax(answer.log_probs))
        return NO_ANSWER if answer.label is None else self.labels.index(answer.label)


@dataclass(frozen=True)
class ConditionScores:
    """All runs of one condition.

    Attributes:
        runs: one a seed.
        gold: gold label positions [items].
        groups: each item's question.
        calibration: which predictions count as the condition's own.
    """

    runs: tuple[ScoredRun, ...]
    gold: NDArray[np.intp]
    groups: list[str]
    calibration: str

    @property
    def config(self) -> ConditionConfig:
        """Its settings."""
        return self.runs[0].run.config

    @property
    def name(self) -> str:
        """As in the settings."""
        return self.config.name

    @property
    def kind(self) -> str:
        """As in the settings."""
        return self.config.kind

    @property
    def base(self) -> EngineConfig | None:
        """Its model, without an adapter."""
        return base_of(self.runs[0].run)

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Those that give figures of their own."""
        if self.runs[0].batch is None:
            return ("none",)
        return tuple(dict.fromkeys(("none", "batch", self.calibration)))

    def correct(self, calibration: str) -> Floats:
        """Right (1) or wrong (0) [items, seeds]; a failed item is wrong."""
        return np.stack([run.predictions(calibration) == self.gold for run in self.runs], axis=1).astype(float)

    @cached_property
    def headline(self) -> Estimate:
        """Accuracy as the settings calibrate it, mean over seeds, with an interval over questions."""
        return accuracy(self.correct(self.calibration).mean(axis=1), self.groups)

    @cached_property
    def seed_accuracies(self) -> list[float]:
        """Accuracy of each seed, as calibrated."""
        return [float(value) for value in self.correct(self.calibration).mean(axis=0)]

    @property
    def failures(self) -> int:
        """Items without an answer, over all seeds."""
        return sum(answer.error is not None for run in self.runs for answer in run.answers)

    def metrics(self, calibration: str) -> Metrics:
        """Mean of each metric over seeds; None where a run has no probabilities."""
        return self._metrics[calibration]

    @cached_property
    def _metrics(self) -> dict[str, Metrics]:
        """By calibration."""
        found = {}
        for calibration in dict.fromkeys(("none", "batch", self.calibration)):
            rows = [_run_metrics(run, self.gold, calibration) for run in self.runs]
            found[calibration] = {key: _mean([row[key] for row in rows]) for key in rows[0]}
        return found

    def usage(self) -> dict[str, float]:
        """Cost over all seeds."""
        keys = {key for run in self.runs for key in run.usage}
        return {key: sum(run.usage.get(key, 0) for run in self.runs) for key in sorted(keys)}


def _run_metrics(run: ScoredRun, gold: NDArray[np.intp], calibration: str) -> Metrics:
    agreement = LabelAgreement(keep_in_memory=True).compute(
        predictions=run.predictions(calibration).tolist(), references=gold.tolist()
    )
    log_probs = run.normalised(calibration)
    quality: Metrics = dict.fromkeys(("auroc", "brier", "ece"))
    if log_probs is not None:
        quality = ProbabilityQuality(keep_in_memory=True).compute(
            predictions=np.exp(log_probs).tolist(), references=gold.tolist()
        )
    return {**agreement, **quality}


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if len(present) == len(values) else None


@dataclass(frozen=True)
class Evaluation:
    """All that was answered: what every output is made from.

    Attributes:
        experiment: what was asked.
        conditions: in the settings' order.
        chosen: TruthfulQA MC1 and MC2, if asked for.
        seconds: wall-clock time of this start; what earlier starts answered is not in it.
        engine_starts: engines that were started, in this start.
        benchmarks: of lm-evaluation-harness, if asked for, a metric each.
        benchmark_runs: what they are made from.
    """

    experiment: Experiment
    conditions: tuple[ConditionScores, ...]
    chosen: tuple[MultipleChoiceRun, ...]
    seconds: float
    engine_starts: int
    benchmarks: tuple[BenchmarkScores, ...] = ()
    benchmark_runs: tuple[BenchmarkRun, ...] = ()

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        runs: Sequence[ScoredRun],
        chosen: Sequence[MultipleChoiceRun],
        seconds: float,
        engine_starts: int = 0,
    ) -> "Evaluation":
        """From the answers of all runs."""
        data, settings = experiment.data, experiment.settings
        gold = np.array([data.dataset.label_space.index(data.gold[example.id]) for example in data.dataset])
        groups = [example.group for example in data.dataset]
        conditions = [
            ConditionScores(
                tuple(run for run in runs if run.run.config.name == config.name), gold, groups, settings.calibration
            )
            for config in settings.conditions
        ]
        return cls(experiment, tuple(conditions), tuple(chosen), seconds, engine_starts)

    @property
    def title(self) -> str:
        """Of the figure and the terminal's table."""
        data = self.experiment.data.dataset
        return f"{data.name}: accuracy on {len(data)} held-out items"

    @cached_property
    def comparisons(self) -> list[JsonObject]:
        """Paired comparison of every two conditions."""
        return [
            {
                "first": one.name,
                "second": two.name,
                **asdict(compare(one.correct(one.calibration), two.correct(two.calibration), one.groups)),
            }
            for one, two in combinations(self.conditions, 2)
        ]

    def plain(self, condition: ConditionScores) -> ConditionScores | None:
        """The condition's own model asked plainly: the first zero-shot condition of it without a preamble."""
        asked = (c for c in self.conditions if c.kind == "zero-shot" and not c.config.preamble)
        return next((c for c in asked if c.base == condition.base), None)

    @cached_property
    def gaps(self) -> dict[str, JsonObject]:
        """Share of the gap from zero-shot to golden that each other prompted or tuned condition recovers.

        Many-shot conditions are held against many-shot golden, fine-tuned ones against fine-tuned golden, both of the
        same model, whose zero-shot condition is `plain`.
        """
        found: dict[str, JsonObject] = {}
        for kind in ("many-shot", "fine-tuned"):
            alike = [c for c in self.conditions if c.kind == kind]
            for c in alike:
                zero_shot = self.plain(c)
                golden = next((g for g in alike if g.config.labels_from == "gold" and g.base == c.base), None)
                if zero_shot and golden and c is not golden:
                    found[c.name] = _gap(c, zero_shot, golden)
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        shots = self.experiment.settings.shots
        asked = dict.fromkeys(run.benchmark.name for run in self.benchmark_runs if run.benchmark.left_out)
        left_out = {run.benchmark.name: run.benchmark.left_out for run in self.benchmark_runs}
        return [note for condition in self.conditions for note in _notes(condition, shots)] + [
            f"benchmark {name}: without {left_out[name]} items whose question is in a label file" for name in asked
        ]


def _gap(condition: ConditionScores, zero_shot: ConditionScores, golden: ConditionScores) -> JsonObject:
    mine, low, high = (np.asarray(c.correct(c.calibration).mean(axis=1)) for c in (condition, zero_shot, golden))
    share = gap_recovered(mine, low, high, condition.groups)
    found = asdict(share) if share else {"value": None, "why": "golden is not better beyond doubt"}
    return {"from": zero_shot.name, "to": golden.name, **found}


def _notes(condition: ConditionScores, shots: int) -> list[str]:
    notes = []
    trained = condition.runs[0].facts.get("gold_labels")
    if trained:
        notes.append(f"{condition.name}: a supervised control without a model, trained on {trained} gold labels")
    for run in condition.runs:
        shown, left_out = run.facts.get("shots", 0), run.facts.get("shots_left_out", 0)
        if left_out or 0 < shown < shots:
            why = f"{left_out} more did not fit the context" if left_out else "the label file has no more"
            notes.append(f"{condition.name}, seed {run.run.seed}: {shown} shots; {why}")
        errors = [answer.error for answer in run.answers if answer.error]
        if errors:
            notes.append(f"{condition.name}: {len(errors)} items without an answer count as wrong; first: {errors[0]}")
    return notes
