"""Units on many engines at once: each a Ray actor, on this machine or on those of a cluster."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

from icm.config import EngineConfig, GenerationConfig, SearchConfig, WorkersConfig
from icm.engines import check_engine
from icm.engines.base import Engine, Usage
from icm.errors import ICMError
from icm.labelling.cluster import check_ray, joined, room
from icm.labelling.unit import Job, Record, label_unit
from icm.prompts import Tokenizer
from icm.results.trace import Cost, SearchRow, Unit
from icm.search.checks import named_rules, rule_checker

logger = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds for which a worker gathers rows before it sends them."""
PATIENCE = 60.0
"""Seconds without a word from anybody after which it is said what is waited for."""
MOST_DEATHS = 3
"""Of workers, one after another, that got no further: a fourth would fare no better."""
Found = list[tuple[SearchRow, Cost] | logging.LogRecord]


@dataclass(frozen=True)
class Facts:
    """What a worker says of its engine."""

    name: str
    device: str
    dtype: str
    tokenizer: Tokenizer
    context_length: int


class Worker:
    """One engine, in a process of its own.

    Args:
        folder: the command's, for relative paths, where it is here too.
    """

    def __init__(self, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        self._lane = ThreadPoolExecutor(1)  # the engine is made and used in one thread; rows are sent meanwhile
        self._engine: Engine | None = None

    def check(self, config: EngineConfig) -> str:
        """See `check_engine`."""
        return check_engine(config)

    def load(self, make: Callable[[], Engine]) -> Facts:
        """Start the engine."""
        engine = self._engine = self._lane.submit(make).result()
        device, dtype = (str(getattr(engine, name, "")) for name in ("device", "dtype"))
        return Facts(engine.name, device, dtype, engine.tokenizer, engine.context_length)

    def label(self, job: Job, config: SearchConfig) -> Iterator[Found]:
        """The rows of a unit as they come, and what is logged meanwhile."""
        assert self._engine is not None
        found: SimpleQueue[Any] = SimpleQueue()
        log, handler = logging.getLogger("icm"), QueueHandler(found)
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        checker = rule_checker(job.batch.task, named_rules(config))
        done = self._lane.submit(label_unit, job, self._engine, config, checker, lambda *row: found.put(row))
        try:
            yield from _gathered(found, done)
        finally:
            log.removeHandler(handler)
        done.result()

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str]
    ) -> tuple[list[str], Usage]:
        """Texts, and the engine's usage so far."""
        assert self._engine is not None
        texts = self._lane.submit(self._engine.generate, prompts, config, seed, stop).result()
        return texts, self._engine.usage


def _gathered(found: "SimpleQueue[Any]", done: "Future[None]") -> Iterator[Found]:
    """What has been found, every so often, until the search is done."""
    ended = False
    while not ended:
        ended = bool(wait([done], timeout=PAUSE).done)  # asked first: what came before the end is in the queue then
        if items := [found.get() for _ in range(found.qsize())]:
            yield items


