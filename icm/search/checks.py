"""The rules that a data set is checked by: its task's own and those that the settings name."""

from collections.abc import Sequence
from dataclasses import replace

from icm.config import SearchConfig
from icm.consistency import (
    AtMostOneTrueRule,
    ConsistencyIndex,
    ConsistencyRule,
    ExactlyOneTrueRule,
    IdenticalTextRule,
    LogicalConsistencyChecker,
)
from icm.consistency.rules import TRUE, load_rule
from icm.errors import ConfigError
from icm.examples import ICMDataset
from icm.tasks.lookup import find_task

_KNOWN = {"at-most-one": AtMostOneTrueRule, "exactly-one": ExactlyOneTrueRule}


def rules_for(task: str) -> tuple[ConsistencyRule, ...]:
    """Default rules of a task type: the task's own and identical text. A task type that no loader knows (examples
    made by hand) gets identical text alone."""
    try:
        return (*find_task(task).rules, IdenticalTextRule())
    except ConfigError:
        return (IdenticalTextRule(),)


def named_rules(config: SearchConfig) -> list[ConsistencyRule]:
    """The rules of `config.rules`. Raises ConfigError for one that cannot be loaded."""
    return [_KNOWN[name]() if name in _KNOWN else load_rule(name) for name in config.rules]


def check_rules(config: SearchConfig, dataset: ICMDataset) -> None:
    """Raise ConfigError for a rule on the claims of a group that could say nothing of these data."""
    for name in _KNOWN.keys() & {*config.rules}:
        labels = dataset.label_space.labels
        if TRUE not in labels:
            raise ConfigError(
                f"rules {name}: says of how many claims of a group the label may be {TRUE!r}, but the labels are "
                f"{list(labels)[:12]}; call them so: --label-map '{labels[0]}={TRUE}' …"
            )
        if len({example.group for example in dataset}) == len(dataset):
            raise ConfigError(
                f"rules {name}: no two of the {len(dataset)} examples belong together; name the column that says which "
                "do (--group-field)"
            )


def rule_checker(task: str, named: Sequence[ConsistencyRule] = ()) -> LogicalConsistencyChecker:
    """The task's own rules and the `named` ones."""
    return LogicalConsistencyChecker([*rules_for(task), *named])


def checker_of(
    dataset: ICMDataset, config: SearchConfig, named: Sequence[ConsistencyRule]
) -> LogicalConsistencyChecker:
    """The checker of a data set, with the rules of `config.rules`, which are `named`. Errors are those of
    `check_rules`."""
    check_rules(config, dataset)
    return rule_checker(dataset.task, named)


def with_entailed(dataset: ICMDataset, index: ConsistencyIndex) -> ICMDataset:
    """The data set with the labels that the rules leave open no more, given the trusted ones, trusted as well."""
    space, place = dataset.label_space, {example.id: number for number, example in enumerate(dataset)}
    known = {place[key]: label for key, label in dataset.trusted.items()}
    waiting = list(known)
    for i in waiting:  # grows
        for j in index.neighbours[i]:
            left = {b for a, b in index.options(i, j, space) if a == known[i]}
            if j not in known and len(left) == 1:
                known[j] = left.pop()
                waiting.append(j)
    return replace(dataset, trusted={dataset[position].id: label for position, label in known.items()})
