"""Internal Coherence Maximization: label data with a model's own coherence, fine-tune on the labels, evaluate.

Names are imported when they are first used, so that `import icm` and `icm --help` take no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icm.config import EngineConfig, GenerationConfig, SearchConfig
    from icm.consistency import LogicalConsistencyChecker
    from icm.errors import ICMError
    from icm.examples import GoldLabels, ICMDataset, ICMExample, LabelSpace, Relations, TaskData
    from icm.exporters import ICMExporter
    from icm.searcher import ICMSearcher
    from icm.storage import ICMResult, ICMStorage, LabeledExample
    from icm.tasks import DataSource, load_icm_dataset, load_task

_HOME = {
    "EngineConfig": "config",
    "GenerationConfig": "config",
    "SearchConfig": "config",
    "LogicalConsistencyChecker": "consistency",
    "ICMError": "errors",
    "GoldLabels": "examples",
    "ICMDataset": "examples",
    "ICMExample": "examples",
    "LabelSpace": "examples",
    "Relations": "examples",
    "TaskData": "examples",
    "ICMExporter": "exporters",
    "ICMSearcher": "searcher",
    "ICMResult": "storage",
    "ICMStorage": "storage",
    "LabeledExample": "storage",
    "DataSource": "tasks",
    "load_icm_dataset": "tasks",
    "load_task": "tasks",
}

__all__ = [  # noqa: RUF022 (in the order of a run)
    "load_icm_dataset",
    "load_task",
    "DataSource",
    "TaskData",
    "ICMDataset",
    "ICMExample",
    "LabelSpace",
    "Relations",
    "GoldLabels",
    "ICMSearcher",
    "SearchConfig",
    "EngineConfig",
    "GenerationConfig",
    "LogicalConsistencyChecker",
    "ICMResult",
    "LabeledExample",
    "ICMStorage",
    "ICMExporter",
    "ICMError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'icm' has no attribute {name!r}")
    return getattr(import_module(f"icm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
