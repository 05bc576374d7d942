"""What a model needs of GPUs that are not here: memory of each card and of the host, and time, by stated arithmetic."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from icm.config import EngineConfig
from icm.engines.common import kv_numbers_per_token, model_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GIB = 1024**3
CARD_GIB = 80e9 / GIB
"""Of an NVIDIA H100 SXM (data sheet: 80 GB). What it has above that is left to CUDA itself."""
FLOPS = 0.4 * 989e12
"""Of a card at work: 40 % of its dense bfloat16 tensor cores (data sheet: 989 TFLOP/s). Attention, small batches and
idle time are in the rest."""
TOGETHER = 0.8  # of that, for each of several cards
NVLINK = 0.4 * 450e9
"""Bytes a second into a card from the others (data sheet: 900 GB/s, half of it each way)."""
READ_GIB = 1.0  # of weights a second, from disk
START_SECONDS = 60.0  # imports, CUDA, compilation
PROCESS_GIB = 4.0  # of host memory that each process holds for itself: libraries, CUDA, pinned buffers
RATES = (
    f"H100 SXM by its data sheet (80 GB, 989 TFLOP/s bfloat16), 40 % of it at work, {100 * TOGETHER:.0f} % of that for "
    f"each of several; 2 FLOPs a weight and token for each pass: one to score, to train forward, back, and forward "
    f"again with checkpointing; a start {START_SECONDS:.0f} s, and {READ_GIB:g} GiB of weights a second; "
    f"{PROCESS_GIB:g} GiB of host memory a process; computed, not measured"
)

BANDWIDTH = 0.5 * 3.35e12
"""Bytes a second from a card's memory (data sheet: 3.35 TB/s, half of it at work): what writing waits for."""
WRITTEN_AT_ONCE = 256
"""Texts; each step reads all weights once, and of each text its keys and values."""
STEP_SECONDS = 0.005  # of each step besides: scheduling, sampling, launching

# Llama 3 herd of models (arXiv 2407.21783, table 3), Qwen3 (arXiv 2505.09388, table 1): the documented GPU runs, to
# plan them offline.
_LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8}
_QWEN = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
_DOCUMENTED = {
    "meta-llama/Llama-3.1-8B": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "meta-llama/Llama-3.1-70B": _LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "Qwen/Qwen3-1.7B-Base": _QWEN
    | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "Qwen/Qwen3-4B-Base": _QWEN
    | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}


@dataclass(frozen=True)
class ModelShape:
    """What memory and time depend on.

    Attributes:
        parameters: number of weights.
        kv_bytes_per_token: keys and values of one token in all layers, two bytes a number.
        layers, hidden: their number, and the width between them.
        embedding: weights of the word embeddings.
        linear: linear layers without the head, by the last part of their names: their weights, and their inputs and
            outputs, added up.
        widest: most inputs or outputs of one of them.
    """

    parameters: int
    kv_bytes_per_token: int
    layers: int
    hidden: int
    embedding: int
    linear: Mapping[str, tuple[int, int]]
    widest: int

    @property
    def weights_gib(self) -> float:
        """Of all weights, two bytes a number."""
        return 2 * self.parameters / GIB


