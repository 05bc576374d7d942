"""One self-contained HTML page: no scripts, no external resources, readable on a phone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from eval.benchmarks.scores import BenchmarkScores
from eval.labels import LabelFile
from eval.metrics.probability_quality import reliability
from eval.report.figure import draw_benchmark, draw_reliability
from eval.scores import NO_ANSWER, ConditionScores, Evaluation
from icm.files import JsonObject, dump_json
from icm.results.accuracy import measure_accuracy
from icm.results.format import trace_path
from icm.results.pages import draw_search, search_curves, svg, write_page
from icm.results.trace import Step, read_trace

EXAMPLES = 12
"""Disagreements between found labels and gold that the page lists."""


@dataclass(frozen=True)
class Confusion:
    """Predictions of one condition against gold, first seed.

    Attributes:
        name: condition.
        columns: predicted labels, "no answer" last where there are any.
        rows: (gold label, count of each column).
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int]]]

    def shade(self, count: int, row: Sequence[int]) -> float:
        """Share of the row, for the cell's colour."""
        return count / max(1, sum(row))


@dataclass(frozen=True)
class Disagreement:
    """An example whose found label is not gold."""

    text: str
    found: str
    gold: str
    log_odds: float | None


@dataclass(frozen=True)
class FoundLabels:
    """What the page says about one label file."""

    name: str
    examples: int
    accuracy: float | None
    disagreements: Sequence[Disagreement]
    total: int


def write_report(path: Path, evaluation: Evaluation, figure: Figure, results: JsonObject) -> None:
    """Render the page and write it.

    Args:
        figure: accuracy of the conditions.
        results: content of results.json.
    """
    experiment, conditions = evaluation.experiment, evaluation.conditions
    data, files = experiment.data.dataset, list(experiment.label_files.values())
    plain_settings = json.loads(dump_json(results["config"]))  # YAML has no tuples
    write_page(
        path,
        Path(__file__).with_name("page.html.jinja"),
        title=f"{data.name}: evaluation",
        items=len(data),
        questions=len({example.group for example in data}),
        conditions=conditions,
        results=results,
        figure=svg(figure),
        benchmarks=[(scores, _benchmark_drawing(scores)) for scores in evaluation.benchmarks],
        search=_search_drawing(files),
        reliability=_reliability_drawing(conditions),
        confusions=[_confusion(condition, experiment.label_space.labels) for condition in conditions],
        found_labels=[_found_labels(file) for file in files],
        cost=[(condition.name, condition.usage()) for condition in conditions],
        settings=yaml.safe_dump(plain_settings, sort_keys=False, allow_unicode=True),
    )


def _benchmark_drawing(scores: BenchmarkScores) -> Markup | None:
    figure = draw_benchmark(scores)
    return svg(figure) if figure else None


def _search_drawing(files: Sequence[LabelFile]) -> Markup | None:
    """Curves of every search that left a trace beside its labels."""
    curves: dict[str, list[Step]] = {}
    for file in files:
        trace = trace_path(file.path)
        if trace.exists():
            curves |= search_curves(Path(file.path).stem, read_trace(trace))
    return svg(draw_search(curves)) if curves else None


def _reliability_drawing(conditions: Sequence[ConditionScores]) -> Markup | None:
    curves = {}
    for condition in conditions:
        found = [run.normalised(condition.calibration) for run in condition.runs]
        if all(log_probs is not None for log_probs in found):
            probabilities = np.exp(np.concatenate([log_probs for log_probs in found if log_probs is not None]))
            curves[condition.name] = reliability(probabilities, np.tile(condition.gold, len(found)))
    return svg(draw_reliability(curves)) if curves else None


def _confusion(condition: ConditionScores, labels: Sequence[str]) -> Confusion:
    predictions = condition.runs[0].predictions(condition.calibration)
    places = [*range(len(labels)), *([NO_ANSWER] if (predictions == NO_ANSWER).any() else [])]
    rows = [
        (label, [int(((condition.gold == gold) & (predictions == place)).sum()) for place in places])
        for gold, label in enumerate(labels)
    ]
    return Confusion(condition.name, [labels[place] if place >= 0 else "no answer" for place in places], rows)


def _found_labels(file: LabelFile) -> FoundLabels:
    """The label file's errors, the most confident first: what the search believes against gold."""
    accuracy = measure_accuracy(file.labels, file.gold)
    known = (item for item in file.result.labeled_examples if item.example.id in file.gold)
    wrong = [item for item in known if item.label != file.gold[item.example.id]]
    wrong.sort(key=lambda item: -(item.log_odds or 0.0))
    shown = [
        Disagreement(item.example.input, item.label, file.gold[item.example.id], item.log_odds)
        for item in wrong[:EXAMPLES]
    ]
    share = None if accuracy is None else accuracy.value
    return FoundLabels(Path(file.path).name, len(file.labels), share, shown, len(wrong))
