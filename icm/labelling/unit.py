"""One search over one batch: the unit of work, the same in this process and in a worker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.engines.base import Engine
from icm.errors import ResumeError
from icm.examples import ICMDataset
from icm.labelling.readings import reading
from icm.results.trace import Cost, End, Reading, SearchRow, Start, Unit
from icm.search.algorithm import search
from icm.search.auto import cheapest
from icm.search.bootstrap import bootstrap
from icm.search.problem import Problem, SearchOutcome
from icm.search.scoring import PlainCost, Scorer
from icm.search.simple import random_labels, zero_shot

Record = Callable[[SearchRow, Cost], None]
"""Takes a row as it happens, and what its unit has cost so far."""


@dataclass(frozen=True)
class Job:
    """A unit with all that it needs beside an engine.

    Attributes:
        unit: which one.
        batch: its examples.
        history: its rows so far, where it was interrupted.
        spent: what they cost.
    """

    unit: Unit
    batch: ICMDataset
    history: Sequence[SearchRow] = ()
    spent: Cost = field(default_factory=Cost)


def label_unit(
    job: Job, engine: Engine, config: SearchConfig, checker: LogicalConsistencyChecker, record: Record
) -> None:
    """Search a unit to its end, whose row is the last one that `record` gets.

    What it finds depends on the batch, the settings, the rules and the unit's numbers, and on nothing that was done
    before with the engine.
    """
    unit, plain, before = job.unit, PlainCost(), Cost(**vars(engine.usage))

    def placed(row: SearchRow) -> None:
        spent = Cost(**vars(engine.usage), **vars(plain))
        record(replace(row, restart=unit.restart, batch=unit.batch), job.spent + (spent - before))

    def problem(batch: ICMDataset) -> Problem:
        stream = (config.seed, unit.restart, unit.batch)
        return Problem(Scorer(engine, batch, config, plain), checker.index(batch), config, stream)

    batch, history = reading(job.batch, problem, placed, job.history)
    outcome = _outcome(problem(batch), placed, history)
    placed(_end_row(outcome, batch))


def check_history(job: Job) -> None:
    """Raise ResumeError for rows that speak of other examples or labels than those of the batch."""
    ids, labels = {example.id for example in job.batch}, job.batch.label_space.labels
    for number, row in enumerate(job.history, start=1):
        texts = row.labels if isinstance(row, End) else getattr(row, "changes", {})
        rows: Mapping[str, Sequence[float]] = getattr(row, "preferences", None) or {}
        fits = {*texts, *rows} <= ids and {*texts.values()} <= {*labels}
        fits = fits and all(len(values) == len(labels) for values in rows.values())
        fits = fits and (not isinstance(row, Start) or (row.accepted and len(texts) > 0))
        fits = fits and (number > 1 or isinstance(row, Start | Reading | End))
        if not fits or (isinstance(row, End) and (len(texts) < len(ids) or not row.log_odds.keys() <= ids)):
            raise ResumeError(
                f"--resume: row {number} of {job.unit} in the trace does not fit the examples and labels of this run; "
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
        start = bootstrap(problem, rng)
        return problem.judge(start.labels, start.rounds)
    if config.algorithm == "auto":
        return cheapest(problem, record, history)
    return search(problem, record, history)


def _end_row(outcome: SearchOutcome, batch: ICMDataset) -> End:
    labels = {batch[position].id: label for position, label in outcome.labels.items()}
    odds = {batch[position].id: value for position, value in outcome.log_odds.items()}
    return End(iterations=outcome.iterations, utility=outcome.utility, labels=labels, log_odds=odds)
