"""What the pages of an analysis and of an evaluation share: drawings, the search's curves, self-contained HTML."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icm.files import atomic_write
from icm.results.analysis import WINDOW, acceptance, by_search, confirmation
from icm.results.fonts import FAMILY, readable
from icm.results.trace import Step

COLOUR = "#0072B2"
INK = "#222222"
# Text instead of outlines: what no font here can draw, one of the reader's may.
_FONTS_OF_THE_READER: Any = {"svg.fonttype": "none"}
# Any: the keys are a Literal of matplotlib's 400 settings.
_STYLE: Any = {
    "font.family": FAMILY,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "text.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "icm",
}


def style() -> AbstractContextManager[None]:
    """The look of all drawings. Figures are made without pyplot: no global state, no display."""
    return rc_context(_STYLE)


def plain(text: str, longest: int = 80) -> str:
    """Any text for a drawing: cut where it would leave no room, and a dollar sign would start a formula."""
    short = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return short.replace("$", r"\$")


def svg(figure: Figure) -> Markup:
    """The figure as an SVG element that scales with its container; matplotlib escapes the texts in it."""
    buffer = io.StringIO()
    with readable(figure) as complete, rc_context({} if complete else _FONTS_OF_THE_READER):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def png(figure: Figure) -> bytes:
    """The figure at print resolution."""
    buffer = io.BytesIO()
    with readable(figure):
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(figure: Figure) -> str:
    """The figure as an address that holds the image itself, for Markdown."""
    return f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"


def search_curves(name: str, steps: Sequence[Step]) -> dict[str, list[Step]]:
    """The steps of each search in a trace by its name in the legend."""
    searches = by_search(steps)
    return {
        f"{name}, restart {restart + 1}, batch {batch + 1}" if len(searches) > 1 else name: found
        for (restart, batch), found in searches.items()
    }


@dataclass(frozen=True)
class _Panel:
    title: str
    values: Callable[[Sequence[Step]], Sequence[float]]
    share: bool = False


_PANELS = (
    _Panel("utility U(D)", lambda found: [d.utility for d in found]),
    _Panel("labelled examples", lambda found: [d.labelled for d in found]),
    _Panel("labels that a fresh order leaves as they are", confirmation, share=True),
    _Panel(f"accepted changes, last {WINDOW}", acceptance, share=True),
)


def draw_search(curves: Mapping[str, Sequence[Step]]) -> Figure:
    """Utility, labelled examples, what fresh orders confirm and acceptance over iterations, a line a search; what stays
    the same all along, or is nowhere to be had, is left out."""
    drawn = {panel: {name: panel.values(found) for name, found in curves.items()} for panel in _PANELS}
    moving = [panel for panel, lines in drawn.items() if panel is _PANELS[0] or _moves(lines.values())]
    rows = -(-len(moving) // 2)
    with style():
        figure = Figure(figsize=(9, 2.5 * rows), layout="constrained")
        for axes, panel in zip(figure.subplots(rows, min(2, len(moving)), squeeze=False).flat, moving, strict=False):
            for name, found in curves.items():
                known = [(step.iteration, y) for step, y in zip(found, drawn[panel][name], strict=True) if y == y]
                mark = "." if len(known) < 9 else ""
                axes.plot(*zip(*known, strict=True), linewidth=1.3, label=plain(name), marker=mark)
            axes.set_title(panel.title, loc="left", fontsize=10)
            axes.set_xlabel("iteration", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#EEEEEE")
            if panel.share:
                axes.set_ylim(top=1.05)
        for axes in figure.axes[len(moving) :]:
            axes.set_axis_off()
        if 1 < len(curves) <= 8:
            figure.axes[0].legend(fontsize=7, frameon=False)
    return figure


def _moves(lines: Iterable[Sequence[float]]) -> bool:
    """Whether one of the lines has two values."""
    return any(len({value for value in line if value == value}) > 1 for line in lines)  # NaN is not itself


def write_page(path: Path, template: Path, **values: object) -> None:
    """Render a template, which may extend `base.html.jinja`, and write the page."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(**values)
    with atomic_write(path) as handle:
        handle.write(page)
