"""Which labeler is enough: the model's own answers, else bootstrap, else the search."""

import logging
from collections.abc import Callable, Sequence

from icm.results.coherence import coherence
from icm.results.trace import SearchRow
from icm.search.algorithm import search
from icm.search.bootstrap import bootstrap, likeliest
from icm.search.problem import Problem, SearchOutcome
from icm.search.simple import own_answers

logger = logging.getLogger(__name__)


def cheapest(problem: Problem, record: Callable[[SearchRow], None], history: Sequence[SearchRow]) -> SearchOutcome:
    """Labels by zero-shot, then by bootstrap, then by the search, which goes on from bootstrap's: the first that are
    coherent.

    `record` receives each trace row of a search as it happens; `history` are those of an interrupted one.
    """
    if history:
        return search(problem, record, history)
    outcome = problem.judge(likeliest(problem, own_answers(problem, problem.rng(0))), 0)
    if _coherent(problem, outcome, "zero-shot"):
        return outcome
    start = bootstrap(problem, problem.rng(0))
    outcome = problem.judge(start.labels, start.rounds)
    if _coherent(problem, outcome, "bootstrap"):
        return outcome
    return search(problem, record, start=start if problem.config.init == "bootstrap" else None)


def _coherent(problem: Problem, outcome: SearchOutcome, labeler: str) -> bool:
    """Whether what a labeler found is enough, which is said."""
    odds = [outcome.log_odds[position] for position in outcome.labels]
    found = coherence(list(outcome.labels.values()), odds, len(problem.label_space.labels))
    logger.info("labels by %s: %s, %.0f%% confirmed under unseen orders", labeler, found.verdict, 100 * found.agreement)
    return found.verdict == "coherent"
