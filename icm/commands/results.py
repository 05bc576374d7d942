"""`icm list`, `icm analyze` and `icm clean`: what a folder of result files holds."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icm.commands import parser as parsing
from icm.labelling.options import OutputConfig
from icm.text import one_line, say

if TYPE_CHECKING:
    from icm.results.analysis import Analysis
    from icm.results.folder import ICMStorage, StoredResult

_TIME = "%Y-%m-%d %H:%M"


def add_commands(subparsers: parsing.Subparsers) -> None:
    """Add the three commands."""
    add = parsing.add_command
    listing = add(
        subparsers, "list", show_list, "list saved results, newest first", "  icm list --results-dir icm_results"
    )
    analysis = add(
        subparsers,
        "analyze",
        show_analysis,
        "show labels, search, cost and accuracy of results",
        "  icm analyze\n  icm analyze --result-file icm_results/truthfulqa_gpt2_20240115_143022.jsonl",
    )
    analysis.add_argument("--result-file", metavar="FILE", help="one result: a path, or a name in the results folder")
    analysis.add_argument(
        "--output-path", metavar="FILE", help="write a report as well (.json, .html or .md, with plots)"
    )
    parsing.add_task_type(analysis)
    cleaning = add(
        subparsers,
        "clean",
        clean,
        "remove all but the latest results",
        "  icm clean --keep-latest 10",
    )
    cleaning.add_argument(
        "--keep-latest", metavar="N", type=int, default=10, help="results to keep (default: %(default)s)"
    )
    for parser in (listing, analysis, cleaning):
        folder = OutputConfig.output_dir
        parser.add_argument(
            "--results-dir", metavar="DIR", default=folder, help="results folder (default: %(default)s)"
        )


def _storage(arguments: argparse.Namespace) -> "ICMStorage":
    """The results folder, which may not exist yet unless it was named."""
    from icm.errors import ConfigError
    from icm.results.folder import ICMStorage

    folder = Path(arguments.results_dir)
    if not folder.is_dir() and arguments.results_dir != OutputConfig.output_dir:
        raise ConfigError(f"--results-dir {folder}: no such folder; `icm run --output-dir` makes it")
    return ICMStorage(folder)


def show_list(arguments: argparse.Namespace) -> int:
    """Print a table of the folder's results. Exit code 2 if one of them is broken."""
    stored = _storage(arguments).list_results()
    if not stored:
        say(f"no results in {arguments.results_dir}; `icm run` makes one")
        return 0
    sound = [entry for entry in stored if entry.error is None]
    rows = [(e.name, e.created.strftime(_TIME), e.task, e.model, str(e.examples), _number(e.score)) for e in sound]
    _print_table(("result", "created (UTC)", "task", "model", "examples", "utility"), rows)
    return _report_broken(stored)


def show_analysis(arguments: argparse.Namespace) -> int:
    """Print the statistics of one result or of all. Exit code 2 if one of them is broken."""
    from icm.results.analysis import analyze_file, analyze_folder, check_report_path
    from icm.results.folder import StoredResult
    from icm.results.report import write_report

    if arguments.output_path is not None:
        check_report_path(arguments.output_path)
    storage = _storage(arguments)
    if arguments.result_file is not None:
        path = storage.find(arguments.result_file)
        analyses, broken = [analyze_file(path, arguments.task_type)], list[StoredResult]()
    else:
        analyses, broken = analyze_folder(storage, arguments.task_type)
    say("\n\n".join(map(_text, analyses)) or f"no results in {arguments.results_dir}; `icm run` makes one")
    if arguments.output_path is not None:
        say(write_report(arguments.output_path, analyses, broken, include_examples=True))
    return _report_broken(broken)


def clean(arguments: argparse.Namespace) -> int:
    """Remove old results and print what was removed."""
    removed = _storage(arguments).clean_old_results(arguments.keep_latest)
    for path in removed:
        say(f"removed {path}")
    say(f"{len(removed)} files removed")
    return 0


def _report_broken(stored: "Sequence[StoredResult]") -> int:
    errors = [entry.error for entry in stored if entry.error is not None]
    for error in errors:
        say(f"icm: error: {error}", error=True)
    return 2 if errors else 0


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Plain columns: readable on a terminal, and whole when piped to another program."""
    rows = [[*map(one_line, row)] for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _text(analysis: "Analysis") -> str:
    """The figures of one result, a line each."""
    found = {title: describe(analysis) for title, describe in _LINES}
    return "\n".join(f"{title:<12} {one_line(text)}" for title, text in found.items() if text)


def _balance(analysis: "Analysis") -> str:
    shares = ((label, count, count / analysis.examples) for label, count in analysis.labels.counts.items())
    return ", ".join(f"{count} {label} ({share:.1%})" for label, count, share in shares)


def _odds(analysis: "Analysis") -> str:
    found = analysis.labels.log_odds
    names = (("min", "min"), ("quartile_1", "25 %"), ("median", "median"), ("quartile_3", "75 %"), ("max", "max"))
    return ", ".join(f"{title} {found[name]:.2f}" for name, title in names) if found else "not scored by a model"


def _search(analysis: "Analysis") -> str:
    search = analysis.search
    if search is None:
        return "no decisions beside the result"
    changes = f"{search.decisions} decisions, {search.proposed} proposed changes, {search.accepted} accepted"
    return f"{changes}; utility {search.first_utility:.4f} → {search.last_utility:.4f}"


def _cost(analysis: "Analysis") -> str:
    tokens, seconds = (analysis.usage.get(name) for name in ("computed_tokens", "seconds"))
    return "not known" if tokens is None else f"{tokens:,.0f} tokens computed in {seconds or 0:,.1f} s"


def _accuracy(analysis: "Analysis") -> str:
    found = analysis.accuracy
    if found is None:
        return f"not known: {analysis.gold_note}"
    interval = f"95 % interval {found.low:.1%} to {found.high:.1%}"
    of = f"{found.value:.1%} of {found.total} labels with gold ({interval})"
    return f"{of}; most frequent gold label {found.majority:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


_LINES: "Sequence[tuple[str, Callable[[Analysis], str]]]" = (
    ("result", lambda analysis: analysis.name),
    ("task", lambda analysis: analysis.task),
    ("model", lambda analysis: analysis.model),
    ("algorithm", lambda analysis: analysis.algorithm),
    ("final score", lambda analysis: _number(analysis.score)),
    ("examples", lambda analysis: str(analysis.examples)),
    ("labels", _balance),
    ("log-odds", _odds),
    ("search", _search),
    ("cost", _cost),
    ("without gold", lambda analysis: str(analysis.trust or "")),
    ("accuracy", _accuracy),
    ("WARNING", lambda analysis: "; ".join(analysis.warnings)),
)
