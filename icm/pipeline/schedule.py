"""Stages side by side: each begins when the files that it reads are there and its share of the machine is free."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

import psutil

from icm.doors.signals import end, tethered
from icm.errors import ICMError
from icm.pipeline.resources import Machine
from icm.pipeline.stages import Stage
from icm.text import say

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Running:
    """A stage under way.

    Attributes:
        number: its place among the stages.
        process: whose exit code decides.
        cards: that it holds.
        begun: when.
    """

    number: int
    process: Process
    cards: Sequence[str]
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.begun


def run_all(
    stages: Sequence[Stage],
    machine: Machine,
    start: Callable[[int, Sequence[str]], Process | None],
    finish: Callable[[int, float, int | None], None],
) -> None:
    """Run the stages in their order, as far as files and the machine allow. After a failure none begins any more, and
    those under way come to their end; whatever else ends this function ends them.

    Args:
        stages: in an order in which they could run one after another.
        machine: what they may use.
        start: begins a stage, by its place, on these cards; None where nothing is to be done.
        finish: is told a stage's place, seconds and exit code (None: it was ended) by this thread.

    Raises:
        ICMError, OSError: the first of those that `start` and `finish` raised.
    """
    order = TopologicalSorter(dependencies(stages))
    order.prepare()
    ready, running, failures = list[int](), dict[Future[int], Running](), list[Exception]()
    with ThreadPoolExecutor(machine.jobs) as threads, _ended_on_error(running, finish):
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()])
            found = None if failures else _first_that_fits(ready, stages, machine, running.values())
            try:
                if found is not None:
                    number, cards = found
                    ready.remove(number)
                    process = start(number, cards)  # by this thread: the child ends with the thread that started it
                    if process is None:
                        order.done(number)
                    else:
                        running[threads.submit(process.wait)] = Running(number, process, cards)
                elif running:
                    future = min(wait(running, return_when=FIRST_COMPLETED).done, key=lambda one: running[one].number)
                    stage = running.pop(future)
                    finish(stage.number, stage.seconds, future.result())
                    order.done(stage.number)
                else:
                    break
            except (ICMError, OSError) as error:
                failures.append(error)
                if running:
                    say(f"{error}; nothing else begins, and what is under way comes to its end", error=True)
    if failures:
        raise failures[0]


@contextmanager
def _ended_on_error(
    running: Mapping[Future[int], Running], finish: Callable[[int, float, int | None], None]
) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        end([process for stage in running.values() for process in _with_children(stage.process)])
        for stage in running.values():
            finish(stage.number, stage.seconds, None)
        if isinstance(error, KeyboardInterrupt) and running:
            raise KeyboardInterrupt("interrupted; the same command continues from here") from None
        raise


def _with_children(process: Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(process.pid)
        return [child, *child.children(recursive=True)]
    return []


def dependencies(stages: Sequence[Stage]) -> dict[int, set[int]]:
    """Place of a stage → places of the earlier ones that write what it reads."""
    return {
        place: {earlier for earlier in range(place) if _writes_for(stages[earlier], stage)}
        for place, stage in enumerate(stages)
    }


def _writes_for(earlier: Stage, later: Stage) -> bool:
    outputs, folder = {path.resolve() for path in earlier.outputs}, earlier.folder and earlier.folder.resolve()
    read = map(Path.resolve, later.inputs)
    return any(path in outputs or (folder is not None and path.is_relative_to(folder)) for path in read)


def _first_that_fits(
    ready: Iterable[int], stages: Sequence[Stage], machine: Machine, running: Iterable[Running]
) -> tuple[int, Sequence[str]] | None:
    """Place and cards of the first stage that can begin now."""
    under_way = list(running)
    taken = [card for stage in under_way for card in stage.cards]
    shares = ((number, machine.share(stages[number].processes, taken)) for number in ready)
    fitting = ((number, cards) for number, cards in shares if cards is not None)
    return next(fitting, None) if len(under_way) < machine.jobs else None


def open_stage(command: Sequence[str], variables: Mapping[str, str], log: Path | None) -> Process:
    """A child process, which ends with this one: if this is killed the system asks it to.

    Args:
        command: argument list.
        variables: of its environment, besides this process's.
        log: file to which all that it says is appended; None says it here.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if log is None else log.open("ab") as output:
        return subprocess.Popen(
            tethered(command),
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
