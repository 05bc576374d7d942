"""Reports of analyses: JSON, self-contained HTML and Markdown."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icm.files import atomic_write, write_json
from icm.results.analysis import Analysis, acceptance, by_search, check_report_path
from icm.results.folder import StoredResult
from icm.results.format import LabeledExample, example_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EXCERPTS = 5
"""Most and least confident labels that a report lists."""

COLOUR = "#30638e"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;"
    "text-align:left;vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere}img{max-width:100%}"
    ".warning{background:#fff3cd;border-left:4px solid #e0a800;padding:.5em 1em}"
)


@dataclass(frozen=True)
class Section:
    """One part of a report: a title, warnings, a table (first row: its head) and a plot (PNG bytes)."""

    title: str
    level: int = 2
    warnings: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    image: bytes = b""


def write_report(
    path: str | Path,
    analyses: Sequence[Analysis],
    broken: Sequence[StoredResult] = (),
    include_examples: bool = False,
) -> Path:
    """Write a report of one or more results; the ending of `path` decides the form.

    Args:
        path: .json, .html or .md.
        analyses: what to report.
        broken: files that could not be read.
        include_examples: list the most and the least confident labels.

    Raises:
        ConfigError: another ending.
    """
    ending = check_report_path(path)
    if ending == ".json":
        write_json(path, _json(analyses, broken, include_examples))
        return Path(path)
    sections = _overview(analyses, broken)
    for analysis in analyses:
        sections += _sections(analysis, include_examples)
    render = _html if ending == ".html" else _markdown
    with atomic_write(path) as handle:
        handle.write(render(sections))
    return Path(path)


def _json(analyses: Sequence[Analysis], broken: Sequence[StoredResult], include_examples: bool) -> dict[str, object]:
    reports = []
    for analysis in analyses:
        report = analysis.as_json()
        if include_examples:
            report["excerpts"] = [example_row(item) for _, item in _excerpts(analysis)]
        reports.append(report)
    return {"results": reports, "broken": [{"name": entry.name, "error": entry.error} for entry in broken]}


def _overview(analyses: Sequence[Analysis], broken: Sequence[StoredResult]) -> list[Section]:
    warnings = [f"cannot be read: {entry.error}" for entry in broken]
    if len(analyses) < 2:
        return [Section("ICM analysis", 1, warnings)]
    head = ["result", "task", "model", "examples", "utility", "accuracy"]
    rows = [[a.name, a.task, a.model, str(a.examples), _score(a.score), _accuracy(a)] for a in analyses]
    return [Section("ICM analysis", 1, warnings, [head, *rows])]


def _sections(analysis: Analysis, include_examples: bool) -> list[Section]:
    facts = [["figure", "value"], *map(list, _facts(analysis))]
    sections = [
        Section(analysis.name, 2, analysis.warnings, facts),
        Section("Label balance", 3, image=_figure(partial(_draw_balance, analysis))),
    ]
    if analysis.labels.histogram:
        sections.append(Section("Log-odds", 3, image=_figure(partial(_draw_histogram, analysis))))
    if analysis.search:
        plots = (("Utility", _draw_utility), ("Temperature", _draw_temperature), ("Accepted changes", _draw_acceptance))
        sections += [Section(title, 3, image=_figure(partial(draw, analysis))) for title, draw in plots]
    if include_examples:
        sections.append(Section("Most and least confident labels", 3, table=_excerpt_table(analysis)))
    return sections


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    share = {label: f"{count} ({count / analysis.examples:.0%})" for label, count in analysis.labels.counts.items()}
    facts = [
        ("task", analysis.task),
        ("model", analysis.model),
        ("algorithm", analysis.algorithm),
        ("examples", str(analysis.examples)),
        ("labels", ", ".join(f"{label}: {text}" for label, text in share.items())),
        ("utility U(D)", _score(analysis.score)),
        ("log-odds (nats)", _odds(analysis)),
        ("accuracy", _accuracy(analysis)),
    ]
    return (
        facts + _search_facts(analysis) + [(f"cost: {key}", f"{value:,.10g}") for key, value in analysis.usage.items()]
    )


def _search_facts(analysis: Analysis) -> list[tuple[str, str]]:
    search = analysis.search
    if search is None:
        return [("search", "no trace beside the result")]
    return [
        ("search", f"{search.decisions} decisions in {search.searches} searches"),
        ("changes of one label", f"{search.proposed} proposed, {search.accepted} accepted"),
        ("utility, first to last", f"{search.first_utility:.3f} → {search.last_utility:.3f}"),
    ]


def _score(score: float | None) -> str:
    return "none (no model)" if score is None else f"{score:.4f}"


def _odds(analysis: Analysis) -> str:
    odds = analysis.labels.log_odds
    if not odds:
        return "none (no model scored the labels)"
    return f"median {odds['median']:.2f}, range {odds['min']:.2f} to {odds['max']:.2f}"


def _accuracy(analysis: Analysis) -> str:
    accuracy = analysis.accuracy
    if accuracy is None:
        return f"not known: {analysis.gold_note}"
    interval = f"95 % interval {accuracy.low:.3f} to {accuracy.high:.3f}"
    of = f"{accuracy.correct} of {accuracy.total}"
    return f"{accuracy.value:.3f} ({of}; {interval}); most frequent gold label alone: {accuracy.majority:.3f}"


def _excerpts(analysis: Analysis) -> list[tuple[float, LabeledExample]]:
    """Most confident first; labels without log-odds are left out."""
    scored = [(item.log_odds, item) for item in analysis.items if item.log_odds is not None]
    scored.sort(key=lambda entry: -entry[0])
    return scored if len(scored) <= 2 * EXCERPTS else scored[:EXCERPTS] + scored[-EXCERPTS:]


def _excerpt_table(analysis: Analysis) -> list[list[str]]:
    rows = [[f"{odds:.2f}", item.label, item.example.input] for odds, item in _excerpts(analysis)]
    return [["log-odds", "label", "input"], *rows]


def _figure(draw: Callable[["Axes"], None]) -> bytes:
    """PNG of one plot. Without pyplot: no global state, no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_balance(analysis: Analysis, axes: "Axes") -> None:
    counts = analysis.labels.counts
    # A label is any text: `$` would start TeX in a tick label.
    bars = axes.barh([label.replace("$", r"\$") for label in counts], list(counts.values()), color=COLOUR)
    axes.bar_label(bars, padding=3)
    axes.set_xlabel("examples")


