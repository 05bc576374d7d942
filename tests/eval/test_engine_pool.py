"""One engine for a whole evaluation: the base model and its adapters, by LoRA request."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.engine_models import Reviews
from transformers import AutoModelForCausalLM

from eval.conditions.pool import EnginePool
from icm.config import EngineConfig
from icm.engines.devices import gpus
from icm.models import resolve_model
from icm.prompts import LabelTrie, PromptTree


def _adapter(folder: Path, seed: int, rank: int) -> str:
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(resolve_model("embedded"), dtype="bfloat16")
    lora = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(str(folder))
    return str(folder)


@pytest.mark.slow
def test_vllm_starts_once_for_base_and_adapters(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs icm[vllm] or icm[cpu]")
    adapters = [_adapter(tmp_path / f"{seed}", seed, rank) for seed, rank in ((1, 8), (2, 16))]
    base = EngineConfig(
        engine="vllm", dtype="float32", kv_cache_gib=0.2, gpu_memory_utilization=0.5, enforce_eager=True
    )
    wanted = [replace(base, adapter=adapter) for adapter in (None, *adapters)]
    found = []
    with EnginePool(wanted) as pool:
        for config in (*wanted, base):
            engine = pool.get(config)
            reviews = Reviews(engine.tokenizer, 8, seed=7)
            tree = reviews.leave_one_out(8)
            found.append(engine.score(tree, reviews.labels))
            before = engine.usage.prompts
            engine.score_labels(PromptTree((2,), query=0), LabelTrie(((3, 4, 5, 6),)))
            assert engine.usage.prompts - before == 4, "with LoRA vLLM cannot give a prompt's own log-probabilities"
            assert gpus() or 1000 < engine.context_length < 8191, "the context is as long as memory allows"
        assert pool.starts == 1
    np.testing.assert_allclose(found[0], found[3], atol=1e-4)  # what is cached by then decides the last bits
    assert np.abs(found[1] - found[0]).max() > 0.3 and np.abs(found[2] - found[1]).max() > 0.3
    with EnginePool() as pool:  # transformers merges an adapter, and takes a new engine for each
        for config, scores in zip(wanted, found, strict=False):
            engine = pool.get(replace(config, engine="transformers"))
            np.testing.assert_allclose(
                scores, engine.score(tree, reviews.labels), atol=2e-3
            )  # float32: bfloat16 rounds by 0.1
        assert pool.starts == 3
