"""Which engine runs where, and what is said when it cannot; nothing here loads a model."""

import subprocess
import sys
from typing import Any

import pytest

import icm.engines
from icm.config import EngineConfig
from icm.engines import choose_engine, create_engine
from icm.errors import ConfigError, PrerequisiteError


def _with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """No GPU here: only their number is made up."""
    monkeypatch.setattr(icm.engines, "gpus", lambda: count)


@pytest.mark.parametrize(
    ("gpus", "settings", "engine"),
    [
        (0, {}, "transformers"),
        (1, {}, "vllm"),
        (1, {"device": "cpu"}, "transformers"),
        (1, {"engine": "transformers"}, "transformers"),
        (4, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, "vllm"),
        (0, {"engine": "vllm"}, "vllm"),
        (0, {"engine": "vllm", "device": "cpu", "tensor_parallel_size": 2}, "vllm"),
        (0, {"engine": "server", "base_url": "http://localhost:1/v1"}, "server"),
    ],
)
def test_auto_is_vllm_where_a_gpu_is(
    gpus: int, settings: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_gpus(monkeypatch, gpus)
    assert choose_engine(EngineConfig(**settings)) == engine


@pytest.mark.parametrize(
    ("gpus", "settings", "error", "message"),
    [
        (0, {"device": "cuda"}, PrerequisiteError, "no CUDA GPU on this machine; use --device cpu"),
        (0, {"tensor_parallel_size": 4}, PrerequisiteError, "needs 4 CUDA GPUs, found 0"),
        (2, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, PrerequisiteError, "needs 4 CUDA GPUs, found 2"),
        (2, {"engine": "transformers", "tensor_parallel_size": 2}, ConfigError, "use --engine vllm"),
        (0, {"engine": "server"}, ConfigError, "base_url: found None"),
        (0, {"engine": "server", "base_url": "localhost:8000"}, ConfigError, "expected an address such as"),
        (0, {"engine": "server", "base_url": "http://me:key@host/v1"}, ConfigError, "keys belong in the environment"),
    ],
)
def test_what_cannot_run_is_one_clear_line(
    gpus: int, settings: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_gpus(monkeypatch, gpus)
    with pytest.raises(error, match=message) as caught:
        create_engine(EngineConfig(**settings))
    assert "\n" not in str(caught.value)


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, icm.engines, icm.engines.accounting; print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
