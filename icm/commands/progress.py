"""The progress bar of `icm run`: iteration, labelled count, utility, temperature, acceptance, tokens, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from icm.config import SearchConfig
from icm.labelling.session import Progress
from icm.results.trace import Decision
from icm.text import Console, say

LINE_SECONDS = 60.0  # between two lines, where no bar is drawn
_UNKNOWN: dict[str, Any] = dict.fromkeys(("labelled", "utility", "temperature", "accepted", "tokens"), "–")
_STATE = (
    "{task.fields[labelled]} labelled · U {task.fields[utility]} · T {task.fields[temperature]} · "
    "accepted {task.fields[accepted]} · {task.fields[tokens]} tokens"
)


@contextmanager
def progress_bar(config: SearchConfig) -> Iterator[Callable[[Progress], None]]:
    """Yield the `on_progress` of `run_labeling`: a bar on a terminal, elsewhere a line a minute."""
    console = Console(file=sys.stderr)
    columns = BarColumn(20), MofNCompleteColumn(), TextColumn(_STATE), TimeElapsedColumn(), TimeRemainingColumn()
    bar = Bar(*columns, console=console, disable=not console.is_terminal)
    try:
        yield _Updates(bar, config)
    finally:
        bar.stop()


class _Updates:
    """Draws from the first decision on, so that it does not mix with the bar of loading a model."""

    def __init__(self, bar: Bar, config: SearchConfig) -> None:
        self._bar = bar
        self._config = config
        self._decisions = 0
        self._accepted = 0
        self._said = time.monotonic()
        self._task = bar.add_task("", total=None, **_UNKNOWN)

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands. An early stop leaves a search's iterations behind, and the bar jumps there."""
        row = progress.row
        if not isinstance(row, Decision):
            return
        self._bar.start()
        self._decisions += 1
        self._accepted += row.accepted
        each, restarts = self._config.max_iterations, self._config.restarts
        self._bar.update(
            self._task,
            total=progress.batches * restarts * each,
            completed=(row.batch * restarts + row.restart) * each + row.iteration,
            labelled=row.labelled,
            utility=f"{row.utility:.2f}",
            temperature=f"{row.temperature:.3f}",
            accepted=f"{self._accepted / self._decisions:.0%}",
            tokens=f"{progress.computed_tokens:,}",
        )
        if self._bar.disable and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            (task,) = self._bar.tasks
            say(f"step {task.completed} of {task.total}: {_STATE.format(task=task)}", error=True)
