"""Figures of benchmarks: each metric of each task for all conditions, and the conditions compared item by item."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from eval.benchmarks.harness import BenchmarkRun
from eval.experiment import base_of
from eval.intervals import LEVEL, Estimate, accuracy, paired_difference
from eval.settings import ConditionConfig
from icm.config import EngineConfig
from icm.files import JsonObject

Floats = NDArray[np.float64]
_Z = float(norm.ppf(0.5 + LEVEL / 2))
_SAME = 1e-6  # a mean of samples and the harness's own


@dataclass(frozen=True)
class ConditionScore:
    """One condition on one metric.

    Attributes:
        config: the condition.
        base: its model, without an adapter.
        estimate: mean over seeds; of shares with an interval over items, of other metrics by the harness's standard
            error, which some have not (NaN).
        seeds: the harness's own figure for each seed.
        values: of each item [items, seeds]; None where the metric is no mean over items.
        ids: of the items.
    """

    config: ConditionConfig
    base: EngineConfig | None
    estimate: Estimate
    seeds: tuple[float, ...]
    values: Floats | None
    ids: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkScores:
    """One metric of one task.

    Attributes:
        task: the harness's name.
        metric: its name and filter, as the harness writes them: `exact_match,strict-match`.
        shots: demonstrations.
        higher_is_better: None where the harness does not say.
        conditions: in the settings' order.
    """

    task: str
    metric: str
    shots: int
    higher_is_better: bool | None
    conditions: tuple[ConditionScore, ...]

    @property
    def title(self) -> str:
        """`gsm8k, exact_match (strict-match), 150 items, 5 shots`."""
        name, _, kind = self.metric.partition(",")
        kind = "" if kind == "none" else f" ({kind})"
        return f"{self.task}, {name}{kind}, {len(self.conditions[0].ids)} items, {self.shots} shots"

    def plain(self, condition: ConditionScore) -> ConditionScore | None:
        """The condition's own model asked plainly."""
        asked = (c for c in self.conditions if c.config.kind == "zero-shot")
        return next((c for c in asked if c.base == condition.base), None)

    @cached_property
    def comparisons(self) -> list[JsonObject]:
        """Paired difference of every two conditions over the same items."""
        return [entry for one, two in combinations(self.conditions, 2) if (entry := _compared(one, two))]

    def gain(self, condition: ConditionScore) -> JsonObject | None:
        """The condition's difference from its own model asked plainly; None for that itself, and without it."""
        plain = self.plain(condition)
        return None if plain is None or plain is condition else _compared(condition, plain)


def _compared(one: ConditionScore, two: ConditionScore) -> JsonObject | None:
    if one.values is None or two.values is None or one.ids != two.ids:
        return None
    difference, p_value = paired_difference(one.values.mean(axis=1) - two.values.mean(axis=1), list(one.ids))
    return {"first": one.config.name, "second": two.config.name, "difference": asdict(difference), "p": p_value}


def benchmark_scores(runs: Sequence[BenchmarkRun]) -> tuple[BenchmarkScores, ...]:
    """All metrics of all tasks that have run."""
    found = [
        _scores(of_task, task)
        for benchmark in dict.fromkeys(run.benchmark.name for run in runs)
        for of_task in [[run for run in runs if run.benchmark.name == benchmark]]
        for task in of_task[0].benchmark.tasks
    ]
    return tuple(scores for of_task in found for scores in of_task)


def _scores(runs: Sequence[BenchmarkRun], task: str) -> Iterator[BenchmarkScores]:
    results = [run.results for run in runs]
    samples = [run.samples(task) for run in runs]
    first = results[0]
    for metric in first["results"][task]:
        name, comma, kind = metric.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        entries = [
            _Entry(run, found["results"][task], metric, _values(rows, name, kind))
            for run, found, rows in zip(runs, results, samples, strict=True)
        ]
        by_name: dict[str, list[_Entry]] = {}
        for entry in entries:
            by_name.setdefault(entry.run.run.config.name, []).append(entry)
        yield BenchmarkScores(
            task,
            metric,
            int(first["n-shot"].get(task) or 0),
            first["higher_is_better"].get(task, {}).get(name),
            tuple(_condition(of_condition) for of_condition in by_name.values()),
        )


@dataclass(frozen=True)
class _Entry:
    """One metric of one run: what the harness says, and each item's value by id."""

    run: BenchmarkRun
    results: Mapping[str, float | str | None]
    metric: str
    items: Mapping[str, object]

    @property
    def value(self) -> float:
        """The harness's."""
        found = self.results[self.metric]
        return float(found) if isinstance(found, int | float) else float("nan")

    @property
    def stderr(self) -> float:
        """The harness's; NaN where it has none."""
        name, _, kind = self.metric.partition(",")
        found = self.results.get(f"{name}_stderr,{kind}")
        return float(found) if isinstance(found, int | float) else float("nan")

    @cached_property
    def values(self) -> Floats | None:
        """Of each item, where their mean is the metric."""
        numbers = [float(value) for value in self.items.values() if isinstance(value, bool | int | float)]
        found = np.array(numbers)
        same = len(numbers) == len(self.items) > 0 and abs(found.mean() - self.value) < _SAME
        return found if same else None


def _values(rows: Sequence[JsonObject], name: str, kind: str) -> dict[str, object]:
    return {str(row["doc_id"]): row.get(name) for row in rows if row["filter"] == kind}


def _condition(entries: Sequence[_Entry]) -> ConditionScore:
    """The seeds of one condition together."""
    found, ids = [entry.values for entry in entries], tuple(entries[0].items)
    seeds = tuple(entry.value for entry in entries)
    columns = [values for values in found if values is not None]
    values = np.stack(columns, axis=1) if len(columns) == len(entries) else None
    run = entries[0].run.run
    return ConditionScore(run.config, base_of(run), _estimate(entries, values, ids), seeds, values, ids)


def _estimate(entries: Sequence[_Entry], values: Floats | None, ids: Sequence[str]) -> Estimate:
    if values is not None and values.min() >= 0 and values.max() <= 1:
        return accuracy(values.mean(axis=1), list(ids))
    mean = float(np.mean([entry.value for entry in entries]))
    # Seeds answer the same items: their errors do not average out.
    stderr = float(np.mean([entry.stderr for entry in entries]))
    return Estimate(mean, mean - _Z * stderr, mean + _Z * stderr, stderr)
