"""From a dataset and an engine to a result: batches, restarts, and the choice of the labeler."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icm.calibration import log_odds
from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.engines.base import Engine
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample
from icm.prompts import PromptEncoder
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.trace import Row, Trace, open_trace
from icm.search.algorithm import Search, SearchOutcome
from icm.search.bootstrap import Initial, bootstrap, initial, zero_shot
from icm.search.checks import rule_checker
from icm.search.scoring import CONTENT_FREE, PlainCost, Scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after a trace row.

    Attributes:
        row: the row.
        restart: number of the search, from 0.
        batch: number of the batch, from 0.
        batches: batches a restart.
        computed_tokens: tokens that went through the model so far.
    """

    row: Mapping[str, Any]
    restart: int
    batch: int
    batches: int
    computed_tokens: int


def run_labeling(
    dataset: ICMDataset,
    engine: Engine,
    config: SearchConfig,
    checker: LogicalConsistencyChecker | None = None,
    trace_path: Path | None = None,
    resume: bool = False,
    header: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
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

    Returns:
        Labels of all examples, in dataset order. `record` holds algorithm, iterations, batches, usage and collapse.

    Raises:
        ConfigError: an example does not fit the context.
        ResumeError: the trace belongs to another run.
    """
    batches = split_batches(dataset, engine, config)
    if len(batches) > 1:
        logger.warning("%d examples are labelled in %d batches: %s", len(dataset), len(batches), _why(batches, config))
    if checker is None or checker.rules is None:
        checker = rule_checker(dataset.task, config)
    identity = {"data": dataset.fingerprint, **identity_settings(config), **(header or {})}
    with open_trace(trace_path, identity, resume) as trace:
        labeler = _Labeler(engine, config, checker, trace, len(batches), on_progress)
        outcomes = [labeler.label(batch, number) for number, batch in enumerate(batches)]
        usage = labeler.usage()
    result = _assemble(dataset, batches, outcomes)
    record = RunRecord(
        algorithm=config.algorithm,
        iterations=sum(outcome.iterations for outcome in outcomes),
        batches=[len(batch) for batch in batches],
        collapsed=warn_if_collapsed(result),
        usage=usage,
    )
    return ICMResult(result, _mean_utility(batches, outcomes), dataset.label_space, dataset.task, record)


def identity_settings(config: SearchConfig) -> dict[str, Any]:
    """The settings that decide a result, by name; `lookahead` only decides its cost."""
    return {f"settings.{key}": value for key, value in asdict(config).items() if key != "lookahead"}


def split_batches(dataset: ICMDataset, engine: Engine, config: SearchConfig) -> list[ICMDataset]:
    """Batches that fit the context: whole groups, at most `batch_size` examples, of about equal size.

    All but one example of a batch stand in the context of the last, so a batch is bounded by the context length too.
    """
    encoder = PromptEncoder(engine.tokenizer, dataset.label_space)
    length = {e.id: max(len(encoder.demonstration(e, y)) for y in dataset.label_space.labels) for e in dataset}
    budget = engine.context_length - len(encoder.prefix)
    if config.calibration == "contextual":  # it asks a query of its own behind all examples of a batch
        budget -= max(length.values()) + max(len(encoder.query(ICMExample(text))) for text in CONTENT_FREE)
    groups: dict[str, list[Any]] = {}
    for example in dataset:
        groups.setdefault(example.group, []).append(example)
    order = np.random.default_rng(config.seed).permutation(len(groups))
    shuffled = [list(groups.values())[number] for number in order]
    batches = _pack(shuffled, length, budget, config.batch_size)
    return [ICMDataset(tuple(batch), dataset.label_space, dataset.name, dataset.task) for batch in batches]


def _why(batches: Sequence[Sequence[Any]], config: SearchConfig) -> str:
    sizes = [len(batch) for batch in batches]
    reason = f"the context length allows {max(sizes)} at a time"
    if len(batches) <= -(-sum(sizes) // config.batch_size):
        reason = f"batch_size is {config.batch_size}"
    return f"{reason}, so examples of different batches do not see each other"


def _pack(groups: list[list[Any]], length: Mapping[str, int], budget: int, size: int) -> list[list[Any]]:
    tokens = [sum(length[example.id] for example in group) for group in groups]
    longest, most = max(tokens), max(map(len, groups))
    if longest > budget or most > size:
        raise ConfigError(
            f"one question's examples ({longest} tokens, at most {most} examples) do not fit the "
            f"context ({budget} tokens) and the batch size ({size}); raise --max-model-len or --batch-size"
        )
    needed = max(-(-sum(map(len, groups)) // size), -(-sum(tokens) // budget))
    while True:  # ends: with as many batches as groups, each group has its own
        batches: list[list[Any]] = [[] for _ in range(needed)]
        filled = np.zeros((needed, 2))  # share of the batch size and of the context
        for group, cost in zip(groups, tokens, strict=True):
            emptiest = int(filled.max(axis=1).argmin())
            batches[emptiest].extend(group)
            filled[emptiest] += len(group) / size, cost / budget
        if (filled <= 1 + 1e-9).all():
            return [batch for batch in batches if batch]
        needed += 1


class _Labeler:
    """Labels batches one after another with one engine and one trace."""

    def __init__(
        self,
        engine: Engine,
        config: SearchConfig,
        checker: LogicalConsistencyChecker,
        trace: Trace,
        batches: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._engine = engine
        self._config = config
        self._checker = checker
        self._trace = trace
        self._batches = batches
        self._on_progress = on_progress
        self._plain = PlainCost()
        earlier = trace.rows(type="usage")
        self._earlier = earlier[-1] if earlier else {}

    def label(self, batch: ICMDataset, number: int) -> SearchOutcome:
        """The best outcome over all restarts."""
        outcomes = [self._restart(batch, number, restart) for restart in range(self._config.restarts)]
        return max(outcomes, key=lambda outcome: -math.inf if outcome.utility is None else outcome.utility)

    def usage(self) -> dict[str, float]:
        """Cost of the whole run, interrupted parts included."""
        now = {**vars(self._engine.usage), **vars(self._plain)}
        return {key: value + self._earlier.get(key, 0) for key, value in now.items()}

    def _restart(self, batch: ICMDataset, number: int, restart: int) -> SearchOutcome:
        scorer = Scorer(self._engine, batch, self._config, self._plain)
        stream = (self._config.seed, restart, number)

        def record(row: Row) -> None:
            self._trace.append({"restart": restart, "batch": number, **row})
            tokens = self._engine.usage.computed_tokens
            self._on_progress(Progress(row, restart, number, self._batches, tokens))
            self._trace.append({"type": "usage", **self.usage()})

        ended = self._trace.rows(type="end", restart=restart, batch=number)
        if ended:
            return _read_end(ended[-1], batch)
        search = Search(scorer, self._checker.index(batch), self._config, stream, record)
        rng = np.random.default_rng((*stream, 0))
        if self._config.algorithm == "icm":
            outcome = self._search(search, rng, self._trace.rows(restart=restart, batch=number))
        else:
            outcome = self._baseline(search, rng)
        record(_end_row(outcome, batch))
        return outcome

    def _search(self, search: Search, rng: np.random.Generator, history: Sequence[Row]) -> SearchOutcome:
        if history:
            return search.run(Initial({}), history)
        return search.run(initial(search.scorer, search.checks, self._config, rng))

    def _baseline(self, search: Search, rng: np.random.Generator) -> SearchOutcome:
        scorer = search.scorer
        everything = range(len(scorer.dataset))
        if self._config.algorithm == "random":
            return SearchOutcome(scorer.dataset.label_space.random_labels(len(everything), rng), None, {}, 0)
        if self._config.algorithm == "zero-shot":
            labels, log_probs = zero_shot(scorer)
            columns = np.array([scorer.dataset.label_space.index(labels[position]) for position in everything])
            return SearchOutcome(labels, None, dict(enumerate(log_odds(log_probs, columns).tolist())), 0)
        found = bootstrap(scorer, search.checks, self._config, rng)
        return search.judge(found.labels, self._config.bootstrap_rounds)


def _end_row(outcome: SearchOutcome, batch: ICMDataset) -> Row:
    labels = {batch[position].id: label for position, label in outcome.labels.items()}
    odds = {batch[position].id: value for position, value in outcome.log_odds.items()}
    return {
        "type": "end",
        "iterations": outcome.iterations,
        "utility": outcome.utility,
        "labels": labels,
        "log_odds": odds,
    }


def _read_end(row: Row, batch: ICMDataset) -> SearchOutcome:
    position = {example.id: number for number, example in enumerate(batch)}
    labels = {position[key]: label for key, label in row["labels"].items()}
    odds = {position[key]: value for key, value in row["log_odds"].items()}
    return SearchOutcome(labels, row["utility"], odds, row["iterations"])


def _assemble(
    dataset: ICMDataset, batches: Sequence[ICMDataset], outcomes: Sequence[SearchOutcome]
) -> list[LabeledExample]:
    found = {
        batch[position].id: LabeledExample(batch[position], label, outcome.log_odds.get(position))
        for batch, outcome in zip(batches, outcomes, strict=True)
        for position, label in outcome.labels.items()
    }
    return [found[example.id] for example in dataset]


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
