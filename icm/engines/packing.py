"""Several tree nodes in one forward pass of a Hugging Face model.

The matrix products run over the tokens of all nodes at once, which pays for reading the weights; attention runs
node by node, each over its own path, in shapes that no other node in the pass can change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from icm.engines.kv_cache import NodeKV
from icm.errors import ConfigError

ATTENTION = "icm_packed"
_BLOCK = 128  # tokens: few enough that the scores of a block stay in the cache


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
        return sum(node[0][0].shape[1] for node in self.path)


class Pack:
    """Nodes whose tokens stand one behind the other in a forward pass."""

    def __init__(self, nodes: Sequence[PackedNode]) -> None:
        self.nodes = nodes
        self._starts = [node.start for node in nodes]

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Token ids and positions, each [1, tokens]."""
        ids = [token for node in self.nodes for token in node.segment]
        positions = [
            start + offset
            for node, start in zip(self.nodes, self._starts, strict=True)
            for offset in range(len(node.segment))
        ]
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
        }


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs, end = [], 0
    for node in pack.nodes:
        begin, end = end, end + len(node.segment)
        own = (key[0, :, begin:end], value[0, :, begin:end])
        if node.keep:
            node.kv.append((own[0].clone(), own[1].clone()))
        keys, values = (torch.cat([*(above[layer][i] for above in node.path), own[i]], dim=1) for i in (0, 1))
        outputs.append(_attend(query[0, :, begin:end], keys, values, scale, sliding_window))
    return torch.cat(outputs, dim=1).transpose(0, 1)[None], None


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """Causal attention of the last tokens of a path over the whole path, in blocks of `_BLOCK` tokens.

    Written as two batched products, in which the query heads that share a key head are rows of one matrix: on a CPU
    1.7 times as fast as torch's flash kernel, which has too few rows to work with in nodes of one demonstration.

    Args:
        query: [heads, tokens, head size].
        keys: [key heads, path, head size]; its last tokens are the query's.
        values: as keys.
        scale: factor of the scores.
        window: tokens that a token sees, itself included; None for all.

    Returns:
        [heads, tokens, head size].
    """
    (heads, tokens, size), (key_heads, path, _) = query.shape, keys.shape
    blocks = []
    for first in range(0, tokens, _BLOCK):
        rows = query[:, first : first + _BLOCK]
        block = rows.shape[1]
        end = path - tokens + first + block
        begin = 0 if window is None else max(0, end - block - window + 1)
        grouped = (rows * scale).reshape(key_heads, heads // key_heads * block, size)
        scores = torch.bmm(grouped, keys[:, begin:end].transpose(1, 2)).view(heads, block, end - begin)
        later = torch.ones(block, block, dtype=torch.bool, device=query.device).triu_(1)
        scores[:, :, -block:].masked_fill_(later, float("-inf"))
        if window is not None and end - begin > window:
            distance = torch.arange(end - block, end, device=query.device)[:, None] - torch.arange(
                begin, end, device=query.device
            )
            scores.masked_fill_(distance >= window, float("-inf"))
        weights = scores.softmax(dim=-1).view(key_heads, -1, end - begin)
        blocks.append(torch.bmm(weights, values[:, begin:end]).view(heads, block, size))
    return torch.cat(blocks, dim=1)


AttentionInterface.register(ATTENTION, packed_attention)
