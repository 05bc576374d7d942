"""What an evaluation leaves: results.json, samples, tables, figure, page."""

from pathlib import Path

from eval.report.figure import bars_of, draw_bars
from eval.report.page import write_report
from eval.report.results_json import results
from eval.report.samples import sample_rows
from eval.report.tables import markdown
from eval.scores import Evaluation
from eval.settings import slug
from icm.files import atomic_write, write_json, write_jsonl
from icm.results.pages import png


def write_all(evaluation: Evaluation, folder: Path) -> None:
    """Write all files, each atomically; results.json last, so that it stands for the rest."""
    for condition in evaluation.conditions:
        write_jsonl(folder / f"samples_{slug(condition.name)}.jsonl", sample_rows(evaluation, condition))
    with atomic_write(folder / "results.md") as handle:
        handle.write(markdown(evaluation))
    figure, found = draw_bars(bars_of(evaluation), evaluation.title), results(evaluation)
    with atomic_write(folder / "figure_1.png", "wb") as image:
        image.write(png(figure))
    write_report(folder / "report.html", evaluation, figure, found)
    write_json(folder / "results.json", found)
