"""vLLM in this process: the same scores as transformers, few tokens computed, and nothing left behind."""

from multiprocessing import resource_tracker

import numpy as np
import psutil
import pytest
from support.engine_models import Reviews

from icm.config import EngineConfig, GenerationConfig
from icm.engines import create_engine
from icm.engines.devices import gpus
from icm.examples import LabelSpace
from icm.prompts import PromptEncoder, PromptTree

pytest.importorskip("vllm", reason="needs icm[vllm] or icm[cpu]")


@pytest.mark.slow
def test_scores_cost_and_shutdown() -> None:
    with create_engine(EngineConfig(device="cpu")) as engine:
        reviews = Reviews(engine.tokenizer, 32, seed=4, words=(8, 16))
        small = reviews.leave_one_out(8)
        expected = engine.score(small, reviews.labels)
        texts = (" very positive", " very negative", " rather mixed", " card_declined", " card_pending", " 1", " 12")
        labels = PromptEncoder(engine.tokenizer, LabelSpace(texts, texts)).labels
        one = PromptTree(reviews.queries[0], query=0)
        whole_labels, of_many = engine.score_labels(small, labels), engine.score(one, range(300, 600))
        gib = engine.cache_tokens / EngineConfig().kv_cache_gib
    resource_tracker.ensure_running()  # a helper of Python's own, which stays
    before = set(psutil.Process().children(recursive=True))
    config = EngineConfig(engine="vllm", max_model_len=2048, kv_cache_gib=1, enforce_eager=True)
    with pytest.raises(KeyboardInterrupt), create_engine(config) as engine:
        workers = set(psutil.Process().children(recursive=True)) - before
        scores = engine.score(small, reviews.labels)
        np.testing.assert_allclose(scores, expected, atol=0.1)  # hidden states are bfloat16, the head is not:
        steps = 64 * (scores[:, 0] - scores[:, 1])  # bfloat16 logits would be 1/64 apart, or a multiple of it
        assert np.abs(steps - steps.round()).max() > 0.1
        # Sums over the tokens of unlikely labels, at -20 to -45 nats: bfloat16's rounding adds up.
        np.testing.assert_allclose(engine.score_labels(small, labels), whole_labels, atol=0.5)
        ids = list(range(300, 600))  # more than vLLM takes in one request
        np.testing.assert_allclose(engine.score(one, ids), of_many, atol=0.5)
        assert (
            engine.cache_tokens == pytest.approx(gib, rel=0.02) or gpus()
        )  # tokens that a GiB of keys and values holds
        texts = engine.generate(["The capital of France is"], GenerationConfig(0.0, 1.0, 8), 0, ["\n"])
        assert "Paris" in texts[0]
        spent = engine.usage.computed_tokens
        whole = reviews.leave_one_out(32)
        assert np.isfinite(engine.score(whole, reviews.labels)).all()
        assert engine.usage.computed_tokens - spent <= 0.28 * whole.prompt_tokens
        raise KeyboardInterrupt
    assert workers, "expected vLLM to run in child processes"
    assert not psutil.wait_procs(workers, timeout=1)[1]
