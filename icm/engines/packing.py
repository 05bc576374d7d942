"""Several tree nodes in one forward pass of a Hugging Face model.

The matrix products run over the tokens of all nodes at once, which pays for reading the weights; attention runs
node by node, each over its own path, in shapes that no other node in the pass can change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from transformers import AttentionInterface

from icm.engines.kv_cache import NodeKV
from icm.errors import ConfigError

ATTENTION = "icm_packed"
_BLOCK = 128  # tokens: few enough that the scores stay in the processor's cache


@dataclass
class PackedNode:
    """One node of a pass.

    Attributes:
        segment: its token ids.
        path: keys and values of the nodes above it, root first.
        keep: whether its own keys and values are wanted.
        parents: for a small tree of tokens in place of a row of them, the place of the token in front of each one;
            -1 for the path's end. Parents come first.
        kv: keys and values, filled in by the forward pass.
    """

    segment: Sequence[int]
    path: Sequence[NodeKV]
    keep: bool
    parents: tuple[int, ...] | None = None
    kv: NodeKV = field(default_factory=list)

    @property
    def start(self) -> int:
        """Tokens above the node."""
        return sum(node[0].shape[2] for node in self.path)

    @property
    def positions(self) -> list[int]:
        """Each token's place in its prompt."""
        if self.parents is None:
            return list(range(self.start, self.start + len(self.segment)))
        places = [self.start - 1]  # of the path's end, which is the parent -1 by Python's counting from behind
        for parent in self.parents:
            places.append(places[parent + 1] + 1)
        return places[1:]


class Pack:
    """Nodes whose tokens stand one behind the other in a forward pass, and the attention of each over its own path."""

    def __init__(self, nodes: Sequence[PackedNode]) -> None:
        self.nodes = nodes
        ends = list(accumulate(len(node.segment) for node in nodes))
        self.spans = list(zip([0, *ends], ends, strict=False))
        self._later: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._apart: dict[tuple[tuple[int, ...], torch.device], torch.Tensor] = {}

    def inputs(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Token ids and positions, each [1, tokens]."""
        ids = [token for node in self.nodes for token in node.segment]
        positions = [position for node in self.nodes for position in node.positions]
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
        }

    def later(self, tokens: int, device: torch.device) -> torch.Tensor:
        """[tokens, tokens], True where the column's token comes after the row's."""
        if (tokens, device) not in self._later:
            places = torch.arange(tokens, device=device)
            self._later[tokens, device] = places > places[:, None]
        return self._later[tokens, device]

    def apart(self, parents: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """[tokens, tokens] of a tree of tokens, True where the column's token is not on the way to the row's."""
        if (parents, device) not in self._apart:
            rows: list[list[bool]] = []
            for place, parent in enumerate(parents):
                row = list(rows[parent]) if parent >= 0 else [True] * len(parents)
                row[place] = False
                rows.append(row)
            self._apart[parents, device] = torch.tensor(rows, device=device)
        return self._apart[parents, device]

    def attend(self, layer: int, query: torch.Tensor, own: torch.Tensor, window: int | None) -> torch.Tensor:
        """One layer's attention, and the keys and values of the nodes that keep theirs.

        Args:
            layer: its number.
            query: [heads, tokens, head size], scaled.
            own: keys and values of all tokens, [2, key heads, tokens, head size].
            window: tokens that a token sees, itself included; None for all.

        Returns:
            [heads, tokens, head size].
        """
        for node, (begin, end) in zip(self.nodes, self.spans, strict=True):
            if node.keep:
                node.kv.append(own[:, :, begin:end].clone())
        return torch.cat([self.of_node(place, layer, query, own, window) for place in range(len(self.nodes))], dim=1)

    def of_node(
        self, place: int, layer: int, query: torch.Tensor, own: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        """`attend` of one node."""
        node, (begin, end) = self.nodes[place], self.spans[place]
        new = own[:, :, begin:end]
        path = torch.cat([*(above[layer] for above in node.path), new], dim=2) if node.path else new
        if node.parents is not None:
            hidden = _hidden(node, self, window, path.shape[2], query.device)
            return _attend(query[:, begin:end], path[0], path[1], None, hidden)
        outputs = []
        for first in range(begin, end, _BLOCK):
            last = min(first + _BLOCK, end)
            seen = path[:, :, : path.shape[2] - (end - last)]
            later = self.later(last - first, query.device)
            outputs.append(_attend(query[:, first:last], seen[0], seen[1], window, later))
        return torch.cat(outputs, dim=1)


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
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """A Hugging Face attention function: [1, heads, tokens, head size] in, [1, tokens, heads, head size] out."""
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if unsupported:
        raise ConfigError(f"the model's attention uses {unsupported[0]}, which --engine transformers lacks; use vllm")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scaled = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    outputs = pack.attend(layer, scaled[0], torch.stack((key[0], value[0])), sliding_window)
    return outputs.transpose(0, 1)[None], None


def _hidden(node: PackedNode, pack: Pack, window: int | None, path: int, device: torch.device) -> torch.Tensor:
    """[tokens, tokens] or, with a window, [tokens, path]: True where a tree of tokens does not look."""
    hidden = pack.apart(node.parents or (), device)
    if window is None:
        return hidden
    places = torch.tensor([*range(node.start), *node.positions], device=device)
    far = places[node.start :, None] - places >= window
    far[:, node.start :] |= hidden
    return far


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None, hidden: torch.Tensor
) -> torch.Tensor:
    """Causal attention of the last tokens of a path over the whole path.

    Written as two batched products, in which the query heads that share a key head are rows of one matrix: torch's
    flash kernel for CPUs has too few rows to work with in nodes of one demonstration.

    Args:
        query: [heads, tokens, head size], scaled.
        keys: [key heads, path, head size]; its last tokens are the query's.
        values: as keys.
        window: tokens that a token sees, itself included; None for all.
        hidden: [tokens, last keys], True where a token does not look.

    Returns:
        [heads, tokens, head size].
    """
    (heads, tokens, size), key_heads = query.shape, keys.shape[0]
    if window is not None:
        keys, values = keys[:, -(window + tokens - 1) :], values[:, -(window + tokens - 1) :]
    path = keys.shape[1]
    scores = torch.bmm(query.reshape(key_heads, -1, size), keys.transpose(1, 2)).view(heads, tokens, path)
    scores[:, :, path - hidden.shape[1] :].masked_fill_(hidden, float("-inf"))
    if window is not None and path > window:
        rows = torch.arange(path - tokens, path, device=query.device)[:, None]
        scores.masked_fill_(rows - torch.arange(path, device=query.device) >= window, float("-inf"))
    weights = scores.softmax(dim=-1).view(key_heads, -1, path)
    return torch.bmm(weights, values).view(heads, tokens, size)


AttentionInterface.register(ATTENTION, packed_attention)
