"""Tasks by name: a built-in one, or a module of the user's own."""

import importlib
import pkgutil
from collections.abc import Iterator

from icm.errors import ConfigError
from icm.tasks.base import Task

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
    """The task of that name, or the `TASK` of the module with that import path (`my_package.my_task`).

    Raises:
        ConfigError: there is no such task.
    """
    module = name if "." in name else dict(_modules()).get(name, f"{PACKAGES[0]}.{name}")
    try:
        task = importlib.import_module(module).TASK
    except Exception as error:  # a user's module may raise anything
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"task_type {name!r}: no such task ({reason}); expected auto, one of {', '.join(task_names())}, "
            "or the import path of a module with a TASK"
        ) from None
    if not isinstance(task, Task):
        raise ConfigError(f"task_type {name!r}: {module}.TASK is a {type(task).__name__}, expected icm.tasks.base.Task")
    return task
