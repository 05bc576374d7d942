"""What is to be asked, one sheet an answer file: filled in this process, or in shards by workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from eval.conditions.answers import AnswerFile, Batch
from eval.conditions.base import ITEMS_PER_BATCH, Condition
from eval.conditions.pool import EnginePool
from icm.config import EngineConfig, WorkersConfig
from icm.engines.crew import Crew, gpus_of
from icm.examples import ICMExample
from icm.text import say

SHARDS_PER_WORKER = 4
"""Of one sheet: a worker that dies or is slow holds up the others by no more than that."""

Ask = Callable[[Sequence[str], EnginePool], Iterator[Batch]]


@dataclass(frozen=True)
class Sheet:
    """An answer file and what fills it.

    Attributes:
        name: of the condition and its seed.
        file: the answers.
        ids: of all items.
        ask: answers items; goes to a worker as it is.
        engine: what answers; None where no engine is needed.
    """

    name: str
    file: AnswerFile
    ids: tuple[str, ...]
    ask: Ask
    engine: EngineConfig | None

    @property
    def missing(self) -> list[str]:
        """Ids of the items that the file does not answer yet."""
        return self.file.unanswered(self.ids)


def answer_items(
    condition: Condition, examples: Mapping[str, ICMExample], ids: Sequence[str], engines: EnginePool
) -> Iterator[Batch]:
    """A condition's answers to items by id; with its first two arguments an `Ask`."""
    return condition.answer([examples[key] for key in ids], engines)


def fill(sheet: Sheet, engines: EnginePool) -> None:
    """Ask for the answers that the file does not hold yet."""
    missing = sheet.missing
    if not missing:
        return
    with (
        sheet.file.appending(),
        tqdm(total=len(missing), desc=sheet.file.path.stem, unit="item", leave=False, disable=None) as bar,
    ):
        for batch in sheet.ask(missing, engines):
            sheet.file.add(batch)
            bar.update(len(batch.answers))


@dataclass(frozen=True)
class Desk:
    """What a worker holds.

    Attributes:
        engines: one loaded at a time.
        asks: of all sheets, by number.
    """

    engines: EnginePool
    asks: Sequence[Ask]

    @classmethod
    def of(cls, wanted: Sequence[EngineConfig], asks: Sequence[Ask]) -> "Desk":
        """A desk that has loaded nothing yet."""
        return cls(EnginePool(wanted), asks)


@dataclass(frozen=True)
class Shard:
    """Consecutive items of one sheet.

    Attributes:
        sheet: its number.
        name: the sheet's.
        start, stop: of the items that were missing.
    """

    sheet: int
    name: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.name}, items {self.start + 1} to {self.stop}"


@dataclass(frozen=True)
class Answering:
    """A shard's items, for a worker. Sends each batch with the engines that it took to start."""

    sheet: int
    ids: tuple[str, ...]

    def __call__(self, desk: Desk, send: Callable[[tuple[Batch, int]], None]) -> None:
        """Answer, batch by batch."""
        starts = desk.engines.starts
        for batch in desk.asks[self.sheet](self.ids, desk.engines):
            send((batch, desk.engines.starts - starts))
            starts = desk.engines.starts


class Answerers(Crew[Desk, Shard]):
    """Workers that answer shards."""

    doing = "answered"


class _Filling:
    """Sheets as they fill up; this process alone writes."""

    def __init__(self, sheets: Sequence[Sheet], bar: "tqdm[Any]") -> None:
        self._sheets, self._bar = sheets, bar
        self._missing = [sheet.missing for sheet in sheets]
        self._left = [set(ids) for ids in self._missing]
        self.starts = 0

    def shards(self, workers: int) -> list[Shard]:
        """All shards, sheet by sheet."""
        return [
            Shard(number, sheet.name, start, stop)
            for number, sheet in enumerate(self._sheets)
            for start, stop in shard_bounds(len(self._missing[number]), workers)
        ]

    def task(self, shard: Shard) -> Answering | None:
        """What a shard still needs."""
        own, left = self._missing[shard.sheet][shard.start : shard.stop], self._left[shard.sheet]
        ids = tuple(key for key in own if key in left)
        return Answering(shard.sheet, ids) if ids else None

    def keep(self, shard: Shard, sent: tuple[Batch, int]) -> None:
        """Write down a batch of a shard."""
        sheet, left, (batch, starts) = self._sheets[shard.sheet], self._left[shard.sheet], sent
        sheet.file.add(batch)
        left.difference_update(answer.id for answer in batch.answers)
        self.starts += starts
        self._bar.update(len(batch.answers))
        if self._bar.disable and not left:
            say(f"answered {sheet.name}", error=True)


def fill_together(sheets: Sequence[Sheet], config: WorkersConfig) -> int:
    """Ask for the answers that the files do not hold yet, over workers; returns how many engines they started.

    A shard is a whole number of batches, so what is scored together, and with it every number, is as in one process.

    Args:
        sheets: those that an engine fills, in the order in which they are filled; each its own file.
        config: how many workers, and where.

    Raises:
        ICMError: as a condition, or as `Crew` says.
    """
    sheets = [sheet for sheet in sheets if sheet.missing]
    if not sheets:
        return 0
    wanted = list(dict.fromkeys(sheet.engine for sheet in sheets if sheet.engine))
    make = partial(Desk.of, wanted, [sheet.ask for sheet in sheets])
    with Answerers(make, config, max(map(gpus_of, wanted))) as crew, ExitStack() as stack:
        for engine in wanted:
            crew.check(engine)
        for sheet in sheets:
            stack.enter_context(sheet.file.appending())
        bar = stack.enter_context(tqdm(total=sum(len(sheet.missing) for sheet in sheets), desc="items", unit="item"))
        filling = _Filling(sheets, bar)
        shards = filling.shards(crew.count)
        crew.load(len(shards)).run(shards, filling.task, filling.keep)
    return filling.starts


def shard_bounds(items: int, workers: int) -> list[tuple[int, int]]:
    """Where the shards of a sheet begin and end: several for every worker, each of whole batches."""
    batches = -(-items // ITEMS_PER_BATCH)
    size = ITEMS_PER_BATCH * max(1, -(-batches // (workers * SHARDS_PER_WORKER)))
    return [(start, min(start + size, items)) for start in range(0, items, size)]
