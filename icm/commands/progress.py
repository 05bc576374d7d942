"""The progress bar of `icm run`: iteration, labelled count, utility, temperature, acceptance, tokens, time left; where
several searches run at once, how many, and how fast."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from icm.config import SearchConfig
from icm.labelling.forecast import duration
from icm.labelling.session import Progress
from icm.results.trace import Decision
from icm.text import Console, say

LINE_SECONDS = 60.0  # between two lines, where no bar is drawn
_UNKNOWN: dict[str, Any] = dict.fromkeys(("labelled", "utility", "temperature", "accepted", "tokens"), "–")
_STATE = (
    "{task.fields[labelled]} labelled · U {task.fields[utility]} · T {task.fields[temperature]} · "
    "accepted {task.fields[accepted]} · {task.fields[tokens]} tokens"
)
_MANY = "{task.fields[running]} searches running · {task.fields[tokens]} tokens · {task.fields[rate]} tokens/s a worker"


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
        self._began = self._said = time.monotonic()
        self._before: tuple[int, int] | None = None  # units finished and tokens computed before this command
        self._workers = 0
        self._task = bar.add_task("", total=None, **_UNKNOWN)

    def __call__(self, progress: Progress) -> None:
        """Show where the run stands. An early stop leaves a search's iterations behind, and the bar jumps there."""
        if self._before is None:
            self._before = progress.finished, progress.computed_tokens
        self._workers = max(self._workers, progress.running)
        if self._workers > 1:
            self._show_many(progress, *self._before)
        elif isinstance(progress.row, Decision):
            self._show_one(progress, progress.row)

    def _show_one(self, progress: Progress, row: Decision) -> None:
        self._decisions += 1
        self._accepted += row.accepted
        each = self._config.max_iterations
        self._show(
            _STATE,
            "step {} of at most {}",
            total=progress.units * each,
            completed=(row.batch * self._config.restarts + row.restart) * each + row.iteration,
            labelled=row.labelled,
            utility=f"{row.utility:.2f}",
            temperature=f"{row.temperature:.3f}",
            accepted=f"{self._accepted / self._decisions:.0%}",
            tokens=f"{progress.computed_tokens:,}",
        )

    def _show_many(self, progress: Progress, finished: int, tokens: int) -> None:
        seconds = time.monotonic() - self._began
        rate = (progress.computed_tokens - tokens) / seconds / self._workers
        done = progress.finished - finished
        left = f" · {duration(seconds / done * (progress.units - progress.finished))} left" if done else ""
        self._show(
            _MANY + left,
            "search {} of {}",
            total=progress.units,
            completed=progress.finished,
            running=progress.running,
            tokens=f"{progress.computed_tokens:,}",
            rate=f"{rate:,.0f}",
        )

    def _show(self, state: str, what: str, **fields: Any) -> None:
        """A bar, or a line a minute."""
        self._bar.start()
        self._bar.update(self._task, **fields)
        if self._bar.disable and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            (task,) = self._bar.tasks
            say(f"{what.format(task.completed, task.total)}: {state.format(task=task)}", error=True)
