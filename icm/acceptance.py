"""Decisions of Algorithm 1 from part of the leaves, as a sequential test with a bounded error.

The algorithm accepts D' where U(D') - U(D) > T·ln(u) with u uniform in (0, 1): the right side is known before any leaf
is scored, so a sample of the leaves is enough when the difference lies clearly on one side (Korattikara, Chen and
Welling 2014, "Austerity in MCMC Land", arXiv 1304.5299). The sample is doubled until it does, or is everything.
"""

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import t as student_t

from icm.calibration import Array

FIRST_SAMPLE = 32
"""Leaves of the first sample: fewer say too little about their spread."""


def sample_sizes(leaves: int) -> Iterator[int]:
    """Sizes of the growing samples that are smaller than everything: 32, 64, 128, …"""
    size = FIRST_SAMPLE
    while size < leaves:
        yield size
        size *= 2


def is_settled(estimates: Array, leaves: int, threshold: float, error: float) -> bool:
    """Whether the mean of all leaves lies on the same side of `threshold` as that of the sample.

    Wrong with a probability of at most `error` over all sample sizes of a decision together (Bonferroni), as far as the
    mean of a sample is normal. The bias of batch calibration counts as known.

    Args:
        estimates: [sample], what each sampled leaf says of the mean.
        leaves: how many there are; sampled without replacement.
        threshold: in the unit of the estimates.
        error: probability.
    """
    size = len(estimates)
    spread = float(estimates.std(ddof=1)) * math.sqrt((1 / size) * (1 - size / leaves))
    stages = sum(1 for _ in sample_sizes(leaves))
    quantile = float(student_t.ppf(1 - error / stages, size - 1))
    return abs(float(np.mean(estimates)) - threshold) > quantile * spread
