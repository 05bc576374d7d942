"""What a run takes of many engines at once, by a sample of its batches and list scheduling; needs none of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

import numpy as np

from icm.config import WorkersConfig
from icm.engines.cluster import room
from icm.engines.devices import gpus
from icm.examples import ICMDataset
from icm.labelling.hardware import GIB, cpus
from icm.provenance import peak_memory_gib

MOST_PLANNED = 16
"""Batches that a plan searches one by one; of more it searches a sample."""
SAMPLED = 8
RESULT_BYTES = 800
"""Of the command's memory for each example's label and log-odds, from the units' ends to the label file."""


@dataclass(frozen=True)
class Fleet:
    """A run over several engines.

    Attributes:
        workers: engines.
        gpus: of each; 0 on CPUs.
        units: searches.
        seconds: wall-clock, the start of the engines included; None where no rate is known.
        busy: seconds in which an engine works, on average.
        trace_bytes: of all rows, when it is done.
        memory_gib: of the command that hands out the units.
    """

    workers: int
    gpus: int
    units: int
    seconds: float | None
    busy: float | None
    trace_bytes: int
    memory_gib: float

    def __str__(self) -> str:
        kept = f"traces {self.trace_bytes / 2**20:,.0f} MiB, memory of the command {self.memory_gib:.2f} GiB"
        if self.seconds is None or self.busy is None:
            return f"{self.units:,} searches; time unknown; {kept}"
        hours, cards = self.seconds / 3600, self.workers * self.gpus
        paid = f"{hours * cards:,.1f} GPU-hours" if cards else f"{hours * self.workers:,.1f} worker-hours"
        return (
            f"{self.units:,} searches; {hours:,.2f} h, {paid}, engines at work {self.busy / self.seconds:.0%} of that; "
            f"{kept}"
        )


def sampled(batches: Sequence[ICMDataset]) -> list[ICMDataset]:
    """All batches if they are few; else some, from the shortest to the longest, in their order."""
    if len(batches) <= MOST_PLANNED:
        return list(batches)
    by_size = np.argsort([characters(batch) for batch in batches], kind="stable")
    return [batches[place] for place in sorted(by_size[np.linspace(0, len(batches) - 1, SAMPLED).round().astype(int)])]


def characters(batch: ICMDataset) -> int:
    """To read in a batch: its cost, up to a factor."""
    return sum(len(example.input) for example in batch)


def workers_here(config: WorkersConfig, cards: int) -> int:
    """How many workers the settings mean; `auto` on this machine."""
    return room([{"CPU": cpus(), "GPU": gpus()}], "auto", cards)[0] if config.workers == "auto" else config.workers


def plan_fleet(
    batches: Sequence[ICMDataset],
    restarts: int,
    workers: int,
    cards: int,
    seconds: float | None,
    start: float,
    trace_bytes: int,
) -> Fleet:
    """Plan the searches of all batches over `workers` engines of `cards` GPUs each.

    Args:
        seconds: that one engine would work for all of them; None where that is not known.
        start: seconds until an engine is there.
    """
    examples, whole = sum(map(len, batches)), sum(map(characters, batches))
    memory = peak_memory_gib() + examples * RESULT_BYTES / GIB
    units, makespan, busy = len(batches) * restarts, None, None
    if seconds is not None:
        costs = [seconds * characters(batch) / whole / restarts for batch in batches for _ in range(restarts)]
        makespan, busy = start + list_schedule(costs, workers), seconds / workers
    return Fleet(workers, cards, units, makespan, busy, trace_bytes, memory)


def list_schedule(costs: Sequence[float], workers: int) -> float:
    """When the last of `workers` is done if each takes the largest job that is left, as soon as it is free."""
    loads = [0.0] * workers
    heapify(loads)
    for cost in sorted(costs, reverse=True):
        heapreplace(loads, loads[0] + cost)
    return max(loads)
