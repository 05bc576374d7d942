"""One kind of work on many engines at once: each a Ray actor, on this machine or on those of a cluster."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import cached_property
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Generic, Self, TypeVar

from icm.config import EngineConfig, WorkersConfig
from icm.engines import check_engine
from icm.engines.cluster import check_ray, joined, room
from icm.errors import ICMError

logger = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds for which a worker gathers what it found before it sends it."""
PATIENCE = 60.0
"""Seconds without a word from anybody after which it is said what is waited for."""
MOST_DEATHS = 3
"""Of workers, one after another, that got no further: a fourth would fare no better."""

Made = TypeVar("Made")
Key = TypeVar("Key", bound=Hashable)
Task = Callable[[Made, Callable[[Any], None]], None]
"""Works with what a worker holds, and sends what it finds as it comes. Travels to the worker as it is."""


class Worker(Generic[Made]):
    """An engine, or what holds one, in a process of its own.

    Args:
        folder: the command's, for relative paths, where it is here too.
    """

    def __init__(self, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        self._lane = ThreadPoolExecutor(1)  # the engine is made and used in one thread; what is found is sent meanwhile
        self._made: Any = None

    def load(self, make: Callable[[], Made]) -> None:
        """Start the engine."""
        self._made = self._lane.submit(make).result()

    def ask(self, question: Callable[[Made], Any]) -> Any:
        """What the question gives; before `load` it is asked of None."""
        return self._lane.submit(question, self._made).result()

    def run(self, task: Task[Made]) -> Iterator[list[Any]]:
        """What a task sends, and log records of what is logged meanwhile, as they come."""
        found: SimpleQueue[Any] = SimpleQueue()
        log, handler = logging.getLogger("icm"), QueueHandler(found)
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        done = self._lane.submit(task, self._made, found.put)
        try:
            yield from _gathered(found, done)
        finally:
            log.removeHandler(handler)
        done.result()


def _gathered(found: "SimpleQueue[Any]", done: "Future[None]") -> Iterator[list[Any]]:
    """What has been found, every so often, until the task is done."""
    ended = False
    while not ended:
        ended = bool(wait([done], timeout=PAUSE).done)  # asked first: what came before the end is in the queue then
        if items := [found.get() for _ in range(found.qsize())]:
            yield items


class Crew(Generic[Made, Key]):
    """Workers, each with an engine, side by side. Use it as a context manager: leaving it ends them, also on error.

    Args:
        make: starts an engine.
        config: how many, and where.
        gpus: of each where there are any; 0 for an engine that takes none.
    """

    doing: ClassVar[str] = "did"
    """What a worker does with a key, for messages."""
    failed: ClassVar[str] = ""
    """Stands before an error that a user can mend, with {key} and {worker}."""

    def __init__(self, make: Callable[[], Made], config: WorkersConfig, gpus: int = 1) -> None:
        self._make, self._config, self._gpus = make, config, gpus
        self._stack = ExitStack()
        self._workers: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._running: dict[Any, tuple[int, Key]] = {}
        self._idle: list[int] = []
        self._deaths: Counter[Key | None] = Counter()

    @cached_property
    def _ray(self) -> Any:
        """The module, in a cluster; joined when it is needed."""
        return self._stack.enter_context(joined(self._config.ray_address))

    @cached_property
    def _made(self) -> Any:
        """`make`, sent once for all workers."""
        return self._ray.put(self._make)

    @cached_property
    def _room(self) -> tuple[int, dict[str, float]]:
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return room(machines, self._config.workers, self._gpus)

    @property
    def count(self) -> int:
        """Workers at most. Raises ConfigError, see `room`."""
        return self._room[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers.values():
            self._ray.kill(worker)
        self._stack.close()

    def check(self, config: EngineConfig) -> str:
        """`check_engine`, and whether Ray is here; on a machine of the cluster, which may have what is not here."""
        if not self._config.here:
            check_ray(self._config.ray_address)
        if self._config.ray_address is None:
            return check_engine(config)
        return str(self.ask(lambda made: check_engine(config)))

    def load(self, most: int | None = None) -> Self:
        """Start engines, and wait for the first.

        Args:
            most: of them that could have something to do; None where that is not known yet.

        Raises:
            ICMError: see `create_engine`, and `room`.
        """
        logger.info("%d worker(s), %s", self.count, _shown(self._room[1]))
        for number in range(1 if most is None else min(self.count, most)):
            self._start(number)
        while not self._idle:
            self._take_in(self._events())
        return self

    def ask(self, question: Callable[[Made], Any]) -> Any:
        """What a worker says that has nothing else to do, or will have nothing when its engine has started.

        Raises:
            ICMError: as the question, or the worker died over it.
        """
        number = self._idle[0] if self._idle else 0
        try:
            return self._get(self._worker(number).ask.remote(question))
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError:
            raise ICMError(
                f"worker {number} died while it was asked; a process that ends without a word often lacks memory; the "
                "same command goes on from here"
            ) from None

    def run(
        self, keys: Sequence[Key], task: Callable[[Key], Task[Made] | None], heard: Callable[[Key, Any], None]
    ) -> None:
        """Do the tasks of all keys, after `load`.

        Args:
            keys: in the order in which they begin; what messages call the tasks.
            task: what is left to do for a key; asked when it begins, and again when its worker has died.
            heard: gets all that the task of a key sends, in this thread.

        Raises:
            ICMError: a task failed, or its workers die; names the key and the worker.
        """
        waiting = deque(keys)
        for number in range(len(self._workers), min(self.count, len(keys))):
            self._start(number)
        while waiting or self._running:
            while waiting and self._idle:
                self._begin(waiting.popleft(), task)
            for event in self._take_in(self._events()):
                if (dead := self._heard(event, heard)) is not None:
                    waiting.appendleft(dead)

    def _worker(self, number: int) -> Any:
        if number not in self._workers:
            self._workers[number] = self._ray.remote(Worker).options(**self._room[1]).remote(str(Path.cwd()))
        return self._workers[number]

    def _start(self, number: int) -> None:
        self._starting[self._worker(number).load.remote(self._made)] = number

    def _begin(self, key: Key, task: Callable[[Key], Task[Made] | None]) -> None:
        if (left := task(key)) is not None:
            number = self._idle.pop()
            stream = self._workers[number].run.options(num_returns="streaming").remote(left)
            self._running[stream] = (number, key)

    def _events(self) -> list[Any]:
        """Engines that have started, and tasks that have something to say or have ended."""
        waited = [*self._starting, *self._running]
        if not waited:
            return []
        ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(waited, timeout=PATIENCE)
        if not ready and not self._running:
            logger.warning("no worker is ready yet; waiting for room on the machines, or for the model to load")
        return list(ready)

    def _take_in(self, events: Sequence[Any]) -> list[Any]:
        """Note the engines that have started; the other events are returned."""
        for event in [event for event in events if event in self._starting]:
            number = self._starting.pop(event)
            try:
                self._get(event)
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError:
                self._replace(number, None)
                continue
            self._idle.append(number)
            self._deaths[None] = 0
        return [event for event in events if event in self._running]

    def _heard(self, stream: Any, heard: Callable[[Key, Any], None]) -> Key | None:
        """Take what a task says; returns its key if the worker has died."""
        number, key = self._running[stream]
        try:
            items = self._get(next(stream), self.failed.format(key=key, worker=number))
        except StopIteration:
            del self._running[stream]
            self._idle.append(number)
            return None
        except self._ray.exceptions.RayTaskError as error:
            error.add_note(f"while worker {number} {self.doing} {key}")
            raise
        except self._ray.exceptions.RayError:
            del self._running[stream]
            self._replace(number, key)
            return key
        for item in items:
            if isinstance(item, logging.LogRecord):
                logging.getLogger(item.name).log(item.levelno, "%s: %s", key, item.getMessage())
            else:
                heard(key, item)
                self._deaths[key] = 0
        return None

    def _replace(self, number: int, key: Key | None) -> None:
        """Start another worker in the place of one that died."""
        where = "while its engine started" if key is None else f"while it {self.doing} {key}"
        self._deaths[key] += 1
        if self._deaths[key] >= MOST_DEATHS:
            raise ICMError(
                f"worker {number} died {where}, as {MOST_DEATHS - 1} before it; a process that ends without a word "
                "often lacks memory: try fewer --workers"
            )
        logger.warning("worker %d died %s; another takes its place", number, where)
        self._ray.kill(self._workers.pop(number))
        self._start(number)

    def _get(self, reference: Any, where: str = "") -> Any:
        """What a worker returned. An error that a user can mend is raised as it was, behind `where`."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ICMError):
                raise type(error.cause)(f"{where}{error.cause}") from None
            raise


def gpus_of(config: EngineConfig) -> int:
    """GPUs that an engine takes where there are any."""
    if config.engine == "server" or config.device in ("cpu", "mps"):
        return 0
    return config.tensor_parallel_size * config.pipeline_parallel_size


def _shown(each: dict[str, float]) -> str:
    return f"{each['num_gpus']:g} GPU(s) each" if each["num_gpus"] else f"{each['num_cpus']:g} CPU(s) each"
