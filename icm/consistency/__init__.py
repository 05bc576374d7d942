"""Logical consistency: rules that related labels must keep, and the pairs and groups that break them."""

from icm.consistency.index import ConsistencyIndex, LogicalConsistencyChecker
from icm.consistency.rules import (
    AtMostOneTrueRule,
    ComparisonConsistencyRule,
    ConsistencyRule,
    ExactlyOneTrueRule,
    GroupRule,
    IdenticalTextRule,
    MathConsistencyRule,
)

__all__ = [
    "AtMostOneTrueRule",
    "ComparisonConsistencyRule",
    "ConsistencyIndex",
    "ConsistencyRule",
    "ExactlyOneTrueRule",
    "GroupRule",
    "IdenticalTextRule",
    "LogicalConsistencyChecker",
    "MathConsistencyRule",
]
