"""Reports of analyses: JSON, self-contained HTML and Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icm.files import JsonObject, atomic_write, write_json
from icm.markdown import literal, table
from icm.results.analysis import Analysis, check_report_path
from icm.results.folder import StoredResult
from icm.results.format import LabeledExample, example_row
from icm.results.pages import COLOUR, data_uri, draw_search, plain, search_curves, style, svg, write_page

EXCERPTS = 5
"""Most and least confident labels that a report lists."""


@dataclass(frozen=True)
class Section:
    """One part of a report: a title, warnings, a table (first row: its head) and a drawing."""

    title: str
    level: int = 2
    warnings: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    figure: Figure | None = None


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
    if ending == ".html":
        template = Path(__file__).with_name("report.html.jinja")
        write_page(Path(path), template, title=sections[0].title, sections=sections, svg=svg)
    else:
        with atomic_write(path) as handle:
            handle.write("\n\n".join(map(_markdown, sections)) + "\n")
    return Path(path)


def _json(analyses: Sequence[Analysis], broken: Sequence[StoredResult], include_examples: bool) -> JsonObject:
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
        Section("Label balance", 3, figure=_drawn(_draw_balance, analysis)),
    ]
    if analysis.labels.histogram:
        sections.append(Section("Log-odds", 3, figure=_drawn(_draw_histogram, analysis)))
    if analysis.search:
        curves = search_curves("search", analysis.steps)
        sections.append(Section("The search", 3, figure=draw_search(curves)))
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
        ("labels without gold", str(analysis.trust or "not judged in context")),
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


def _drawn(draw: Callable[[Analysis, Axes], None], analysis: Analysis) -> Figure:
    with style():
        figure = Figure(figsize=(7, 2.8), layout="constrained")
        draw(analysis, figure.add_subplot())
    return figure


def _draw_balance(analysis: Analysis, axes: Axes) -> None:
    counts = analysis.labels.counts
    bars = axes.barh(range(len(counts)), list(counts.values()), color=COLOUR)
    axes.set_yticks(range(len(counts)), map(plain, counts))
    axes.bar_label(bars, padding=3)
    axes.set_xlabel("examples")


def _draw_histogram(analysis: Analysis, axes: Axes) -> None:
    lows, highs, counts = zip(*analysis.labels.histogram, strict=True)
    widths = [high - low for low, high in zip(lows, highs, strict=True)]
    axes.bar(lows, counts, widths, align="edge", color=COLOUR)
    axes.axvline(0, color="#888", linewidth=1)
    axes.set_xlabel("log-odds of the label given all others (nats)")
    axes.set_ylabel("examples")


def _markdown(section: Section) -> str:
    parts = [f"{'#' * section.level} {literal(section.title)}"]
    parts += [f"> **Warning:** {literal(warning)}" for warning in section.warnings]
    if section.table:
        head, *rows = [[literal(cell) for cell in row] for row in section.table]
        parts.append(table(head, rows))
    if section.figure:
        parts.append(f"![{literal(section.title)}]({data_uri(section.figure)})")
    return "\n\n".join(parts)