@dataclass(frozen=True)
class Need:
    """What some work needs on one or more H100s.

    Attributes:
        cards: how many.
        how: they share the work.
        parts: GiB on each card, by what they hold; `prefixes` are computed again where they have no room.
        room: GiB of a card that may be used.
        host_gib: memory that the processes hold.
        files_gib: weights on disk: mapped, so that one page cache serves all processes and is given back at need.
        tokens: to compute.
        flops: for each token.
        idle: seconds in which nothing is computed.
    """

    cards: int
    how: str
    parts: Mapping[str, float]
    room: float
    host_gib: float
    files_gib: float
    tokens: int
    flops: float
    idle: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.cards * FLOPS * (TOGETHER if self.cards > 1 else 1) / self.flops

    @property
    def seconds(self) -> float:
        """Estimate, start and end included."""
        return self.tokens / self.rate + self.idle

    @property
    def missing(self) -> float:
        """GiB that a card lacks, prefixes aside."""
        return sum(self.parts.values()) - self.parts.get("prefixes", 0) - self.room

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size:.1f}" for name, size in self.parts.items())
        spill = sum(self.parts.values()) - self.room
        warning = f"\n{'note':20} {spill:.1f} GiB of prefixes have no room and are computed again" if spill > 0 else ""
        if self.missing > 0:
            warning = f"\n{'WARNING':20} does not fit {self.cards} H100: {self.missing:.1f} GiB too much on each"
        return (
            f"{f'on {self.cards} H100':20} {self.how}{sum(self.parts.values()):.1f} of {self.room:.1f} GiB a card "
            f"({parts}); host {self.host_gib:.0f} GiB and {self.files_gib:.0f} GiB of page cache; "
            f"{self.seconds / 3600:.2f} h: {self.tokens:,} tokens at {self.rate:,.0f}/s, {self.idle:.0f} s of start "
            f"and transfers{warning}"
        )


def inference(shape: ModelShape, engine: EngineConfig, prefixes: float, tokens: int, cards: int, starts: int) -> Need:
    """Scoring `tokens`, of which `prefixes` are kept, with vLLM, which splits weights and cache over the cards."""
    return Need(
        cards=cards,
        how="",
        parts={
            "weights": shape.weights_gib / cards,
            "prefixes": shape.kv_bytes_per_token * prefixes / GIB / cards,
        },
        room=CARD_GIB * engine.gpu_memory_utilization,
        host_gib=PROCESS_GIB * (2 + (cards if cards > 1 else 0)),  # the command, vLLM's core, a worker a card
        files_gib=shape.weights_gib,
        tokens=tokens,
        flops=2 * shape.parameters,
        idle=starts * start_seconds(shape),
    )


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def writing(shape: ModelShape, tokens: int, length: float) -> str:
    """What `tokens` that are sampled take of one H100, in texts that are `length` tokens long on average."""
    step = (2 * shape.parameters + WRITTEN_AT_ONCE * shape.kv_bytes_per_token * length) / BANDWIDTH + STEP_SECONDS
    rate = min(FLOPS / (2 * shape.parameters), WRITTEN_AT_ONCE / step)
    return (
        f"{'written on 1 H100':20} {tokens / rate / 3600:.2f} h: {tokens:,} tokens at {rate:,.0f}/s, {WRITTEN_AT_ONCE} "
        f"texts at once, {step * 1000:.1f} ms a step (weights and cache read at half of 3.35 TB/s, and 5 ms)"
    )


def start_seconds(shape: ModelShape) -> float:
    """Until a model is there."""
    return START_SECONDS + shape.weights_gib / READ_GIB


@cache
def model_config(engine: EngineConfig) -> "PreTrainedConfig | None":
    """The model's configuration; None where it cannot be reached from here. Raises ConfigError as `model_files`."""
    from transformers import AutoConfig

    folder, revision = model_files(engine)
    try:
        return AutoConfig.from_pretrained(folder, revision=revision)
    except (OSError, ValueError):
        return None


@cache
def model_shape(engine: EngineConfig) -> ModelShape | None:
    """The model's shape, from its configuration or the documented runs; None if neither is known."""
    from transformers import LlamaConfig

    documented = _DOCUMENTED.get(engine.model)
    config = model_config(engine) or (documented and LlamaConfig.from_dict(documented))
    return shape_of(config) if config else None


def shape_of(config: "PreTrainedConfig") -> ModelShape:
    """Counted on a model without memory behind it."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text, head = config.get_text_config(), model.get_output_embeddings()
    linear, widest = dict[str, tuple[int, int]](), 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            weights, sides = linear.get(leaf := name.rpartition(".")[2], (0, 0))
            more = (module.in_features, module.out_features)
            linear[leaf], widest = (weights + more[0] * more[1], sides + sum(more)), max(widest, *more)
    return ModelShape(
        parameters=model.num_parameters(),
        kv_bytes_per_token=2 * kv_numbers_per_token(config),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        embedding=text.vocab_size * text.hidden_size,
        linear=linear,
        widest=widest,
    )
