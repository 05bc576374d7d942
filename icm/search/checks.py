"""The rules that a data set is checked by: its task's own and those that the settings name."""

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


def rule_checker(task: str, config: SearchConfig) -> LogicalConsistencyChecker:
    """The task's own rules and those of `config.rules`. Raises ConfigError for a rule that cannot be loaded."""
    named = {"at-most-one": AtMostOneTrueRule, "exactly-one": ExactlyOneTrueRule}
    extra = [named[name]() if name in named else load_rule(name) for name in config.rules]
    return LogicalConsistencyChecker([*rules_for(task), *extra])
