"""Internal Coherence Maximization: label data with a model's own coherence, fine-tune on the labels, evaluate.

Names are imported when they are first used, so that `import icm` and `icm --help` take no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icm.config import EngineConfig as EngineConfig
    from icm.config import GenerationConfig as GenerationConfig
    from icm.config import SearchConfig as SearchConfig
    from icm.consistency import LogicalConsistencyChecker as LogicalConsistencyChecker
    from icm.errors import ICMError as ICMError
    from icm.examples import GoldLabels as GoldLabels
    from icm.examples import ICMDataset as ICMDataset
    from icm.examples import ICMExample as ICMExample
    from icm.examples import LabelSpace as LabelSpace
    from icm.examples import Relations as Relations
    from icm.examples import TaskData as TaskData
    from icm.labelling.searcher import ICMSearcher as ICMSearcher
    from icm.publish.exporters import ICMExporter as ICMExporter
    from icm.results.folder import ICMStorage as ICMStorage
    from icm.results.format import ICMResult as ICMResult
    from icm.results.format import LabeledExample as LabeledExample
    from icm.tasks import DataSource as DataSource
    from icm.tasks import load_icm_dataset as load_icm_dataset
    from icm.tasks import load_task as load_task

_HOME = {  # in the order of a run
    "load_icm_dataset": "tasks",
    "load_task": "tasks",
    "DataSource": "tasks",
    "TaskData": "examples",
    "ICMDataset": "examples",
    "ICMExample": "examples",
    "LabelSpace": "examples",
    "Relations": "examples",
    "GoldLabels": "examples",
    "ICMSearcher": "labelling.searcher",
    "SearchConfig": "config",
    "EngineConfig": "config",
    "GenerationConfig": "config",
    "LogicalConsistencyChecker": "consistency",
    "ICMResult": "results.format",
    "LabeledExample": "results.format",
    "ICMStorage": "results.folder",
    "ICMExporter": "publish.exporters",
    "ICMError": "errors",
}
"""Name for users → the module that holds it."""

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'icm' has no attribute {name!r}")
    return getattr(import_module(f"icm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
