"""Figures: accuracy bars with intervals, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.benchmarks.scores import BenchmarkScores
from eval.intervals import Estimate
from eval.scores import ConditionScores, Evaluation
from icm.results.pages import COLOUR, INK, plain, style

# Colour-blind safe (Okabe & Ito), one hue a role: the found labels stand out, references stay quiet.
_COLOURS = {"labels": COLOUR, "gold": "#E69F00", "random": "#999999", "perturbed": "#CC79A7"}
_QUIET, _CONTROL = "#56B4E9", "#D9D9D9"


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        name: condition.
        kind: of the condition.
        labels_from: whose labels, or None.
        estimate: accuracy with its interval.
        raw: accuracy without calibration.
        items: held-out items.
        seeds: accuracy of each seed.
    """

    name: str
    kind: str
    labels_from: str | None
    estimate: Estimate
    raw: float
    items: int
    seeds: Sequence[float] = field(default_factory=tuple)

    @property
    def colour(self) -> str:
        """By role."""
        if self.kind in ("majority", "surface"):
            return _CONTROL
        return _COLOURS.get(self.labels_from or "", _QUIET)

    @property
    def hatch(self) -> str:
        """Fine-tuned conditions are hatched, so that they stand apart from the many-shot bar of the same labels."""
        return "///" if self.kind == "fine-tuned" else ""


def bars_of(evaluation: Evaluation) -> list[Bar]:
    """A bar a condition, in the settings' order."""
    return [_bar(condition) for condition in evaluation.conditions]


def _bar(condition: ConditionScores) -> Bar:
    raw = float(condition.correct("none").mean())
    kind, source = condition.kind, condition.config.labels_from
    return Bar(condition.name, kind, source, condition.headline, raw, len(condition.gold), condition.seed_accuracies)


def benchmark_bars(scores: BenchmarkScores) -> list[Bar]:
    """A bar a condition; none where the metric is no share or has no intervals."""
    found = [(c.config, c.estimate, c.seeds) for c in scores.conditions]
    if any(not 0 <= estimate.low <= estimate.high <= 1 for _, estimate, _ in found):
        return []
    items = len(scores.conditions[0].ids)
    return [
        Bar(config.name, config.kind, config.labels_from, estimate, estimate.value, items, seeds)
        for config, estimate, seeds in found
    ]


def draw_all(evaluation: Evaluation) -> list[Figure]:
    """Accuracy of the conditions, and each metric of a benchmark that is a share with intervals."""
    found = [draw_benchmark(scores) for scores in evaluation.benchmarks]
    return [draw_bars(bars_of(evaluation), evaluation.title), *(figure for figure in found if figure)]


def draw_benchmark(scores: BenchmarkScores) -> Figure | None:
    """One metric of a benchmark; None where there are no bars."""
    bars = benchmark_bars(scores)
    return draw_bars(bars, scores.title, plain(scores.metric.partition(",")[0])) if bars else None


def draw_bars(bars: Sequence[Bar], title: str, unit: str = "accuracy") -> Figure:
    """Accuracy of the conditions with 95 % intervals; a dot a seed where there are several, a tick for raw accuracy."""
    with style():
        figure = Figure(figsize=(max(6.5, 1.15 * len(bars) + 1.2), 4.8), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(bars))
        heights = [bar.estimate.value for bar in bars]
        drawn = axes.bar(places, heights, width=0.68, color=[bar.colour for bar in bars], edgecolor="white", zorder=2)
        for patch, bar in zip(drawn, bars, strict=True):
            patch.set_hatch(bar.hatch)
        _draw_intervals(axes, bars)
        _draw_seeds_and_raw(axes, bars)
        axes.set_xticks(list(places), [plain(_wrapped(bar.name)) for bar in bars], fontsize=9)
        axes.set_ylim(0, 1.08)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.tick_params(length=0)
        axes.grid(axis="y", color="#E5E5E5", zorder=0)
        axes.set_ylabel(unit)
        axes.set_title(plain(title), loc="left", fontsize=12, fontweight="bold", pad=22)
        axes.text(0, 1.02, _legend_text(bars), transform=axes.transAxes, fontsize=8, color="#555555")
    return figure


def _draw_intervals(axes: Axes, bars: Sequence[Bar]) -> None:
    for place, bar in enumerate(bars):
        estimate = bar.estimate
        spread = [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
        axes.errorbar(place, estimate.value, yerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=4, zorder=4)
        axes.text(place, estimate.high + 0.02, f"{estimate.value:.0%}", ha="center", va="bottom", fontweight="bold")


def _draw_seeds_and_raw(axes: Axes, bars: Sequence[Bar]) -> None:
    for place, bar in enumerate(bars):
        if len(bar.seeds) > 1:
            spots = [place + 0.24] * len(bar.seeds)
            axes.scatter(spots, bar.seeds, s=14, color="white", edgecolor=INK, linewidth=0.8, zorder=5)
        if abs(bar.raw - bar.estimate.value) > 1e-9:
            axes.hlines(bar.raw, place - 0.34, place - 0.1, color=INK, linestyle=(0, (2, 1)), linewidth=1.4, zorder=5)


def _legend_text(bars: Sequence[Bar]) -> str:
    parts = [f"n = {bars[0].items}, whiskers: 95 % intervals"]
    if any(len(bar.seeds) > 1 for bar in bars):
        parts.append("dots: seeds")
    if any(abs(bar.raw - bar.estimate.value) > 1e-9 for bar in bars):
        parts.append("dashes: uncalibrated")
    return "; ".join(parts)


def _wrapped(name: str) -> str:
    return "\n".join(wrap(name, 12, max_lines=5, placeholder="…"))


def draw_reliability(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> Figure:
    """Accuracy against stated probability of the predicted label, a panel a condition; dots grow with the items."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    least = min(mean for bins in curves.values() for mean, _, _ in bins)
    with style():
        figure = Figure(figsize=(2.4 * columns + 0.6, 2.3 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (name, bins) in zip(panels, curves.items(), strict=False):
            means, shares, counts = zip(*bins, strict=True)
            axes.plot([0, 1], [0, 1], color="#BBBBBB", linestyle="--", linewidth=1)
            axes.plot(means, shares, color=COLOUR, linewidth=1.2)
            axes.scatter(means, shares, s=[120 * count / sum(counts) + 6 for count in counts], color=COLOUR)
            axes.set(xlim=(max(0.0, least - 0.05), 1.03), ylim=(-0.03, 1.06))
            axes.set_title(plain(name, 40), loc="left", fontsize=9)
            axes.grid(color="#EEEEEE")
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        figure.supxlabel("probability of the predicted label", fontsize=9)
        figure.supylabel("share that is right", fontsize=9)
    return figure
