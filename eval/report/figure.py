"""Figures: accuracy bars with intervals, search curves, calibration.

Drawn without pyplot: no global state, no display.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.intervals import Estimate
from icm.files import atomic_write
from icm.results.analysis import acceptance
from icm.results.trace import Decision

# Colour-blind safe (Okabe & Ito), one hue a role: the found labels stand out, references stay quiet.
_COLOURS = {"labels": "#0072B2", "gold": "#E69F00", "random": "#999999", "perturbed": "#CC79A7"}
_QUIET, _CONTROL, _INK = "#56B4E9", "#D9D9D9", "#222222"
# Any: the keys are a Literal of matplotlib's 400 settings.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "icm",
}


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


def draw_bars(bars: Sequence[Bar], title: str) -> Figure:
    """Accuracy of the conditions with 95 % intervals; a dot a seed where there are several, a tick for raw accuracy."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(max(6.5, 1.15 * len(bars) + 1.2), 4.8), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(bars))
        heights = [bar.estimate.value for bar in bars]
        drawn = axes.bar(places, heights, width=0.68, color=[bar.colour for bar in bars], edgecolor="white", zorder=2)
        for patch, bar in zip(drawn, bars, strict=True):
            patch.set_hatch(bar.hatch)
        _draw_intervals(axes, bars)
        _draw_seeds_and_raw(axes, bars)
        axes.set_xticks(list(places), [_wrapped(bar.name) for bar in bars], fontsize=9)
        axes.set_ylim(0, 1.08)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.tick_params(length=0)
        axes.grid(axis="y", color="#E5E5E5", zorder=0)
        axes.set_ylabel("accuracy")
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=12)
        figure.text(0.99, 0.985, _legend_text(bars), ha="right", va="top", fontsize=8, color="#555555")
    return figure


def _draw_intervals(axes: Axes, bars: Sequence[Bar]) -> None:
    for place, bar in enumerate(bars):
        estimate = bar.estimate
        spread = [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
        axes.errorbar(place, estimate.value, yerr=spread, fmt="none", ecolor=_INK, elinewidth=1.2, capsize=4, zorder=4)
        axes.text(place, estimate.high + 0.02, f"{estimate.value:.0%}", ha="center", va="bottom", fontweight="bold")


def _draw_seeds_and_raw(axes: Axes, bars: Sequence[Bar]) -> None:
    for place, bar in enumerate(bars):
        if len(bar.seeds) > 1:
            spots = [place + 0.24] * len(bar.seeds)
            axes.scatter(spots, bar.seeds, s=14, color="white", edgecolor=_INK, linewidth=0.8, zorder=5)
        if abs(bar.raw - bar.estimate.value) > 1e-9:
            axes.hlines(bar.raw, place - 0.34, place - 0.1, color=_INK, linestyle=(0, (2, 1)), linewidth=1.4, zorder=5)


def _legend_text(bars: Sequence[Bar]) -> str:
    parts = [f"n = {bars[0].items}, bars: 95 % intervals"]
    if any(len(bar.seeds) > 1 for bar in bars):
        parts.append("dots: seeds")
    if any(abs(bar.raw - bar.estimate.value) > 1e-9 for bar in bars):
        parts.append("dashes: uncalibrated")
    return "; ".join(parts)


def _wrapped(name: str, width: int = 12) -> str:
    lines: list[str] = []
    for word in name.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def draw_search(decisions: Mapping[str, Sequence[Decision]]) -> Figure:
    """Utility, labelled examples, temperature and acceptance over iterations, a line a search."""
    panels = (
        ("utility U(D)", lambda found: [d.utility for d in found]),
        ("labelled examples", lambda found: [d.labelled for d in found]),
        ("temperature", lambda found: [d.temperature for d in found]),
        ("accepted changes, last 50", acceptance),
    )
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 5), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(2, 2).flat, panels, strict=True):
            for name, found in decisions.items():
                axes.plot([d.iteration for d in found], values(found), linewidth=1.3, label=name)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("iteration", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#EEEEEE")
        figure.axes[-1].set_ylim(-0.03, 1.05)
        if len(decisions) > 1:
            figure.axes[0].legend(fontsize=7, frameon=False)
    return figure


def draw_reliability(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> Figure:
    """Accuracy against stated probability of the predicted label, a panel a condition; dots grow with the items."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    least = min(mean for bins in curves.values() for mean, _, _ in bins)
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.4 * columns + 0.6, 2.3 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (name, bins) in zip(panels, curves.items(), strict=False):
            means, shares, counts = zip(*bins, strict=True)
            axes.plot([0, 1], [0, 1], color="#BBBBBB", linestyle="--", linewidth=1)
            axes.plot(means, shares, color=_COLOURS["labels"], linewidth=1.2)
            axes.scatter(means, shares, s=[120 * count / sum(counts) + 6 for count in counts], color=_COLOURS["labels"])
            axes.set(xlim=(max(0.0, least - 0.05), 1.03), ylim=(-0.03, 1.06))
            axes.set_title(name, loc="left", fontsize=9)
            axes.grid(color="#EEEEEE")
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        figure.supxlabel("probability of the predicted label", fontsize=9)
        figure.supylabel("share that is right", fontsize=9)
    return figure


def svg(figure: Figure) -> str:
    """The figure as an SVG element that scales with its container."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_png(figure: Figure, path: Path) -> None:
    """Write the figure at print resolution."""
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=160)
