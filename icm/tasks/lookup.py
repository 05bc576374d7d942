"""Tasks by name: a built-in one, or a module of the user's own."""

import importlib
import pkgutil

from icm.errors import ConfigError
from icm.tasks.base import Task


def task_names() -> list[str]:
    """Names of the built-in tasks: the modules in `icm/tasks/builtin/` that hold a `TASK`."""
    package = importlib.import_module("icm.tasks.builtin")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"icm.tasks.builtin.{name}"), "TASK")]


def find_task(name: str) -> Task:
    """The task of that name, or the `TASK` of the module with that import path (`my_package.my_task`).

    Raises:
        ConfigError: there is no such task.
    """
    module = name if "." in name else f"icm.tasks.builtin.{name}"
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
