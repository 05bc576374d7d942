"""From a dataset and an engine to a result: batches, restarts, and the best of what they found."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.engines.base import Engine
from icm.examples import TRUSTED, ICMDataset, ICMExample, claim_of_each
from icm.labelling.batches import say_batches, split_batches
from icm.labelling.unit import Job, check_history, label_unit
from icm.labelling.workers import Workers
from icm.prompts import PromptEncoder
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.trace import Cost, End, SearchRow, Unit
from icm.results.units import Trace, open_trace
from icm.search.checks import named_rules, rule_checker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after a trace row.

    Attributes:
        row: the row; it names its unit.
        units: searches in all: batches times restarts.
        finished, running: of them.
        computed_tokens: tokens that went through the model so far.
    """

    row: SearchRow
    units: int
    finished: int
    running: int
    computed_tokens: int


def run_labeling(
    dataset: ICMDataset,
    engine: Engine | Workers,
    config: SearchConfig,
    checker: LogicalConsistencyChecker | None = None,
    trace_path: Path | None = None,
    resume: bool = False,
    header: Mapping[str, object] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    batches: Sequence[ICMDataset] | None = None,
) -> ICMResult:
    """Label a dataset.

    Args:
        dataset: examples without gold.
        engine: a loaded model, or workers of which each has one; the result is the same.
        config: algorithm and settings.
        checker: logical rules; None takes the task's own and those of `config.rules`.
        trace_path: where each decision is logged; needed for `resume`.
        resume: continue the run in `trace_path`.
        header: identity of the run beyond data and settings (model, revision); a resumed run must have the same.
        on_progress: called after each trace row.
        batches: the dataset as `split_batches` gives it; None splits it.

    Returns:
        Labels of all examples, in dataset order. `record` holds algorithm, iterations, batches, usage and collapse.

    Raises:
        ConfigError: an example does not fit the context.
        ResumeError, DataError: the trace belongs to another run, or is broken.
    """
    if batches is None:
        batches = split_batches(dataset, engine, config)
        say_batches(batches, config)
    if checker is None or checker.rules is None:
        checker = rule_checker(dataset.task, named_rules(config))
    identity = {"data": dataset.fingerprint, **identity_settings(config), **_scoring(dataset, engine), **(header or {})}
    with open_trace(trace_path, identity, resume, before=Cost(**vars(engine.usage))) as trace:
        _search_all(units := _Units(batches, config.restarts, trace), engine, config, checker, on_progress)
        trace.conclude()
    found = [units.best(number) for number in range(len(batches))]
    labelled = _assemble(dataset, found)
    record = RunRecord(
        algorithm=config.algorithm,
        iterations=sum(end.iterations for end in found),
        batches=[len(batch) for batch in batches],
        collapsed=warn_if_collapsed(labelled),
        usage=asdict(trace.cost),
    )
    return ICMResult(labelled, _mean_utility(batches, found), dataset.label_space, dataset.task, record)


def identity_settings(config: SearchConfig) -> dict[str, object]:
    """The settings that decide a result, by name; `lookahead` only decides its cost."""
    return {f"settings.{key}": value for key, value in asdict(config).items() if key != "lookahead"}


def _scoring(dataset: ICMDataset, engine: Engine | Workers) -> dict[str, object]:
    """What tells traces from those of versions that scored the first token of a label alone, or calibrated all claims
    together."""
    said: dict[str, object] = {}
    if PromptEncoder(engine.tokenizer, dataset.label_space).labels.depth:
        said["scored"] = "whole labels"
    if claim_of_each(dataset.examples, dataset.trusted).any():
        said["calibrated"] = "claim by claim"
    return said


@dataclass(frozen=True)
class _Units:
    """The units of a run as they stand."""

    batches: Sequence[ICMDataset]
    restarts: int
    trace: Trace

    def all(self) -> list[Unit]:
        return [Unit(batch, restart) for batch in range(len(self.batches)) for restart in range(self.restarts)]

    def left(self) -> list[Unit]:
        """Those that are not finished. Raises ResumeError where a finished one is of other examples."""
        for unit in self.all():
            if unit in self.trace.finished:
                check_history(Job(unit, self.batches[unit.batch], [self.trace.finished[unit]]))
        return [unit for unit in self.all() if self.job(unit) is not None]

    def job(self, unit: Unit) -> Job | None:
        """What is left of a unit to do; None where it is finished."""
        if unit in self.trace.finished:
            return None
        history = self.trace.begun(unit)
        job = Job(unit, self.batches[unit.batch], history, self.trace.spent(unit))
        check_history(job)
        return None if unit in self.trace.finished else job

    def size(self, unit: Unit) -> int:
        """Characters to read."""
        return sum(len(example.input) for example in self.batches[unit.batch])

    def best(self, batch: int) -> End:
        """The best end over all restarts."""
        ends = [self.trace.finished[Unit(batch, restart)] for restart in range(self.restarts)]
        return max(ends, key=lambda end: -math.inf if end.utility is None else end.utility)


def _search_all(
    units: _Units,
    engine: Engine | Workers,
    config: SearchConfig,
    checker: LogicalConsistencyChecker,
    on_progress: Callable[[Progress], None],
) -> None:
    """Search all units that are not finished."""
    trace, count, running = units.trace, len(units.all()), set[Unit]()

    def record(row: SearchRow, cost: Cost) -> None:
        trace.append(row, cost)
        running.add(row.unit)
        running.difference_update(trace.finished)
        on_progress(Progress(row, count, len(trace.finished), len(running), trace.cost.computed_tokens))

    left = units.left()
    if isinstance(engine, Workers):
        engine.label(sorted(left, key=units.size, reverse=True), units.job, config, record)
        return
    for job in map(units.job, left):
        if job is not None:
            label_unit(job, engine, config, checker, record)


def _assemble(dataset: ICMDataset, found: Sequence[End]) -> list[LabeledExample]:
    labels = {key: label for end in found for key, label in end.labels.items()}
    log_odds = {key: value for end in found for key, value in end.log_odds.items()}
    marked = (_marked(example, dataset) for example in dataset)
    return [LabeledExample(example, labels[example.id], log_odds.get(example.id)) for example in marked]


def _marked(example: ICMExample, dataset: ICMDataset) -> ICMExample:
    """The example, with a mark in its metadata if its label is trusted."""
    trusted = example.id in dataset.trusted
    return replace(example, metadata={**example.metadata, TRUSTED: True}) if trusted else example


def _mean_utility(batches: Sequence[ICMDataset], found: Sequence[End]) -> float | None:
    utilities = [end.utility for end in found if end.utility is not None]
    if len(utilities) < len(found):
        return None
    return float(np.average(utilities, weights=[len(batch) for batch in batches]))


def warn_if_collapsed(labeled: Sequence[LabeledExample]) -> bool:
    """Whether all examples have one label, which says nothing about any of them."""
    labels = {item.label for item in labeled}
    if len(labels) == 1 and len(labeled) > 1:
        logger.warning(
            "all %d labels are %r: what the model prefers whatever the text, unless the texts are all alike",
            len(labeled),
            *labels,
        )
        return True
    return False
