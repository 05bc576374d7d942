"""Units on many engines at once."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from icm.config import GenerationConfig, SearchConfig, WorkersConfig
from icm.engines.base import Engine, Usage
from icm.engines.crew import Crew
from icm.labelling.unit import Job, Record, label_unit
from icm.prompts import Tokenizer
from icm.results.trace import Unit
from icm.search.checks import named_rules, rule_checker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What a worker says of its engine."""

    name: str
    device: str
    dtype: str
    tokenizer: Tokenizer
    context_length: int

    @classmethod
    def of(cls, engine: Engine) -> "Facts":
        """What there is to say of an engine."""
        device, dtype = (str(getattr(engine, name, "")) for name in ("device", "dtype"))
        return cls(engine.name, device, dtype, engine.tokenizer, engine.context_length)


@dataclass(frozen=True)
class Search:
    """The search of a unit, for a worker."""

    job: Job
    config: SearchConfig

    def __call__(self, engine: Engine, send: Callable[[Any], None]) -> None:
        """Send each row with what its unit has cost so far."""
        checker = rule_checker(self.job.batch.task, named_rules(self.config))
        label_unit(self.job, engine, self.config, checker, lambda *row: send(row))


class Workers(Crew[Engine, Unit]):
    """Engines that label units side by side. See `Crew`.

    Attributes:
        name, device, dtype, tokenizer, context_length: of the engines, which are alike; there when they are loaded.
        usage: of what they wrote; what they labelled is in the trace.
    """

    doing = "searched"
    failed = "{key}, worker {worker}: "
    name: str
    device: str
    dtype: str
    tokenizer: Tokenizer
    context_length: int

    def __init__(self, make: Callable[[], Engine], config: WorkersConfig, gpus: int = 1) -> None:
        super().__init__(make, config, gpus)
        self.usage = Usage()

    def load(self, most: int | None = None) -> Self:
        """See `Crew.load`."""
        super().load(most)
        vars(self).update(vars(self.ask(Facts.of)))
        logger.info("engine %s on %s", self.name, self.device or "a server")
        return self

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """See `Engine.generate`; one worker writes."""
        texts, self.usage = self.ask(lambda engine: (engine.generate(prompts, config, seed, stop), engine.usage))
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

        def task(unit: Unit) -> Search | None:
            left = job(unit)
            return None if left is None else Search(left, config)

        self.run(units, task, lambda unit, row: record(*row))
