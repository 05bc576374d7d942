"""Tasks by name (a built-in one, or a module of the user's own), and by the fields of records."""

import difflib
import importlib
import logging
import pkgutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from icm.errors import ConfigError, DataError
from icm.files import import_from_here
from icm.tasks.advice import advice, signatures_of
from icm.tasks.base import Record, Task
from icm.tasks.builtin import classification
from icm.tasks.columns import (
    columns_of,
    find_column,
    forgiven,
    label_column,
    named_columns,
    renamed,
    shown,
    with_labels_mapped,
)
from icm.tasks.rendering import placeholders
from icm.tasks.source import DataSource

_log = logging.getLogger(__name__)

PACKAGES = ("icm.tasks.builtin", "icm.tasks")
"""Where tasks are found by their name alone; users were told the second one once."""


def task_names() -> list[str]:
    """Names of the tasks in `PACKAGES`: the modules that hold a `TASK`."""
    return [name for name, module in _modules() if hasattr(importlib.import_module(module), "TASK")]


def _modules() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
            yield found.name, f"{package}.{found.name}"


def find_task(name: str) -> Task:
    """The task of that name, or the `TASK` of the module with that import path (`my_package.my_task`), which may lie
    in the current folder.

    Raises:
        ConfigError: there is no such task.
    """
    module = name if "." in name else dict(_modules()).get(name, f"{PACKAGES[0]}.{name}")
    try:
        task = (import_from_here if "." in name else importlib.import_module)(module).TASK
    except (Exception, SystemExit) as error:  # a user's module may raise anything, also leave
        near = difflib.get_close_matches(name, task_names(), n=1)
        reason = f"did you mean {near[0]}?" if near else str(error).partition("\n")[0]
        raise ConfigError(
            f"task_type {name!r}: no such task ({reason}); expected auto, one of {', '.join(task_names())}, "
            "or the import path of a module with a TASK (my_package.my_task, also in the current folder)"
        ) from None
    if not isinstance(task, Task):
        raise ConfigError(f"task_type {name!r}: {module}.TASK is a {type(task).__name__}, expected icm.tasks.base.Task")
    return task


def recognised(records: Sequence[Record], source: DataSource, named: Task | None) -> tuple[Task, Sequence[Record]]:
    """The task that reads the records, and the records under its names for their fields.

    Args:
        records: as read.
        source: what the user says about the fields.
        named: the task, where something else than the fields says which.

    Raises:
        DataError: no task reads such records, several do, or several columns may hold the labels.
        ConfigError: a field that the source names is not there.
    """
    columns = columns_of(records)
    ignored = {find_column(name, columns, "ignore_fields") for name in source.ignore_fields or ()}
    columns = [name for name in columns if name not in ignored]
    kept = records
    if ignored:
        kept = [replace(r, fields={k: v for k, v in r.fields.items() if k not in ignored}) for r in records]
    names = named_columns(columns, source)
    task = named or _by_fields(kept, columns, names, source)
    names = _forgiven(columns, names, [task], source) | names
    usual = {names.get(name, name) for name in columns} & set(classification.LABEL_FIELDS)
    if task is classification.TASK and not usual and (found := label_column(columns, kept, source)) is not None:
        names[found] = "label"
    for old, new in names.items():
        if old != new:
            _log.info("field %r is read as %r", old, new)
    if task is classification.TASK and source.template is not None:
        task = classification.OWN_COLUMNS
    return task, with_labels_mapped(renamed(kept, names), task, source)


def _forgiven(
    columns: Sequence[str], names: dict[str, str], tasks: Iterable[Task], source: DataSource
) -> dict[str, str]:
    """Columns that differ from a field's name in case and blanks alone, as far as nothing else is said of them."""
    known = {name for task in tasks for name in (*task.gold_fields, *(n for s in task.signatures for n in s))}
    rest = [column for column in columns if column not in names]
    wanted = known | {"id"} | set(placeholders(source.template or ""))
    found = forgiven(rest, wanted)
    if any(task.matches({found.get(name, name) for name in rest}) for task in tasks):
        return found
    return forgiven(rest, {name for name in wanted if name == name.lower() or len(name) == 1})


def _by_fields(records: Sequence[Record], columns: Sequence[str], names: dict[str, str], source: DataSource) -> Task:
    tasks = [find_task(name) for name in task_names()]
    if source.text_field is not None:
        return classification.TASK
    all_names = _forgiven(columns, names, tasks, source) | names
    usual = _usual(records)
    fields = {all_names.get(name, name) for name in usual.fields}
    sizes = {task.name: task.matches(fields) for task in tasks}
    best = [task for task in tasks if sizes[task.name] == max(sizes.values()) > 0]
    if source.template is not None and _own_columns(best, usual, fields, all_names, source):
        return classification.TASK
    if len(best) == 1:
        return best[0]
    if best:
        raise DataError(f"{source.dataset}: fields {shown(columns)} fit several tasks; {_choice_of(best)}")
    raise DataError(f"{source.dataset}: fields {shown(columns)} fit no task; {advice(records, columns, tasks, source)}")


def _usual(records: Sequence[Record]) -> Record:
    """A record with the fields that most have."""
    fields = Counter(frozenset(record.fields) for record in records[:1000])
    return next(record for record in records if record.fields.keys() == fields.most_common(1)[0][0])


def _own_columns(
    best: Sequence[Task], record: Record, fields: Collection[str], names: dict[str, str], source: DataSource
) -> bool:
    """Whether the user's template makes a classification of records that are no task's, or only seem to be."""
    wanted = {names.get(name, name) for name in placeholders(source.template or "")}
    if not best or not wanted <= set(fields):
        return not best
    if len(best) > 1 or best[0] is classification.TASK:
        return True
    task, labels = best[0], set(source.verbalisers or ())
    own_labels = source.label_field is not None or "label" in set(fields) - wanted
    if task.label_space is None:
        return own_labels
    asks = task.asked(record) is not None
    other_labels = bool(labels) and labels != set(task.label_space.labels)
    return other_labels or ((own_labels or bool(labels)) and (asks or bool(wanted & task.gold_fields)))


def _choice_of(tasks: Sequence[Task]) -> str:
    return "give " + " or ".join(f"--task-type {task.name} ({signatures_of(task)})" for task in tasks)
