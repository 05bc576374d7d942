"""The figures as tables: results.md, and the main ones for a terminal."""

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from eval.benchmarks.scores import BenchmarkScores, ConditionScore
from eval.intervals import Estimate
from eval.multiple_choice import MultipleChoiceRun
from eval.report.verdict import verdict
from eval.scores import ConditionScores, Evaluation
from icm.markdown import literal, table
from icm.text import one_line

_HEAD = ("condition", "accuracy", "95 % interval", "raw", "AUROC", "Brier", "ECE", "seeds", "gap recovered", "failures")
_BENCHMARK = ("condition", "score", "95 % interval", "paired difference", "seeds")
_MULTIPLE_CHOICE = ("TruthfulQA", "MC1", "95 % interval", "MC2", "95 % interval", "questions")


def markdown(evaluation: Evaluation) -> str:
    """All figures."""
    data = evaluation.experiment.data.dataset
    parts = [
        f"# {literal(data.name)}: {len(data)} held-out items, {len({example.group for example in data})} questions",
        *([literal(sentence)] if (sentence := verdict(evaluation)) else []),
        table(_HEAD, [_row(evaluation, condition) for condition in evaluation.conditions]),
    ]
    if evaluation.chosen:
        parts.append(table(_MULTIPLE_CHOICE, map(_multiple_choice_row, evaluation.chosen)))
    for scores in evaluation.benchmarks:
        rows = [[literal(c.config.name), *_benchmark_row(scores, c)] for c in scores.conditions]
        parts += [f"## {literal(scores.title)}", table(_BENCHMARK, rows)]
    return "\n\n".join([*parts, "\n".join(f"- {literal(note)}" for note in evaluation.notes)]).rstrip() + "\n"


def terminal(evaluation: Evaluation) -> Table:
    """The main figures in 80 columns."""
    made = Table(title=Text(one_line(evaluation.title)), title_justify="left", box=SIMPLE)
    made.add_column(_HEAD[0], no_wrap=True)
    for name in (*_HEAD[1:4], "gap recovered"):
        made.add_column(name, justify="right", no_wrap=True)
    for condition in evaluation.conditions:
        made.add_row(Text(one_line(condition.name)), *_main_figures(condition), _gap(evaluation, condition))
    return made


def benchmark_tables(evaluation: Evaluation) -> list[Table]:
    """The benchmarks' figures in 80 columns, a table a metric."""
    tables = []
    for scores in evaluation.benchmarks:
        made = Table(title=Text(one_line(scores.title)), title_justify="left", box=SIMPLE)
        made.add_column(_BENCHMARK[0], no_wrap=True)
        for name in _BENCHMARK[1:4]:
            made.add_column(name, justify="right", no_wrap=True)
        for condition in scores.conditions:
            made.add_row(Text(one_line(condition.config.name)), *_benchmark_row(scores, condition)[:3])
        tables.append(made)
    return tables


def _benchmark_row(scores: BenchmarkScores, condition: ConditionScore) -> list[str]:
    gain, estimate = scores.gain(condition), condition.estimate
    spread = gain and Estimate(**gain["difference"])
    return [
        f"{estimate.value:.3f}",
        "–" if np.isnan(estimate.low) else _interval(estimate),
        f"{spread.value:+.3f} ({spread.low:+.3f} – {spread.high:+.3f})" if spread else "",
        _spread(condition.seeds),
    ]


def _main_figures(condition: ConditionScores) -> list[str]:
    headline, raw = condition.headline, condition.metrics("none")["accuracy"]
    return [f"{headline.value:.3f}", _interval(headline), _number(raw)]


def _row(evaluation: Evaluation, condition: ConditionScores) -> list[str]:
    metrics = condition.metrics(condition.calibration)
    return [
        literal(condition.name),
        *_main_figures(condition),
        *(_number(metrics[key]) for key in ("auroc", "brier", "ece")),
        _spread(condition.seed_accuracies),
        _gap(evaluation, condition),
        str(condition.failures),
    ]


def _gap(evaluation: Evaluation, condition: ConditionScores) -> str:
    gap = evaluation.gaps.get(condition.name)
    if gap is None:
        return ""
    return "–" if gap["value"] is None else f"{gap['value']:.0%} ({gap['low']:.0%} – {gap['high']:.0%})"


def _multiple_choice_row(run: MultipleChoiceRun) -> list[str]:
    one, two = run.estimate(run.mc1), run.estimate(run.mc2)
    figures = [f"{one.value:.3f}", _interval(one), f"{two.value:.3f}", _interval(two)]
    return [literal(run.run.config.name), *figures, str(len(run.ids))]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} – {estimate.high:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _spread(values: Sequence[float]) -> str:
    return "1" if len(values) == 1 else f"{len(values)} (sd {np.std(values, ddof=1):.3f})"
