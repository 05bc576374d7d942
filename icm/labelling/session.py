"""From a dataset and an engine to a result: batches, restarts, and the choice of the labeler."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.engines.base import Engine
from icm.errors import ResumeError
from icm.examples import TRUSTED, ICMDataset, ICMExample
from icm.labelling.batches import split_batches, why_batches
from icm.labelling.readings import reading
from icm.prompts import PromptEncoder
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.trace import Cost, End, SearchRow, Trace, open_trace
from icm.search.algorithm import search
from icm.search.auto import cheapest
from icm.search.bootstrap import bootstrap
from icm.search.checks import named_rules, rule_checker
from icm.search.problem import Problem, SearchOutcome
from icm.search.scoring import PlainCost, Scorer
from icm.search.simple import random_labels, zero_shot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after a trace row.

    Attributes:
        row: the row; it names restart and batch.
        batches: batches a restart.
        computed_tokens: tokens that went through the model so far.
    """

    row: SearchRow
    batches: int
    computed_tokens: int


def run_labeling(
    dataset: ICMDataset,
    engine: Engine,
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
        engine: a loaded model.
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
    batches = batches or split_batches(dataset, engine, config)
    if len(batches) > 1:
        logger.warning(why_batches(batches, config))
    if checker is None or checker.rules is None:
        checker = rule_checker(dataset.task, named_rules(config))
    identity = {"data": dataset.fingerprint, **identity_settings(config), **_scoring(dataset, engine), **(header or {})}
    with open_trace(trace_path, identity, resume) as trace:
        labeler = _Labeler(engine, config, checker, trace, len(batches), on_progress)
        outcomes = [labeler.label(batch, number) for number, batch in enumerate(batches)]
        cost = labeler.cost()
    result = _assemble(dataset, batches, outcomes)
    record = RunRecord(
        algorithm=config.algorithm,
        iterations=sum(outcome.iterations for outcome in outcomes),
        batches=[len(batch) for batch in batches],
        collapsed=warn_if_collapsed(result),
        usage=asdict(cost),
    )
    return ICMResult(result, _mean_utility(batches, outcomes), dataset.label_space, dataset.task, record)


def identity_settings(config: SearchConfig) -> dict[str, object]:
    """The settings that decide a result, by name; `lookahead` only decides its cost."""
    return {f"settings.{key}": value for key, value in asdict(config).items() if key != "lookahead"}


def _scoring(dataset: ICMDataset, engine: Engine) -> dict[str, object]:
    """What tells traces with labels of several tokens from those of versions that scored the first one alone."""
    return {"scored": "whole labels"} if PromptEncoder(engine.tokenizer, dataset.label_space).labels.depth else {}


@dataclass(frozen=True)
class _Labeler:
    """Labels batches one after another with one engine and one trace."""

    engine: Engine
    config: SearchConfig
    checker: LogicalConsistencyChecker
    trace: Trace
    batches: int
    on_progress: Callable[[Progress], None]
    plain: PlainCost = field(default_factory=PlainCost)

    def label(self, batch: ICMDataset, number: int) -> SearchOutcome:
        """The best outcome over all restarts."""
        outcomes = [self._restart(batch, number, restart) for restart in range(self.config.restarts)]
        return max(outcomes, key=lambda outcome: -math.inf if outcome.utility is None else outcome.utility)

    def cost(self) -> Cost:
        """Cost of the whole run, interrupted parts included."""
        return self.trace.cost + Cost(**vars(self.engine.usage), **vars(self.plain))

    def _restart(self, batch: ICMDataset, number: int, restart: int) -> SearchOutcome:
        def record(row: SearchRow) -> None:
            placed = replace(row, restart=restart, batch=number)
            self.trace.append(placed, self.cost())
            self.on_progress(Progress(placed, self.batches, self.engine.usage.computed_tokens))

        history = self.trace.of_search(restart, number)
        _check_history(history, batch, f"restart {restart}, batch {number}")
        if history and isinstance(history[-1], End):
            return _read_end(history[-1], batch)

        def problem(read: ICMDataset) -> Problem:
            scorer, stream = Scorer(self.engine, read, self.config, self.plain), (self.config.seed, restart, number)
            return Problem(scorer, self.checker.index(read), self.config, stream)

        read, rest = reading(batch, problem, record, history)
        outcome = _outcome(problem(read), record, rest)
        record(_end_row(outcome, batch))
        return outcome


def _check_history(history: Sequence[SearchRow], batch: ICMDataset, search: str) -> None:
    """Raise ResumeError for rows that speak of other examples or labels than those of the batch."""
    ids, labels = {example.id for example in batch}, batch.label_space.labels
    for number, row in enumerate(history, start=1):
        texts = row.labels if isinstance(row, End) else getattr(row, "changes", {})
        rows: Mapping[str, Sequence[float]] = getattr(row, "preferences", {})
        fits = {*texts, *rows} <= ids and {*texts.values()} <= {*labels}
        fits = fits and all(len(values) == len(labels) for values in rows.values())
        if not fits or (isinstance(row, End) and (len(texts) < len(ids) or not row.log_odds.keys() <= ids)):
            raise ResumeError(
                f"--resume: row {number} of {search} in the trace does not fit the examples and labels of this run; "
                "leave --resume out to start anew"
            )


def _outcome(problem: Problem, record: Callable[[SearchRow], None], history: Sequence[SearchRow]) -> SearchOutcome:
    """What the labeler of the settings finds; only a search has a history to go on from."""
    config, rng = problem.config, problem.rng(0)
    if config.algorithm == "random":
        return random_labels(problem, rng)
    if config.algorithm == "zero-shot":
        return zero_shot(problem, rng)
    if config.algorithm == "bootstrap":
        return problem.judge(bootstrap(problem, rng).labels, config.bootstrap_rounds)
    if config.algorithm == "auto":
        return cheapest(problem, record, history)
    return search(problem, record, history)


def _end_row(outcome: SearchOutcome, batch: ICMDataset) -> End:
    labels = {batch[position].id: label for position, label in outcome.labels.items()}
    odds = {batch[position].id: value for position, value in outcome.log_odds.items()}
    return End(iterations=outcome.iterations, utility=outcome.utility, labels=labels, log_odds=odds)


def _read_end(row: End, batch: ICMDataset) -> SearchOutcome:
    position = {example.id: number for number, example in enumerate(batch)}
    labels = {position[key]: label for key, label in row.labels.items()}
    odds = {position[key]: value for key, value in row.log_odds.items()}
    return SearchOutcome(labels, row.utility, odds, row.iterations)


def _assemble(
    dataset: ICMDataset, batches: Sequence[ICMDataset], outcomes: Sequence[SearchOutcome]
) -> list[LabeledExample]:
    found = {
        batch[position].id: LabeledExample(_marked(batch[position], batch), label, outcome.log_odds.get(position))
        for batch, outcome in zip(batches, outcomes, strict=True)
        for position, label in outcome.labels.items()
    }
    return [found[example.id] for example in dataset]


def _marked(example: ICMExample, dataset: ICMDataset) -> ICMExample:
    """The example, with a mark in its metadata if its label is trusted."""
    trusted = example.id in dataset.trusted
    return replace(example, metadata={**example.metadata, TRUSTED: True}) if trusted else example


def _mean_utility(batches: Sequence[ICMDataset], outcomes: Sequence[SearchOutcome]) -> float | None:
    utilities = [outcome.utility for outcome in outcomes if outcome.utility is not None]
    if len(utilities) < len(outcomes):
        return None
    return float(np.average(utilities, weights=[len(batch) for batch in batches]))


def warn_if_collapsed(labeled: Sequence[LabeledExample]) -> bool:
    """Whether all examples have one label, which says nothing about any of them."""
    labels = {item.label for item in labeled}
    if len(labels) == 1 and len(labeled) > 1:
        logger.warning("all %d labels are %r: the labelling has collapsed; do not train on it", len(labeled), *labels)
        return True
    return False
