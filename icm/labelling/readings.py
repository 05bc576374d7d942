"""How a batch is read, given trusted labels: with what the rules say of others, and which way round.

What a model finds coherent can be the opposite of what is meant: claims that sound true are often the false ones. All
its labels are then turned round, and of two labels nothing but trusted ones can tell. So they are held against what is
found without them, an earlier result or bootstrapped labels; where they contradict it, each label is asked for by the
other's word.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from icm.examples import ICMDataset
from icm.results.trace import Reading, SearchRow
from icm.search.bootstrap import bootstrap
from icm.search.checks import with_entailed
from icm.search.problem import Problem

SUREST, ENOUGH = 2.0, 2.0
"""Log-odds that a label counts for at most, and what those of the contradicted labels have to come to over those of the
confirmed ones, nats: no single label turns all others round. 8 drawn ones of 64 TruthfulQA claims, of which .34 were
right, do in 79 % of the draws."""

logger = logging.getLogger(__name__)


def reading(
    batch: ICMDataset,
    problem_of: Callable[[ICMDataset], Problem],
    record: Callable[[SearchRow], None],
    history: Sequence[SearchRow],
) -> tuple[ICMDataset, Sequence[SearchRow]]:
    """The batch as it is read, and the rows behind what an interrupted search noted of that (`history`).

    What the trusted labels entail is trusted too; they turn round what is found where they contradict it.
    """
    if not batch.trusted:
        return batch, history
    problem = problem_of(replace(batch, trusted={}))
    config = problem.config
    known = with_entailed(batch, problem.checks) if config.consistency else batch
    if len(batch.label_space.labels) != 2 or config.algorithm in ("random", "zero-shot"):
        return known, history
    if history and isinstance(history[0], Reading):
        turn, history = history[0].turned, history[1:]
    else:
        turn = contradicted(known, known.start or _bootstrapped(problem))
        record(Reading(turned=turn))
    return turned(known) if turn else known, history


def _bootstrapped(problem: Problem) -> dict[str, tuple[str, float]]:
    """Example id → label and log-odds under unseen orders."""
    start = bootstrap(problem, problem.rng(0))
    outcome = problem.judge(start.labels, start.rounds)
    dataset = problem.scorer.dataset
    return {dataset[p].id: (label, outcome.log_odds[p]) for p, label in outcome.labels.items()}


def contradicted(batch: ICMDataset, found: Mapping[str, tuple[str, float]]) -> bool:
    """Whether the trusted labels say that found ones (id → label, log-odds) are turned round."""
    pairs = [(found[key], label) for key, label in batch.trusted.items() if key in found]
    for_it = sum(min(SUREST, max(-SUREST, odds)) * (1 if given == label else -1) for (given, odds), label in pairs)
    if for_it >= -ENOUGH:
        return False
    logger.warning(
        "labels found without the trusted ones are turned round: %d of %d trusted ones contradict them",
        sum(given != label for (given, _), label in pairs),
        len(pairs),
    )
    return True


def turned(batch: ICMDataset) -> ICMDataset:
    """The batch with each of two labels asked for by the other's word, and the start turned round."""
    space = batch.label_space
    other = dict(zip(space.labels, reversed(space.labels), strict=True))
    start = {key: (other[label], odds) for key, (label, odds) in batch.start.items()}
    return replace(batch, label_space=replace(space, verbalisers=space.verbalisers[::-1]), start=start)
