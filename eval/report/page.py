"""One self-contained HTML page: no scripts, no external resources, readable on a phone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from eval.experiment import Experiment
from eval.labels import LabelFile
from eval.metrics.probability_quality import reliability
from eval.report.figure import Bar, draw_bars, draw_reliability, draw_search, svg
from eval.scores import NO_ANSWER, ConditionScores
from icm.files import atomic_write
from icm.results.accuracy import measure_accuracy
from icm.results.analysis import by_search, read_trace
from icm.results.format import trace_path

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


def write_report(
    path: Path,
    experiment: Experiment,
    conditions: Sequence[ConditionScores],
    bars: Sequence[Bar],
    results: Mapping[str, Any],
) -> None:
    """Render the page and write it."""
    data = experiment.data.dataset
    files = list(experiment.label_files.values())
    page = _template().render(
        title=f"{data.name}: evaluation",
        items=len(data),
        questions=len({example.group for example in data}),
        conditions=conditions,
        results=results,
        figure=_drawing(svg(draw_bars(bars, f"Accuracy on {len(data)} held-out items"))),
        search=_search_drawing(files),
        reliability=_reliability_drawing(conditions),
        confusions=[_confusion(condition, experiment.label_space.labels) for condition in conditions],
        found_labels=[_found_labels(file) for file in files],
        cost=_cost(conditions),
        settings=yaml.safe_dump(_plain(results["config"]), sort_keys=False, allow_unicode=True),
    )
    with atomic_write(path) as handle:
        handle.write(page)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _drawing(text: str) -> Markup:
    # Our own SVG: matplotlib escapes the texts in it.
    return Markup(text)


def _search_drawing(files: Sequence[LabelFile]) -> Markup | None:
    """Curves of every search that left a trace beside its labels."""
    curves: dict[str, Any] = {}
    for file in files:
        trace = trace_path(file.path)
        if trace.exists():
            for (restart, batch), decisions in by_search(read_trace(trace)).items():
                several = f" (restart {restart}, batch {batch})" if restart or batch else ""
                curves[Path(file.path).stem + several] = decisions
    return _drawing(svg(draw_search(curves))) if curves else None


def _reliability_drawing(conditions: Sequence[ConditionScores]) -> Markup | None:
    curves = {}
    for condition in conditions:
        found = [run.normalised(condition.calibration) for run in condition.runs]
        if all(log_probs is not None for log_probs in found):
            probabilities = np.exp(np.concatenate([log_probs for log_probs in found if log_probs is not None]))
            curves[condition.name] = reliability(probabilities, np.tile(condition.gold, len(found)))
    return _drawing(svg(draw_reliability(curves))) if curves else None


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


def _cost(conditions: Sequence[ConditionScores]) -> list[tuple[str, dict[str, float]]]:
    return [(condition.name, condition.usage()) for condition in conditions]


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
