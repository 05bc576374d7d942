"""What a training needs of H100s, by arithmetic on recipe, layout and the model's shape (`icm.labelling.hardware`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from icm.errors import ConfigError
from icm.labelling.hardware import CARD_GIB, GIB, NVLINK, PROCESS_GIB, ModelShape, Need, start_seconds
from icm.yaml_files import mapping, read_mapping
from train.arguments import LabelArguments, TrainingConfig

if TYPE_CHECKING:
    from trl.trainer.model_config import ModelConfig

# Sizes below are in bytes.
_TILE = 4096 * 32768 * 2
"""TRL computes no logits of whole rows: its loss takes the tokens with a label, in tiles of this many numbers
(`trl.kernels.chunked_logprob`). All of 4 rows of 1,024 tokens would be 3.9 GiB with Llama's vocabulary."""
_LIVE, _BUCKET = 1e9 * 2, 5e8 * 2  # weights that ZeRO-3 gathers, gradients on their way (DeepSpeed's defaults)
_NF4, _CONSTANTS, _NESTED = 0.5, 4 / 64, 1 / 64 + 4 / (64 * 256)  # a weight (QLoRA, arXiv 2305.14314, section 3)


@dataclass(frozen=True)
class Layout:
    """A machine as `accelerate` is told of it.

    Attributes:
        cards: ranks, each with one.
        stage: of ZeRO: 2 splits gradients and optimiser over the cards, 3 the weights too; 0 nothing.
        fsdp: as stage 3, but each rank first holds the whole model in host memory (huggingface/transformers#43749).
        cpu: no cards at all.
    """

    cards: int = 1
    stage: int = 0
    fsdp: bool = False
    cpu: bool = False

    @property
    def sharing(self) -> str:
        """How the cards share the work."""
        zero = f"ZeRO-{self.stage}" if self.stage else "each with all weights" if self.cards > 1 else ""
        return "FSDP" if self.fsdp else zero


def read_layout(path: Path) -> Layout:
    """The layout that a file of configs/accelerate describes. Raises ConfigError for what cannot be read."""
    content = read_mapping(path)
    cards, kind = content.get("num_processes", 1), content.get("distributed_type")
    if isinstance(cards, bool) or not isinstance(cards, int) or not 0 < cards < 2**20:
        raise ConfigError(f"{path}: num_processes: found {cards!r:.80}, expected a whole number above 0")
    zero = mapping(content.get("deepspeed_config") or {}, f"{path}: deepspeed_config").get("zero_stage")
    stage = 3 if kind == "FSDP" else zero if kind == "DEEPSPEED" else 0
    return Layout(cards, stage if isinstance(stage, int) else 0, kind == "FSDP", content.get("use_cpu") is True)


