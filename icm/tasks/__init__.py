"""Tasks: raw records in, examples without gold out, gold apart. A task is one module with a `TASK`."""

from icm.tasks.loading import load_icm_dataset, load_task
from icm.tasks.source import DataSource

__all__ = ["DataSource", "load_icm_dataset", "load_task"]
