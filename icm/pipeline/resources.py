"""What stages take of this machine when several run at once: processes, cards, threads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icm.config import EngineConfig, WorkersConfig
from icm.engines.crew import gpus_of
from icm.engines.devices import gpus, listed_gpus
from icm.errors import ConfigError
from icm.labelling.hardware import cpus


@dataclass(frozen=True)
class Processes:
    """Those of a stage that compute at once.

    Attributes:
        count: None is as many as there is room for.
        cards: CUDA GPUs of each, where there are any.
    """

    count: int | None = 1
    cards: int = 0


ONE = Processes()
"""A process that takes no card."""


def of_engines(engine: EngineConfig, workers: WorkersConfig) -> Processes:
    """Engines that label or answer. Those of a cluster, which this machine may belong to, leave no card to others."""
    all_there_are = workers.workers == "auto" or workers.ray_address is not None
    return Processes(None if all_there_are else int(workers.workers), gpus_of(engine))


def of_training(layout: Path) -> Processes:
    """Ranks of a file of configs/accelerate. Raises ConfigError for what cannot be read."""
    from train.forecast import read_layout

    found = read_layout(layout)
    return Processes(found.cards, 0 if found.cpu else 1)


@dataclass(frozen=True)
class Machine:
    """What all stages may use together.

    Attributes:
        jobs: most stages at once. One alone is told of no limits: it may use everything.
        cards: names of the CUDA GPUs, as CUDA_VISIBLE_DEVICES has them.
        cores: CPU cores.
    """

    jobs: int = 1
    cards: tuple[str, ...] = ()
    cores: int = 1

    def share(self, needed: Processes, taken: Sequence[str]) -> tuple[str, ...] | None:
        """Cards for a stage, beside those that are taken; None while there are too few. What needs more than there are
        gets all, and says itself what it lacks."""
        free = [card for card in self.cards if card not in taken]
        asked = len(self.cards) if needed.count is None else needed.count * needed.cards
        count = min(asked, len(self.cards)) if needed.cards else 0
        return tuple(free[:count]) if count <= len(free) else None

    def variables(self, needed: Processes, share: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
        """Environment variables that hold a stage to its share; the user's own number of threads stays."""
        if share:
            return {"CUDA_VISIBLE_DEVICES": ",".join(share)}
        if self.jobs == 1 or "OMP_NUM_THREADS" in given:
            return {}
        return {"OMP_NUM_THREADS": str(max(1, self.cores // (self.jobs * (needed.count or self.cores))))}


ALONE = Machine()
"""One stage at a time."""


def this_machine(jobs: int | None) -> Machine:
    """This machine for `jobs` stages at once; None is as many as it has cards, one without any.

    Raises:
        ConfigError: fewer than one.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: found {jobs}, expected a number above 0")
    cards = () if jobs == 1 else visible_cards(os.environ)
    jobs = jobs or max(1, len(cards))
    return Machine(jobs, cards, cpus()) if jobs > 1 else ALONE


def visible_cards(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the CUDA GPUs that this process may use."""
    count = gpus() if listed_gpus() else 0  # without nvidia-smi the seconds that torch takes are spared
    given = environment.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if given is None else given.split(",")
    return tuple(name.strip() for name in names[:count])