class Workers:
    """Engines that label units side by side. Use it as a context manager: leaving it ends them, also on error.

    Args:
        make: starts an engine.
        config: how many, and where.
        gpus: of each where there are any; 0 for an engine that takes none.

    Attributes:
        name, device, dtype, tokenizer, context_length: of the engines, which are alike; there when they are loaded.
        usage: of what they wrote; what they labelled is in the trace.
    """

    name: str
    device: str
    dtype: str
    tokenizer: Tokenizer
    context_length: int

    def __init__(self, make: Callable[[], Engine], config: WorkersConfig, gpus: int = 1) -> None:
        self.usage = Usage()
        self._make, self._config, self._gpus = make, config, gpus
        self._stack = ExitStack()
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._running: dict[Any, tuple[int, Unit]] = {}
        self._idle: list[int] = []
        self._deaths: Counter[Unit | None] = Counter()

    @cached_property
    def _ray(self) -> Any:
        """The module, in a cluster; joined when it is needed."""
        return self._stack.enter_context(joined(self._config.ray_address))

    @cached_property
    def _room(self) -> tuple[int, dict[str, float]]:
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return room(machines, self._config.workers, self._gpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._stack.close()

    def check(self, config: EngineConfig) -> str:
        """`check_engine`, and whether Ray is here; on a machine of the cluster, which may have what is not here."""
        if not self._config.here:
            check_ray()
        if self._config.ray_address is None:
            return check_engine(config)
        return str(self._get(self._actor(0).check.remote(config)))

    def load(self, most: int | None = None) -> Self:
        """Start engines, and wait for the first.

        Args:
            most: of them that could have something to do; None where that is not known yet.

        Raises:
            ICMError: see `create_engine`, and `room`.
        """
        count, each = self._room
        logger.info("%d worker(s), %s", count, _shown(each))
        for number in range(1 if most is None else min(count, most)):
            self._start(number)
        while not self._idle:
            self._take_in(self._events())
        logger.info("engine %s on %s", self.name, self.device or "a server")
        return self

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """See `Engine.generate`; the first worker writes."""
        texts, self.usage = self._get(self._actors[0].generate.remote(prompts, config, seed, stop))
        return texts

    def label(
        self, units: Sequence[Unit], job: Callable[[Unit], Job | None], config: SearchConfig, record: Record
    ) -> None:
        """Search units to their ends.

        Args:
            units: in the order in which they begin.
            job: a unit as it stands; asked when it begins, and again when its worker has died.
            config: of the search.
            record: gets every row, in this thread.

        Raises:
            ICMError: a unit failed, or its workers die; names the unit and the worker.
        """
        waiting = deque(units)
        for number in range(len(self._actors), min(self._room[0], len(units))):
            self._start(number)
        while waiting or self._running:
            while waiting and self._idle:
                self._begin(waiting.popleft(), job, config)
            for event in self._take_in(self._events()):
                if (dead := self._heard(event, record)) is not None:
                    waiting.appendleft(dead)

    def _actor(self, number: int) -> Any:
        if number not in self._actors:
            self._actors[number] = self._ray.remote(Worker).options(**self._room[1]).remote(str(Path.cwd()))
        return self._actors[number]

    def _start(self, number: int) -> None:
        self._starting[self._actor(number).load.remote(self._make)] = number

    def _begin(self, unit: Unit, job: Callable[[Unit], Job | None], config: SearchConfig) -> None:
        if (left := job(unit)) is not None:
            number = self._idle.pop()
            stream = self._actors[number].label.options(num_returns="streaming").remote(left, config)
            self._running[stream] = (number, unit)

    def _events(self) -> list[Any]:
        """Engines that have started, and searches that have something to say or have ended."""
        waited = [*self._starting, *self._running]
        ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        if not ready and waited:
            ready, _ = self._ray.wait(waited, timeout=PATIENCE)
        if not ready and not self._running:
            logger.warning("no worker is ready yet; waiting for room on the machines, or for the model to load")
        return list(ready)

    def _take_in(self, events: Sequence[Any]) -> list[Any]:
        """Note the engines that have started; the other events are returned."""
        for event in [event for event in events if event in self._starting]:
            number = self._starting.pop(event)
            try:
                facts: Facts = self._get(event)
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError:
                self._replace(number, None)
                continue
            self._idle.append(number)
            self._deaths[None] = 0
            vars(self).update(vars(facts))
        return [event for event in events if event in self._running]

    def _heard(self, stream: Any, record: Record) -> Unit | None:
        """Take what a search says; returns its unit if the worker has died."""
        number, unit = self._running[stream]
        try:
            items: Found = self._get(next(stream), f"{unit}, worker {number}: ")
        except StopIteration:
            del self._running[stream]
            self._idle.append(number)
            return None
        except self._ray.exceptions.RayTaskError as error:
            error.add_note(f"while worker {number} searched {unit}")
            raise
        except self._ray.exceptions.RayError:
            del self._running[stream]
            self._replace(number, unit)
            return unit
        for item in items:
            if isinstance(item, logging.LogRecord):
                logging.getLogger(item.name).log(item.levelno, "%s: %s", unit, item.getMessage())
            else:
                record(*item)
                self._deaths[unit] = 0
        return None

    def _replace(self, number: int, unit: Unit | None) -> None:
        """Start another worker in the place of one that died."""
        where = f"while it searched {unit}" if unit else "while its engine started"
        self._deaths[unit] += 1
        if self._deaths[unit] >= MOST_DEATHS:
            raise ICMError(
                f"worker {number} died {where}, as {MOST_DEATHS - 1} before it; a process that ends without a word "
                "often lacks memory: try fewer --workers"
            )
        logger.warning("worker %d died %s; another takes its place", number, where)
        self._ray.kill(self._actors.pop(number))
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
