"""How a batch may be read, given trusted labels: with what the rules say of others, and which way round.

What a model finds coherent can be the opposite of what is meant: claims that sound true are often the false ones. All
its labels are then turned round, and of two labels nothing but trusted ones can tell. So such a batch is labelled
twice, once with the words of the labels exchanged, and mutual predictability, of the trusted labels and by them,
decides.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from icm.calibration import SIGNAL
from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker
from icm.examples import ICMDataset
from icm.search.checks import with_entailed
from icm.search.problem import SearchOutcome

logger = logging.getLogger(__name__)


def readings(batch: ICMDataset, config: SearchConfig, checker: LogicalConsistencyChecker) -> list[ICMDataset]:
    """The batch as it is; where labels are trusted, with those that they entail and, of two labels, turned too."""
    if not batch.trusted:
        return [batch]
    known = with_entailed(batch, checker.index(batch)) if config.consistency else batch
    found = config.algorithm in ("icm", "bootstrap")
    return [known, turned(known)] if found and len(batch.label_space.labels) == 2 else [known]


def turned(batch: ICMDataset) -> ICMDataset:
    """The batch with each of two labels asked for by the other's word, and the start turned round."""
    space = batch.label_space
    other = dict(zip(space.labels, reversed(space.labels), strict=True))
    start = {key: other[label] for key, label in batch.start.items()}
    return replace(batch, label_space=replace(space, verbalisers=space.verbalisers[::-1]), start=start)


def right_way_round(found: Sequence[SearchOutcome], config: SearchConfig, examples: int) -> SearchOutcome:
    """What the batch as it is was found to be, unless the one turned round is worth more by what counts as signal."""
    straight, *others = found
    least = SIGNAL * config.alpha * (1 if config.objective == "mean" else examples)
    for other in others:
        if (other.utility or 0.0) > (straight.utility or 0.0) + least:
            utilities = straight.utility, other.utility
            logger.warning(
                "the labels are turned round: the trusted ones and those found predict each other better so (U was "
                "%.2f, is %.2f)",
                *utilities,
            )
            return other
    return straight
