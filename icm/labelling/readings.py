"""How a batch is read, given trusted labels: with what the rules say of others, and which way round.

What a model finds coherent can be the opposite of what is meant: claims that sound true are often the false ones. All
its labels are then turned round, and of two labels nothing but trusted ones can tell. So they are held against what is
found without them, an earlier result or bootstrapped labels; where they contradict it, each label is asked for by the
other's word.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.engines.base import Engine
from icm.examples import ICMDataset
from icm.search.bootstrap import bootstrap
from icm.search.checks import with_entailed
from icm.search.problem import Problem
from icm.search.scoring import PlainCost, Scorer

SUREST, ENOUGH = 2.0, 2.0
"""Log-odds that a label counts for at most, and what those of the contradicted labels have to come to over those of the
confirmed ones, nats: no single label turns all others round. 8 drawn ones of 64 TruthfulQA claims, of which .34 were
right, do in 79 % of the draws."""

logger = logging.getLogger(__name__)


def read(
    batch: ICMDataset,
    engine: Engine,
    config: SearchConfig,
    checker: LogicalConsistencyChecker,
    number: int,
    plain: PlainCost,
) -> ICMDataset:
    """The batch with the labels that the trusted ones entail, trusted too, and turned round where they say so of what
    is found without them. All units of batch `number` read it the same way.

    Args:
        plain: counts what plain order would have cost.
    """
    if batch.trusted and config.consistency:
        batch = with_entailed(batch, checker.index(batch))
    if not can_turn(batch, config):
        return batch
    found = batch.start
    if not found:
        alone = Scorer(engine, replace(batch, trusted={}), config, plain)
        problem = Problem(alone, checker.index(batch), config, (config.seed, config.restarts, number))
        outcome = problem.judge(bootstrap(problem, problem.rng(0)).labels, config.bootstrap_rounds)
        found = {batch[p].id: (label, outcome.log_odds[p]) for p, label in outcome.labels.items()}
    return turned(batch) if contradicted(batch, found) else batch


def can_turn(batch: ICMDataset, config: SearchConfig) -> bool:
    """Whether found labels may be turned round, and trusted ones can tell."""
    return (
        bool(batch.trusted) and len(batch.label_space.labels) == 2 and config.algorithm in ("icm", "auto", "bootstrap")
    )


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
