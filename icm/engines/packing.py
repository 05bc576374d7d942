"""Several tree nodes in one forward pass of a Hugging Face model.

The matrix products run over the tokens of all nodes at once, which pays for reading the weights; attention runs
node by node, each over its own path, in shapes that no other node in the pass can change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from icm.engines.kv_cache import NodeKV
from icm.errors import ConfigError

ATTENTION = "icm_packed"


@dataclass
class PackedNode:
    """One node of a pass.

    Attributes:
        segment: its token ids.
        path: keys and values of the nodes above it, root first.
        keep: whether its own keys and values are wanted.
        kv: those, filled in by the forward pass.
    """

    segment: Sequence[int]
    path: Sequence[NodeKV]
    keep: bool
    kv: NodeKV = field(default_factory=list)

    @property
    def start(self) -> int:
        """Tokens above the node."""
        return sum(node[0][0].shape[2] for node in self.path)


class Pack:
    """Nodes whose tokens stand one behind the other in a forward pass."""

    def __init__(self, nodes: Sequence[PackedNode]) -> None:
        self.nodes = nodes
        self.starts = [node.start for node in nodes]
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Token ids and positions, each [1, tokens]."""
        ids = [token for node in self.nodes for token in node.segment]
        positions = [
            start + offset
            for node, start in zip(self.nodes, self.starts, strict=True)
            for offset in range(len(node.segment))
        ]
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
        }

    def mask(self, number: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """What each token of a node sees of its path and of its own segment: [tokens, path + tokens], additive."""
        if (number, window) not in self._masks:
            start, length = self.starts[number], len(self.nodes[number].segment)
            queries = torch.arange(start, start + length, device=like.device)[:, None]
            keys = torch.arange(start + length, device=like.device)
            hidden = keys > queries
            if window is not None:
                hidden |= keys <= queries - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[number, window] = mask.masked_fill_(hidden, float("-inf"))
        return self._masks[number, window]


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pack: Pack,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """A Hugging Face attention function: [1, heads, tokens, head size] in, [1, tokens, heads, head size] out."""
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unsupported:
        raise ConfigError(f"the model's attention uses {unsupported[0]}, which --engine transformers lacks; use vllm")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    outputs, end = [], 0
    for number, node in enumerate(pack.nodes):
        begin, end = end, end + len(node.segment)
        own = (key[:, :, begin:end], value[:, :, begin:end])
        if node.keep:
            node.kv.append((own[0].clone(), own[1].clone()))
        keys, values = (torch.cat([*(above[layer][i] for above in node.path), own[i]], dim=2) for i in (0, 1))
        mask = pack.mask(number, sliding_window, query)
        rows = query[:, :, begin:end]
        outputs.append(scaled_dot_product_attention(rows, keys, values, mask, scale=scaling, enable_gqa=True))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, packed_attention)
