"""The harness's tasks that an evaluation names: found, their data read, and checked before any model loads."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.settings import BenchmarkConfig
from icm.errors import ConfigError, PrerequisiteError
from icm.files import JsonObject, fingerprint, fingerprint_of_rows
from icm.labelling.options import nearest
from icm.tasks.drawing import group_id

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

# Where the data lies and which functions are whose: the items and the prompts that come of it are compared instead.
_PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "metadata")


@dataclass(frozen=True)
class Benchmark:
    """One of the names under `tasks`: a task, or a group or tag of several.

    Attributes:
        name: as named.
        tasks: the harness's tasks under that name.
        left_out: items whose question a label file holds, of all these.
        kept: places of the items that are asked, a list a task; None asks the first `limit`.
        identity: what is asked, by content.
    """

    name: str
    tasks: Mapping[str, "Task"]
    left_out: int
    kept: Mapping[str, list[int]] | None
    identity: Mapping[str, object]

    @property
    def generates(self) -> bool:
        """Whether all its tasks let the model write, and none asks for log-likelihoods."""
        return all(task.OUTPUT_TYPE == "generate_until" for task in self.tasks.values())


@dataclass(frozen=True)
class BenchmarkTasks:
    """The tasks of an evaluation.

    Attributes:
        settings: which.
        trained: groups of the questions that label files hold; these are not asked.
    """

    settings: BenchmarkConfig
    trained: frozenset[str] = frozenset()

    @cached_property
    def manager(self) -> "TaskManager":
        """Knows the task files. The harness's own are thousands, read only where they are needed.

        Raises:
            PrerequisiteError: the harness is not installed.
            ConfigError: no such folder, or no such task.
        """
        if find_spec("lm_eval") is None:
            raise PrerequisiteError(
                "benchmarks: lm-evaluation-harness is not installed; install it with `pip install icm[benchmarks]`"
            )
        from lm_eval.tasks import TaskManager

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every setting that a task does not have
        folder, names = self.settings.include_path, self.settings.tasks
        if folder is not None and not Path(folder).is_dir():
            raise ConfigError(f"benchmarks.include_path: no folder {folder} in {Path.cwd()}")
        if folder is not None:
            own = TaskManager(include_path=folder, include_defaults=False)
            if set(names) <= set(own.all_subtasks):
                return own
        every = TaskManager(include_path=folder)
        for name in names:
            if name not in every.all_tasks:
                raise ConfigError(f"benchmarks.tasks: no task {name!r}{nearest(name, every.all_tasks)}")
        return every

    @cached_property
    def benchmarks(self) -> tuple[Benchmark, ...]:
        """All of them, with their data.

        Raises:
            PrerequisiteError: data that cannot be had, or a package that a task needs.
            ConfigError: tasks that are not run here.
        """
        return tuple(map(self._benchmark, self.settings.tasks))

    def _benchmark(self, name: str) -> Benchmark:
        try:
            tasks = self.manager.load([name])["tasks"]
        except Exception as error:  # data sets and task files raise what they like
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise PrerequisiteError(
                f"benchmarks.tasks: {name}: its data or a package it needs cannot be had ({said}); run it once where "
                "the hub can be reached, or give a task file with local data (benchmarks.include_path)"
            ) from error
        for task in tasks.values():
            if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
                found = "runs code that the model writes" if getattr(task, "UNSAFE_CODE", False) else "asks of images"
                raise ConfigError(f"benchmarks.tasks: {name}: {found}, which is not done here; leave it out")
        held_out = {key: _held_out(task, self.trained) for key, task in tasks.items()}
        left_out = sum(len(task.eval_docs) - len(held_out[key]) for key, task in tasks.items())
        if not all(held_out.values()):
            raise ConfigError(f"benchmarks.tasks: {name}: every question is in a label file; nothing is held out")
        kept = {key: places[: self.settings.limit] for key, places in held_out.items()} if left_out else None
        return Benchmark(name, tasks, left_out, kept, self._identity(tasks, kept))

    def _identity(self, tasks: Mapping[str, "Task"], kept: Mapping[str, list[int]] | None) -> dict[str, object]:
        settings = self.settings
        return {
            "tasks": {key: [_config(task), _items(task)] for key, task in tasks.items()},
            "kept": kept,
            "limit": settings.limit,
            "num_fewshot": settings.num_fewshot,
            "batch_size": settings.batch_size,
        }


def _held_out(task: "Task", trained: frozenset[str]) -> list[int]:
    """Places of the items none of whose texts is a question of a label file."""
    if not trained:
        return list(range(len(task.eval_docs)))
    return [place for place, item in enumerate(task.eval_docs) if trained.isdisjoint(map(group_id, _texts(item)))]


def _texts(item: Mapping[str, Any]) -> Iterator[str]:
    return (value for value in item.values() if isinstance(value, str))


def _config(task: "Task") -> str:
    """How a task asks and scores, its functions' source included."""
    config: JsonObject = {key: value for key, value in task.dump_config().items() if key not in _PLACES}
    return fingerprint(json.loads(json.dumps(config, default=str, sort_keys=True)))


def _items(task: "Task") -> str:
    """Fingerprint of the items that are asked or shown."""
    shown = [] if task.config.fewshot_split is None else list(task.fewshot_docs() or [])
    return fingerprint_of_rows(json.loads(json.dumps(item, default=str)) for item in (*task.eval_docs, *shown))
