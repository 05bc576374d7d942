"""Which engine runs where, and what is said when it cannot; nothing here loads a model."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import icm.engines
from icm.commands.diagnosis import check_device
from icm.config import EngineConfig
from icm.engines import choose_engine, create_engine, devices
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


_ASKED_AND_SPAWNED = """
import os, subprocess, sys, torch
from icm.config import EngineConfig
from icm.engines import choose_engine
asked, real = [], torch.cuda.is_available
torch.cuda.is_available = lambda: asked.append(os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")) or real()
choose_engine(EngineConfig())
from icm.engines.vllm import set_environment
set_environment(EngineConfig(deterministic=True))
assert "vllm" not in sys.modules, "what vLLM reads at import is set too late"
assert "OMP_NUM_THREADS" not in os.environ, "threads are the CPU's affair"
names = ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_BATCH_INVARIANT", "VLLM_USE_FLASHINFER_SAMPLER")
child = "import os, sys; print(*(os.environ.get(name) for name in sys.argv[1:]))"
print(set(asked), subprocess.run([sys.executable, "-c", child, *names], capture_output=True, text=True).stdout)
"""


def test_gpus_are_counted_without_starting_cuda_and_vllm_spawns() -> None:
    """CUDA that has started in a process cannot be used in its forks (vllm-project/vllm#15681)."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VLLM", "PYTORCH_", "OMP_"))}
    run = subprocess.run([sys.executable, "-c", _ASKED_AND_SPAWNED], capture_output=True, text=True, env=clean)
    assert run.stdout.split() == ["{'1'}", "spawn", "1", "0"], run.stderr


def test_a_gpu_that_torch_does_not_see_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: made up (UUID: 1)'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.listed_gpus.cache_clear()
    try:
        monkeypatch.setattr(devices, "gpus", lambda: 0)
        _with_gpus(monkeypatch, 0)
        assert choose_engine(EngineConfig()) == "transformers"
        finding, _ = check_device()
    finally:
        devices.listed_gpus.cache_clear()
    assert "--engine auto runs on the CPU: nvidia-smi lists GPU 0: made up, but torch" in caplog.text
    assert finding.state == "problem" and "install a driver" in finding.fix


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, icm.engines, icm.engines.accounting; print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
