"""One loaded model at a time, shared by all conditions that need the same one."""

from collections.abc import Iterable
from dataclasses import replace

from icm.config import EngineConfig
from icm.engines import create_engine
from icm.engines.base import Engine, Usage

_COUNTERS = ("prompts", "prompt_tokens", "computed_tokens", "seconds")


class EnginePool:
    """Use it as a context manager: leaving it closes the engine, also on error.

    Attributes:
        starts: engines started so far.
    """

    def __init__(self, wanted: Iterable[EngineConfig] = ()) -> None:
        """Args: wanted: what `get` will be asked for; an engine starts with room for the adapters of its model."""
        self._wanted = list(wanted)
        self._config: EngineConfig | None = None
        self._engine: Engine | None = None
        self.starts = 0

    def get(self, config: EngineConfig) -> Engine:
        """The engine for `config`; another one is closed first, because two may not fit the memory."""
        if self._engine is not None and (config == self._config or self._adapts(self._engine, config)):
            self._config = config
            return self._engine
        self.close()
        adapters = [other.adapter for other in self._wanted if other.adapter and same_model(other, config)]
        self._engine, self._config = create_engine(config, adapters), config
        self.starts += 1
        return self._engine

    def _adapts(self, engine: Engine, config: EngineConfig) -> bool:
        return self._config is not None and same_model(config, self._config) and engine.adapt(config.adapter)

    def close(self) -> None:
        """Close the engine, if any."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._config = None

    def __enter__(self) -> "EnginePool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def same_model(one: EngineConfig, other: EngineConfig) -> bool:
    """Whether two engines differ in their adapters at most."""
    return replace(one, adapter=None) == replace(other, adapter=None)


def counters(usage: Usage) -> dict[str, float]:
    """The engine's counters as they stand."""
    return {name: getattr(usage, name) for name in _COUNTERS}


def spent(engine: Engine, before: dict[str, float]) -> dict[str, float]:
    """What the engine's counters gained since `before`."""
    return {name: value - before[name] for name, value in counters(engine.usage).items()}