def _draw_histogram(analysis: Analysis, axes: "Axes") -> None:
    lows, highs, counts = zip(*analysis.labels.histogram, strict=True)
    widths = [high - low for low, high in zip(lows, highs, strict=True)]
    axes.bar(lows, counts, widths, align="edge", color=COLOUR)
    axes.axvline(0, color="#888", linewidth=1)
    axes.set_xlabel("log-odds of the label given all others (nats)")
    axes.set_ylabel("examples")


def _draw_utility(analysis: Analysis, axes: "Axes") -> None:
    _draw_course(analysis, axes, "U(D)", lambda decisions: [d.utility for d in decisions])


def _draw_temperature(analysis: Analysis, axes: "Axes") -> None:
    _draw_course(analysis, axes, "T", lambda decisions: [d.temperature for d in decisions])
    axes.set_yscale("log")


def _draw_acceptance(analysis: Analysis, axes: "Axes") -> None:
    _draw_course(analysis, axes, "share of proposed", acceptance)
    axes.set_ylim(0, 1.05)


def _draw_course(
    analysis: Analysis, axes: "Axes", name: str, values: Callable[[Sequence[Any]], Sequence[float]]
) -> None:
    for (restart, batch), decisions in by_search(analysis.decisions).items():
        label = f"search {restart + 1}, batch {batch + 1}"
        axes.plot([d.iteration for d in decisions], values(decisions), linewidth=1.2, label=label)
    axes.set_xlabel("iteration")
    axes.set_ylabel(name)
    if 1 < len(axes.lines) <= 8:
        axes.legend(fontsize="small", frameon=False)


def _html(sections: Sequence[Section]) -> str:
    title = html.escape(sections[0].title)
    body = "\n".join(map(_html_section, sections))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html_section(section: Section) -> str:
    title = html.escape(section.title)
    parts = [f"<h{section.level}>{title}</h{section.level}>"]
    parts += [f'<p class="warning">{html.escape(warning)}</p>' for warning in section.warnings]
    if section.table:
        head, *rows = section.table
        lines = [_html_row(head, "th"), *(_html_row(row, "td") for row in rows)]
        parts.append("<table>\n" + "\n".join(lines) + "\n</table>")
    if section.image:
        parts.append(f'<img alt="{title}" src="{_data_uri(section.image)}">')
    return "\n".join(parts)


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _markdown(sections: Sequence[Section]) -> str:
    return "\n\n".join(map(_markdown_section, sections)) + "\n"


def _markdown_section(section: Section) -> str:
    parts = [f"{'#' * section.level} {_plain(section.title)}"]
    parts += [f"> **Warning:** {_plain(warning)}" for warning in section.warnings]
    if section.table:
        head, *rows = ["| " + " | ".join(map(_plain, row)) + " |" for row in section.table]
        parts.append("\n".join([head, "|" + "---|" * len(section.table[0]), *rows]))
    if section.image:
        parts.append(f"![{_plain(section.title)}]({_data_uri(section.image)})")
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """Text that a Markdown table cell shows as it is, HTML included."""
    escaped = html.escape(text, quote=False)
    for mark in "\\`*_|[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return "<br>".join(escaped.splitlines())


def _data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
