"""Memory of a training by arithmetic, against what PEFT builds and torch allocates, and what the recipes say of it."""

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, LlamaConfig

from icm.config import EngineConfig
from icm.labelling.hardware import GIB, model_shape, shape_of
from train.arguments import read_settings, training_arguments
from train.forecast import Layout, Recipe, need, plan_training, read_layout

ROOT = Path(__file__).parents[2]
LAYERS = LlamaConfig(  # four of Llama-3.1-8B's, and fewer words
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=4,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=1024,
)


def recipe(model: LlamaConfig | str, name: str = "sft_lora", words: Sequence[str] = ()) -> Recipe:
    settings = read_settings(["--config", str(ROOT / "configs" / "train" / f"{name}.yaml"), "--labels", "-", *words])
    own = settings.label_arguments()
    training, adapter = training_arguments(settings, own.method, Path("unused"), touch_gpus=False)
    shape = model_shape(EngineConfig(model)) if isinstance(model, str) else shape_of(model)
    assert shape is not None
    return Recipe(own, training, adapter, shape, rows=256, row_tokens=47.0, longest=47.0)


def adapted(config: LlamaConfig, targets: str | list[str]) -> torch.nn.Module:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        lora = LoraConfig(r=32, target_modules=targets, task_type="CAUSAL_LM")
        return get_peft_model(model, lora, low_cpu_mem_usage=True)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_an_adapter_has_the_weights_that_peft_gives_it(targets: str | list[str]) -> None:
    words = ["--lora_target_modules", *([targets] if isinstance(targets, str) else targets)]
    built = [p.numel() for p in adapted(LAYERS, targets).parameters() if p.requires_grad]
    assert recipe(LAYERS, words=words).trained == sum(built)


class Allocated(TorchDispatchMode):
    """Bytes of the tensors that have come to be inside and are alive, and the most that there were."""

    def __init__(self, before: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakKeyDictionary({tensor.untyped_storage(): True for tensor in before})

    def _less(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = True
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._less, storage.nbytes())
        return result


def allocated_by_a_step(config: LlamaConfig, rows: int, length: int, checkpointing: bool) -> int:
    """Peak of the activations of one step of a LoRA in float32 on a bfloat16 model, with the loss of one token a row.

    Nothing is computed: torch's fake tensors have sizes and no content.
    """
    model = adapted(config, "all-linear")
    with FakeTensorMode():
        for module in model.modules():  # of the meta device, where nothing has a size
            for name, p in module._parameters.items():
                if p is not None:
                    kind = torch.float32 if p.requires_grad else p.dtype
                    module._parameters[name] = torch.nn.Parameter(torch.empty(p.shape, dtype=kind), p.requires_grad)
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        model.train()
        ids = torch.zeros(rows, length, dtype=torch.long)
        with Allocated([*model.parameters(), *model.buffers()]) as memory:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                base = model.get_base_model()
                hidden = base.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
                loss = base.lm_head(hidden.last_hidden_state[:, -1:]).float().sum()
            loss.backward()
    return memory.peak


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_are_those_that_torch_allocates(checkpointing: bool) -> None:
    words = ["--gradient_checkpointing", str(checkpointing).lower(), "--per_device_train_batch_size", "4"]
    expected = need(replace(recipe(LAYERS, words=words), longest=1024), Layout()).parts["activations"] * GIB
    assert allocated_by_a_step(LAYERS, 4, 1024, checkpointing) == pytest.approx(expected, rel=0.12)


def test_the_headers_of_recipes_and_layouts_state_the_figures_of_the_plan() -> None:
    """Figures in comments go stale unless something reads them."""
    big = "meta-llama/Llama-3.1-70B"
    own, four = recipe(big, "sft_qlora"), recipe(big, words=["--gradient_checkpointing", "true"])
    for file, found in (
        ("train/sft_qlora.yaml", need(own, Layout())),
        ("accelerate/zero3.yaml", need(four, read_layout(ROOT / "configs/accelerate/zero3.yaml"))),
    ):
        header = (ROOT / "configs" / file).read_text().replace("\n# ", " ")
        assert found.missing < 0 and f" {sum(found.parts.values()):.0f} GiB" in header
        rows, tokens = (found.how.split(end)[0].split()[-1] for end in (" rows at once", " tokens each"))
        assert f"{rows} rows of 47 tokens at once, which may have {tokens} tokens each" in header
    lengths = recipe("meta-llama/Llama-3.1-8B")
    assert "may have 261 tokens" in need(lengths, Layout()).how  # "some 260" in sft_lora.yaml


def test_a_plan_says_what_fits_and_what_does_not() -> None:
    big = recipe("meta-llama/Llama-3.1-70B", words=["--gradient_checkpointing", "true"])
    plans = [found.how.split(", which")[0] for found in plan_training(big, Layout(4, stage=3))]
    assert plans == ["LoRA, ZeRO-3, 8 rows at once", "LoRA, 32 rows at once: ", "QLoRA, 32 rows at once"]
    assert [found.missing > 0 for found in plan_training(big, Layout(4, stage=3))] == [False, True, False]
    in_8_bits = plan_training(recipe("meta-llama/Llama-3.1-70B", words=["--load_in_8bit", "true"]), Layout())
    assert [found.cards for found in in_8_bits] == [1, 4] and 64 < in_8_bits[0].parts["weights"] < 70
    small = plan_training(recipe("meta-llama/Llama-3.1-8B"), Layout())
    assert [found.cards for found in small] == [1, 1, 4] and all(found.missing < 0 for found in small)
    # All weights: 16 bytes each (ZeRO), and copies in bfloat16 where nothing is split; each step computes 8 N FLOPs.
    full = recipe("meta-llama/Llama-3.1-8B", "sft_full")
    one, split = need(full, Layout()), need(full, Layout(4, stage=3))
    assert one.parts["weights"] + one.parts["trained"] == pytest.approx(18 * 8.03e9 / GIB, rel=1e-3)
    assert split.parts["weights"] + split.parts["trained"] == pytest.approx(16 / 4 * 8.03e9 / GIB, rel=1e-3)
    assert one.flops == 8 * full.shape.parameters and one.tokens == 40 * 32 * 47
    whole = need(full, read_layout(ROOT / "configs/accelerate/fsdp2.yaml"))
    assert whole.host_gib - split.host_gib == pytest.approx(4 * full.shape.weights_gib)


def test_pairs_are_two_sequences_a_row() -> None:
    one, two = recipe("meta-llama/Llama-3.1-8B"), recipe("meta-llama/Llama-3.1-8B", "dpo_labels")
    labels, pairs = need(one, Layout()), need(two, Layout())
    assert pairs.tokens == 2 * labels.tokens and pairs.flops > labels.flops
    with_checkpoints = recipe("meta-llama/Llama-3.1-8B", words=["--gradient_checkpointing", "true"])
    assert pairs.parts["activations"] == 2 * need(with_checkpoints, Layout()).parts["activations"]
    assert need(recipe("meta-llama/Llama-3.1-8B", words=["--max_steps", "3"]), Layout()).tokens == 3 * 32 * 47
