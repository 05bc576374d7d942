"""One loaded model at a time, shared by all conditions that need the same one."""

from icm.config import EngineConfig
from icm.engines import create_engine
from icm.engines.base import Engine, Usage

_COUNTERS = ("prompts", "prompt_tokens", "computed_tokens", "seconds")


class EnginePool:
    """Use it as a context manager: leaving it closes the engine, also on error."""

    def __init__(self) -> None:
        self._config: EngineConfig | None = None
        self._engine: Engine | None = None

    def get(self, config: EngineConfig) -> Engine:
        """The engine for `config`; another one is closed first, because two may not fit the memory."""
        if self._engine is None or config != self._config:
            self.close()
            self._engine, self._config = create_engine(config), config
        return self._engine

    def close(self) -> None:
        """Close the engine, if any."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._config = None

    def __enter__(self) -> "EnginePool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def counters(usage: Usage) -> dict[str, float]:
    """The engine's counters as they stand."""
    return {name: getattr(usage, name) for name in _COUNTERS}


def spent(engine: Engine, before: dict[str, float]) -> dict[str, float]:
    """What the engine's counters gained since `before`."""
    return {name: value - before[name] for name, value in counters(engine.usage).items()}
