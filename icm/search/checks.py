"""The rules that a data set is checked by: its task's own and those that the settings name."""

from collections.abc import Sequence

from icm.config import SearchConfig
from icm.consistency import (
    AtMostOneTrueRule,
    ConsistencyRule,
    ExactlyOneTrueRule,
    IdenticalTextRule,
    LogicalConsistencyChecker,
)
from icm.consistency.rules import load_rule
from icm.errors import ConfigError
from icm.tasks.lookup import find_task


def rules_for(task: str) -> tuple[ConsistencyRule, ...]:
    """Default rules of a task type: the task's own and identical text. A task type that no loader knows (examples
    made by hand) gets identical text alone."""
    try:
        return (*find_task(task).rules, IdenticalTextRule())
    except ConfigError:
        return (IdenticalTextRule(),)


def named_rules(config: SearchConfig) -> list[ConsistencyRule]:
    """The rules of `config.rules`. Raises ConfigError for one that cannot be loaded."""
    known = {"at-most-one": AtMostOneTrueRule, "exactly-one": ExactlyOneTrueRule}
    return [known[name]() if name in known else load_rule(name) for name in config.rules]


def rule_checker(task: str, named: Sequence[ConsistencyRule] = ()) -> LogicalConsistencyChecker:
    """The task's own rules and the `named` ones."""
    return LogicalConsistencyChecker([*rules_for(task), *named])
