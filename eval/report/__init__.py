"""What an evaluation leaves: results.json, samples, tables, figures, page."""

from pathlib import Path

from eval.report.figure import draw_all
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
    figures, found = draw_all(evaluation), results(evaluation)
    for number, figure in enumerate(figures, start=1):
        with atomic_write(folder / f"figure_{number}.png", "wb") as image:
            image.write(png(figure))
    for old in folder.glob("figure_*.png"):  # of an evaluation with more metrics
        place = old.stem.partition("_")[2]
        if place.isdecimal() and int(place) > len(figures):
            old.unlink()
    write_report(folder / "report.html", evaluation, figures[0], found)
    write_json(folder / "results.json", found)