@dataclass(frozen=True)
class Recipe:
    """What decides memory and time beside the layout: the settings of a training, and its data.

    Attributes:
        own: our settings.
        training: TRL's.
        model: precision and adapter.
        shape: of the base model.
        rows: in an epoch.
        row_tokens, longest: of a row, on average and at most.
    """

    own: LabelArguments
    training: TrainingConfig
    model: "ModelConfig"
    shape: ModelShape
    rows: int
    row_tokens: float
    longest: float

    @property
    def sequences(self) -> int:
        """Of a row: DPO has two."""
        return 2 if self.own.method.startswith("dpo") else 1

    def at_once(self, cards: int) -> int:
        """Rows that a card takes at once (see `train.arguments.batch_split`)."""
        return min(self.training.per_device_train_batch_size, max(1, self.own.total_batch_size // cards))

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        given = self.training.max_steps
        return given if given > 0 else math.ceil(self.rows * self.training.num_train_epochs / self.own.total_batch_size)

    @property
    def trained(self) -> int:
        """Weights that are trained: an adapter's, or all."""
        if not self.model.use_peft:
            return self.shape.parameters
        targets, linear = self.model.lora_target_modules or [], self.shape.linear
        every = targets in ("all-linear", ["all-linear"])
        return self.model.lora_r * sum(sides for name, (_, sides) in linear.items() if every or name in targets)


def plan_training(recipe: Recipe, own: Layout) -> list[Need]:
    """The layout of the experiment, one card, one card with the model in 4 bits, and four cards."""
    one, settings, others = Layout(), recipe.model, list[tuple[Recipe, Layout]]()
    split = need(recipe, one).missing > 0 and not _quantised(recipe)
    if settings.use_peft and not _quantised(recipe):
        others = [(replace(recipe, model=replace(settings, load_in_4bit=True, use_bnb_nested_quant=True)), one)]
    others = [(recipe, one), *others, (recipe, Layout(4, stage=3 if split else 0))]
    return [need(*asked) for asked in [(recipe, own), *(other for other in others if other != (recipe, own))]]


def need(recipe: Recipe, layout: Layout) -> Need:
    """Memory, tokens and time of one training."""
    shape, training, settings = recipe.shape, recipe.training, recipe.model
    kind = "full" if not settings.use_peft else "QLoRA" if _quantised(recipe) else "LoRA"
    # Forward; backward through the layers, and for the weights; activations computed again; DPO's reference.
    work = 2 * (2 + (not settings.use_peft) + training.gradient_checkpointing + (recipe.sequences == 2))
    rows, at_once = recipe.steps * recipe.own.total_batch_size, recipe.at_once(layout.cards)
    # Forward, again for the backward, and for the gradients.
    gathers = 3 * rows / (at_once * layout.cards) if layout.stage == 3 else 0
    fixed, token = sum(_fixed(recipe, layout).values()), _token_bytes(recipe) * at_once * recipe.sequences
    fits = int(min(max(0, CARD_GIB * GIB - fixed) // token, training.max_length or recipe.longest))
    how = [kind, layout.sharing, f"{at_once} rows at once", f"which may have {fits} tokens each" if fits else ""]
    parts = {**_fixed(recipe, layout), "activations": token * recipe.longest}
    return Need(
        cards=layout.cards,
        how=f"{', '.join(filter(None, how))}: ",
        parts={name: size / GIB for name, size in parts.items() if size},
        room=CARD_GIB,
        host_gib=layout.cards * (PROCESS_GIB + layout.fsdp * shape.weights_gib),
        files_gib=shape.weights_gib,
        tokens=round(rows * recipe.row_tokens) * recipe.sequences,
        flops=work * shape.parameters,
        idle=start_seconds(shape) + gathers * 2 * shape.parameters * (1 - 1 / layout.cards) / NVLINK,
    )


def _quantised(recipe: Recipe) -> bool:
    return recipe.model.load_in_4bit or recipe.model.load_in_8bit


def _fixed(recipe: Recipe, layout: Layout) -> Mapping[str, float]:
    """Bytes on each card, however many rows it takes."""
    shape, shared = recipe.shape, layout.cards if layout.stage == 3 else 1
    gathered = max(_LIVE, 2 * shape.embedding) if layout.stage == 3 else 0
    return {
        "weights": _weights(recipe, layout) / shared,
        "trained": recipe.trained * _training_state(recipe, layout),
        "buffers": gathered + (_BUCKET if layout.stage else 0),
        "loss": _TILE,
    }


def _weights(recipe: Recipe, layout: Layout) -> float:
    """The base model, not yet split."""
    shape, settings = recipe.shape, recipe.model
    if _quantised(recipe):
        small = sum(weights for weights, _ in shape.linear.values())
        size = _NF4 + (_NESTED if settings.use_bnb_nested_quant else _CONSTANTS) if settings.load_in_4bit else 1
        # One matrix at a time is made whole again.
        return small * size + 2 * (shape.parameters - small) + 2 * shape.hidden * shape.widest
    # Weights in float32 are used as copies in bfloat16; DeepSpeed has those alone, and float32 with the optimiser.
    size = 6 if settings.dtype == "float32" and not layout.stage else 2
    # DPO without an adapter keeps the model as it was beside.
    return shape.parameters * size * (1 if settings.use_peft else recipe.sequences)


def _training_state(recipe: Recipe, layout: Layout) -> float:
    """Bytes a trained weight: gradient, the two moments of AdamW, and the weight itself where it is an adapter's."""
    adapter, settings = recipe.model.use_peft, recipe.model
    if layout.stage:  # 2 + 2 + 12 (ZeRO, arXiv 1910.02054, section 3.1)
        return 2 * adapter / (layout.cards if layout.stage == 3 else 1) + 14 / layout.cards
    # PEFT keeps adapters in float32, TRL those of a model in 4 bits in bfloat16. DDP holds the gradients twice.
    small = _quantised(recipe) if adapter else settings.dtype != "float32"
    return (2 if small else 4) * (3 + adapter + (layout.cards > 1))


def _token_bytes(recipe: Recipe) -> float:
    """What the backward pass needs of the forward pass for each token, in bfloat16 with fused attention.

    A layer keeps 28 bytes a hidden unit (norms in float32, inputs of the adapters, queries, keys and values for each
    head) and 8 a unit of its widest layer; going back takes 8 of these again. With checkpointing, each layer's input is
    kept, and one layer at a time. What torch allocates is within 12 % (`tests/train/test_training_memory.py`).
    """
    shape, checkpointing = recipe.shape, recipe.training.gradient_checkpointing
    layer, back = 28 * shape.hidden + 8 * shape.widest, 8 * shape.widest
    return (2 * shape.hidden * shape.layers + layer if checkpointing else shape.layers * layer) + back
