"""Statistics of a result file and its trace: label balance, confidence, course of the search, cost, accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from icm.errors import ConfigError, ICMError
from icm.examples import GoldLabels
from icm.results.accuracy import Accuracy, measure_accuracy
from icm.results.folder import ICMStorage, StoredResult, stored_result
from icm.results.format import ICMResult, LabeledExample, read_result, trace_path
from icm.results.record import DataRecord
from icm.results.trace import Decision, FreshOrder, Step, read_trace
from icm.results.trust import Trust, judged
from icm.results.twins import load_gold

REPORT_ENDINGS = (".json", ".html", ".md")
HISTOGRAM_BINS = 20
FoundGold = tuple[GoldLabels | None, str]
"""Gold, or None and why there is none."""
WINDOW = 50
"""Decisions over which the share of accepted changes is taken."""


@dataclass(frozen=True)
class LabelStatistics:
    """How the labels lie.

    Attributes:
        counts: label → examples, for every label of the space.
        log_odds: minimum, quartiles, maximum and mean of the labels' log-odds (nats); empty if no model scored.
        unscored: examples without log-odds.
        histogram: (lower edge, upper edge, examples) of equally wide bins over the log-odds.
        input_characters: minimum, mean and maximum length of the inputs.
    """

    counts: dict[str, int]
    log_odds: dict[str, float]
    unscored: int
    histogram: list[tuple[float, float, int]]
    input_characters: dict[str, float]


@dataclass(frozen=True)
class SearchStatistics:
    """The course of the search.

    Attributes:
        searches: (restart, batch) runs in the trace.
        decisions: iterations of all searches.
        proposed: decisions that proposed another label than the present one, or a first one.
        accepted: of those, accepted.
        first_utility, last_utility: U(D) after the first and the last decision.
    """

    searches: int
    decisions: int
    proposed: int
    accepted: int
    first_utility: float
    last_utility: float


@dataclass(frozen=True)
class Analysis:
    """All statistics of one result.

    Attributes:
        name: of the result file, without ending.
        task, model, algorithm, score: as the result says.
        examples: number of labelled examples.
        labels: balance and confidence.
        trust: what speaks for the labels without gold; None where no model has judged them in context.
        search: course of the search; None without a trace.
        usage: cost: prompts, tokens, seconds.
        accuracy: against gold; None where `gold_note` says why.
        warnings: what the reader must know before using the labels.
        settings: the run's settings, as the result says.
        steps: the trace, for plots.
        items: the labelled examples, for the report's excerpts.
    """

    name: str
    task: str
    model: str
    algorithm: str
    examples: int
    score: float | None
    labels: LabelStatistics
    trust: Trust | None
    search: SearchStatistics | None
    usage: dict[str, float]
    accuracy: Accuracy | None
    gold_note: str
    warnings: list[str]
    settings: Mapping[str, object] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    items: Sequence[LabeledExample] = ()

    def as_json(self) -> dict[str, object]:
        """The figures, without trace and examples."""
        shown_fields = {key: value for key, value in vars(self).items() if key not in ("steps", "items")}
        parts = {key: asdict(value) for key, value in shown_fields.items() if hasattr(value, "__dataclass_fields__")}
        if self.accuracy:
            parts["accuracy"] |= {"value": self.accuracy.value}
        return shown_fields | parts


def analyze(
    result: ICMResult,
    steps: Sequence[Step] = (),
    gold: GoldLabels | None = None,
    name: str = "result",
    gold_note: str = "no gold labels given",
) -> Analysis:
    """Statistics of a result, of its trace if given, and its accuracy if gold is given.

    Args:
        result: what to judge.
        steps: its trace.
        gold: labels that are known.
        name: heading of a report.
        gold_note: why there is no gold.
    """
    labels, record = label_statistics(result), result.record
    found = {item.example.id: item.label for item in result.labeled_examples if not item.trusted}
    accuracy = measure_accuracy(found, gold) if gold is not None else None
    return Analysis(
        name=name,
        task=result.task,
        model=record.model_name,
        algorithm=record.algorithm or "unknown",
        examples=len(result.labeled_examples),
        score=result.score,
        labels=labels,
        trust=judged(result),
        search=_search_statistics(steps),
        usage=dict(record.usage),
        accuracy=accuracy,
        gold_note="" if accuracy else gold_note,
        warnings=_warnings(labels, len(result.labeled_examples)),
        settings=record.settings,
        steps=steps,
        items=result.labeled_examples,
    )


def analyze_file(path: str | Path, task_type: str | None = None) -> Analysis:
    """Statistics of a result file, with the trace beside it and the gold of its data source where there are such.
    `task_type`: see `ICMResult`."""
    return _analysis_of(Path(path), read_result(path, task_type), {})


def _analysis_of(path: Path, result: ICMResult, known: dict[str, FoundGold]) -> Analysis:
    beside = trace_path(path)
    steps = read_trace(beside) if beside.exists() else []
    gold, note = find_gold(result, known)
    return analyze(result, steps, gold, path.stem, note)


def analyze_folder(storage: ICMStorage, task_type: str | None = None) -> tuple[list[Analysis], list[StoredResult]]:
    """Statistics of every sound result of the folder, newest first, and the files that are broken. Each file is read
    once, and so is the data of all results that name the same."""
    found: dict[Path, Analysis] = {}
    known: dict[str, FoundGold] = {}

    def summary(path: Path) -> StoredResult:
        result = read_result(path, task_type)
        found[path] = _analysis_of(path, result, known)
        return stored_result(path, result)

    stored = storage.list_results(summary)
    analyses = [found[entry.path] for entry in stored if entry.error is None]
    return analyses, [entry for entry in stored if entry.error is not None]


def label_statistics(result: ICMResult) -> LabelStatistics:
    """Balance and confidence of the labels."""
    items = result.labeled_examples
    odds = [item.log_odds for item in items if item.log_odds is not None]
    lengths = [len(item.example.input) for item in items]
    return LabelStatistics(
        counts=result.label_counts,
        log_odds=_summary(odds),
        unscored=len(items) - len(odds),
        histogram=_histogram(odds),
        input_characters={"min": min(lengths), "mean": fmean(lengths), "max": max(lengths)},
    )


def _summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    names = ("min", "quartile_1", "median", "quartile_3", "max")
    bounds = dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True))
    return bounds | {"mean": fmean(values)}


def _histogram(values: Sequence[float]) -> list[tuple[float, float, int]]:
    if not values:
        return []
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def _warnings(labels: LabelStatistics, examples: int) -> list[str]:
    label, count = max(labels.counts.items(), key=lambda entry: entry[1])
    if count == examples:
        return [f"collapsed: all {examples} labels are {label!r}; such labels say nothing"]
    never = [name for name, given in labels.counts.items() if not given]
    return [f"labels never given: {', '.join(never)}"] if never else []


def _search_statistics(steps: Sequence[Step]) -> SearchStatistics | None:
    decisions = [step for step in steps if isinstance(step, Decision)]
    if not decisions:
        return None
    proposed = [decision for decision in decisions if decision.changes]
    return SearchStatistics(
        searches=len(by_search(decisions)),
        decisions=len(decisions),
        proposed=len(proposed),
        accepted=sum(decision.accepted for decision in proposed),
        first_utility=decisions[0].utility,
        last_utility=decisions[-1].utility,
    )


def by_search(steps: Sequence[Step]) -> dict[tuple[int, int], list[Step]]:
    """(restart, batch) → its steps, in order."""
    searches: dict[tuple[int, int], list[Step]] = {}
    for step in steps:
        searches.setdefault((step.restart, step.batch), []).append(step)
    return searches


def acceptance(steps: Sequence[Step]) -> list[float]:
    """Share of accepted among proposed changes over the last `WINDOW` steps; NaN where nothing was proposed."""
    shares = []
    for end in range(1, len(steps) + 1):
        recent = [step.accepted for step in steps[max(0, end - WINDOW) : end] if step.changes]
        shares.append(fmean(recent) if recent else float("nan"))
    return shares


def confirmation(steps: Sequence[Step]) -> list[float]:
    """Share of the labels that earlier orders prefer too, where an order is new; NaN at decisions."""
    return [
        1 - len(step.changes) / step.labelled if isinstance(step, FreshOrder) and step.labelled else float("nan")
        for step in steps
    ]


def find_gold(result: ICMResult, known: dict[str, FoundGold] | None = None) -> FoundGold:
    """Gold of the data that the result names as its source, or None and why there is none.

    Args:
        result: with the source.
        known: what was found for earlier results, by source; the new one is added.
    """
    source = result.record.data.source
    if source is None:
        return None, "the result does not name its data source"
    known = {} if known is None else known
    # What was drawn from the data, and by which seed, does not change their gold; what is made from a seed is its own.
    whole = source.whole if source.dataset.startswith("synthetic:") else replace(source.whole, seed=0)
    key = repr((whole, result.task, result.record.template, result.file and Path(result.file).parent))
    if key not in known:
        known[key] = _loaded_gold(replace(result, record=replace(result.record, data=DataRecord(whole))))
    return known[key]


def _loaded_gold(result: ICMResult) -> FoundGold:
    try:
        gold = load_gold(result)
    except (ICMError, OSError) as error:
        return None, f"the data source cannot be loaded: {error}"
    return (gold, "") if gold else (None, "the data source has no gold labels")


def check_report_path(path: str | Path) -> str:
    """The ending of a report's path. Raises ConfigError if no report has such a form."""
    ending = Path(path).suffix.lower()
    if ending not in REPORT_ENDINGS:
        raise ConfigError(f"output_path: found {str(path)!r}, expected a file ending in {', '.join(REPORT_ENDINGS)}")
    return ending
