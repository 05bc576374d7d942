"""vLLM in this process: the same scores as transformers, few tokens computed, and nothing left behind."""

from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from support.engine_models import Reviews

from icm.config import EngineConfig, GenerationConfig
from icm.engines import create_engine
from icm.engines.base import Engine
from icm.engines.devices import gpus
from icm.examples import LabelSpace
from icm.prompts import LabelTrie, PromptEncoder, PromptTree, shared_context_tree

pytest.importorskip("vllm", reason="needs icm[vllm] or icm[cpu]")

SEINE = " Paris, which lies on the river Seine in the north of the country, some hundred miles from the sea"
ANSWERS = (
    f"{SEINE}, and has many bridges.",
    f"{SEINE}, where people live.",
    SEINE,  # ends within others, behind what the prefix cache holds of them
    " Paris.",  # ends where others go on
    " Paris, a city that is often called the City of Light.",
)


def answers_tree(tokenizer: Any) -> tuple[PromptTree, LabelTrie]:
    """Two questions behind a shared beginning, and what may be said to each."""
    texts = ("The capital of", " France is", " that country with all its rivers and its old bridges is")
    start, *questions = (tuple(tokenizer(text).input_ids) for text in texts)
    return shared_context_tree(start, questions), LabelTrie(tuple(tuple(tokenizer(a).input_ids) for a in ANSWERS))


def check_answers(engine: Engine, expected: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch) -> None:
    """Longest prompts tell what the shorter ones were asked for: all of it, or all that was not cached before."""
    tree, answers = answers_tree(engine.tokenizer)
    every = len({answer[:end] for answer in answers.sequences for end in range(len(answer))}) * tree.queries
    found, prompts = [], []
    for longest in (1024, 1024, 0):  # the last as any other tree is scored
        monkeypatch.setattr("icm.engines.vllm._LONGEST_READ", longest)
        before = engine.usage.prompts
        found.append(engine.score_labels(tree, answers))
        prompts.append(engine.usage.prompts - before)
    assert prompts[0] == 4 * tree.queries  # all but the one within others
    assert prompts[0] < prompts[1] < prompts[2] == every
    for scores in found[:2]:
        np.testing.assert_allclose(scores, found[2], atol=0.1)  # sums over up to 28 tokens
        np.testing.assert_allclose(scores, expected, atol=0.5)


@pytest.mark.slow
def test_scores_cost_and_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    with create_engine(EngineConfig(device="cpu")) as engine:
        reviews = Reviews(engine.tokenizer, 32, seed=4, words=(8, 16))
        small = reviews.leave_one_out(8)
        expected = engine.score(small, reviews.labels)
        texts = (" very positive", " very negative", " rather mixed", " card_declined", " card_pending", " 1", " 12")
        labels = PromptEncoder(engine.tokenizer, LabelSpace(texts, texts)).labels
        one = PromptTree(reviews.queries[0], query=0)
        whole_labels, of_many = engine.score_labels(small, labels), engine.score(one, range(300, 600))
        of_answers = engine.score_labels(*answers_tree(engine.tokenizer))
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
        check_answers(engine, of_answers, monkeypatch)
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
