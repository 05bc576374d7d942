"""Engines: a prompt tree in, label log-probabilities out."""

import logging
from collections.abc import Iterable
from importlib.util import find_spec

from icm.config import EngineConfig
from icm.engines.base import Engine
from icm.engines.devices import cuda_problem, gpus
from icm.errors import ConfigError, PrerequisiteError
from icm.http import check_address
from icm.models import resolve_model, resolve_tokenizer

logger = logging.getLogger(__name__)


def create_engine(config: EngineConfig, adapters: Iterable[str] = ()) -> Engine:
    """Load the model that `config` names. Close the engine, or use it as a context manager, to free it.

    Args:
        config: what to start with.
        adapters: those that `Engine.adapt` will be asked for, where an engine can.

    Raises:
        ConfigError: settings that contradict each other or do not fit the model.
        PrerequisiteError: a device, package or server that is not there.
    """
    engine = _start(check_engine(config), config, adapters)
    logger.info("engine %s on %s", engine.name, getattr(engine, "device", config.base_url))
    return engine


def _start(name: str, config: EngineConfig, adapters: Iterable[str]) -> Engine:
    if name == "server":
        from icm.engines.server import ServerEngine

        return ServerEngine(config)
    if name == "vllm":
        from icm.engines.vllm import VLLMEngine

        logger.info("vLLM starts: a minute or two, several for a large model")
        return VLLMEngine(config, adapters)
    from icm.engines.transformers import TransformersEngine

    return TransformersEngine(config)


def check_engine(config: EngineConfig) -> str:
    """`choose_engine`, and whether model, tokenizer and adapter are what that engine takes; loads no weights.

    Raises:
        ConfigError, PrerequisiteError: see `create_engine`.
    """
    name = choose_engine(config)
    if name == "server":
        if config.adapter is not None:
            raise ConfigError("engine server: the server loads adapters; name the adapter it serves as --model")
        check_address(config.base_url)
        if config.tokenizer is not None:
            resolve_tokenizer(config.tokenizer)
        return name
    if config.base_url is not None:
        raise ConfigError(f"base_url: has no effect with engine {name}, which runs here; give --engine server as well")
    if config.tokenizer is not None:
        raise ConfigError(f"tokenizer: has no effect with engine {name}, which takes the model's own; leave it out")
    resolve_model(config.model, config.revision)
    if config.adapter is not None:
        from icm.engines.adapters import check_adapter

        check_adapter(config.adapter, config.model, config.revision, name)
    return name


def choose_engine(config: EngineConfig) -> str:
    """Name of the engine that `create_engine` starts: `vllm`, `transformers` or `server`. Checks devices only."""
    if config.engine == "server":
        return "server"
    found = gpus()
    ranks = config.tensor_parallel_size * config.pipeline_parallel_size
    if config.device == "cuda" and not found:
        raise PrerequisiteError("device cuda: no CUDA GPU on this machine; use --device cpu, or run where a GPU is")
    if ranks > 1 and config.device in ("auto", "cuda") and found < ranks:
        raise PrerequisiteError(
            f"tensor_parallel_size x pipeline_parallel_size: needs {ranks} CUDA GPUs, found {found}; "
            "lower them, or run where the GPUs are"
        )
    name = _automatic(config, found) if config.engine == "auto" else config.engine
    if name == "transformers" and ranks > 1:
        raise ConfigError(f"engine transformers: runs on one device, found {ranks} ranks; use --engine vllm")
    return name


def _automatic(config: EngineConfig, found: int) -> str:
    if config.device in ("cpu", "mps"):
        return "transformers"
    if not found:
        if problem := cuda_problem():
            logger.warning("--engine auto runs on the CPU: %s", problem)
        return "transformers"
    if find_spec("vllm") is None:
        logger.warning("A CUDA GPU, but no vllm: using --engine transformers; `pip install icm[vllm]` is faster")
        return "transformers"
    return "vllm"
