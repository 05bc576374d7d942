"""Attention of many tree nodes at once, for GPUs, where starting a kernel takes longer than a small node.

A row of the batch is a run of nodes behind the same path, filled up to the longest row's length. Sums then come in
another order beside other nodes, and so do last bits: `icm.engines.packing` keeps them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from icm.engines.kv_cache import NodeKV
from icm.engines.packing import Pack, PackedNode

_SCORES = 2**26  # of a chunk of rows: their masks, which all layers share, take 128 MiB
_KEYS = 2**18  # tokens of a chunk's paths: keys and values of a layer take 1 GiB in an 8B model
# Not cuDNN's, which prepares two milliseconds for each new shape.
_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
_ALIGNED = 8  # what torch's kernels want a mask's rows to be a multiple of


@dataclass(frozen=True)
class _Row:
    """Nodes `first` … `last` - 1 of a pass, all behind `path`: `tokens` of their own, `start` above them."""

    first: int
    last: int
    path: Sequence[NodeKV]
    start: int
    tokens: int

    @property
    def keys(self) -> int:
        return self.start + self.tokens


class BatchedPack(Pack):
    """A pass whose nodes attend together; how many depends on the query heads that share a key head."""

    def __init__(self, nodes: Sequence[PackedNode], heads: int) -> None:
        super().__init__(nodes)
        self._heads = heads
        self._chunks = list(_chunks(list(_rows(nodes, heads)), heads))
        self._masks: dict[tuple[int, int | None, int], torch.Tensor] = {}  # the same in all layers
        self._kept = [place for place, node in enumerate(nodes) if node.keep]

    def attend(self, layer: int, query: torch.Tensor, own: torch.Tensor, window: int | None) -> torch.Tensor:
        """See `Pack.attend`."""
        self._keep(own)
        outputs = []
        for number, rows in enumerate(self._chunks):
            if len(rows) == 1 and _scores(rows, self._heads) > _SCORES:
                outputs += [self.of_node(at, layer, query, own, window) for at in range(rows[0].first, rows[0].last)]
            else:
                outputs.append(self._together(number, layer, query, own, window))
        return torch.cat(outputs, dim=1)

    def _keep(self, own: torch.Tensor) -> None:
        """One copy for all nodes that keep their keys and values."""
        if self._kept:
            spans = [self.spans[place] for place in self._kept]
            copy = torch.cat([own[:, :, begin:end] for begin, end in spans], dim=2)
            parts = copy.split([end - begin for begin, end in spans], dim=2)
            for place, part in zip(self._kept, parts, strict=True):
                self.nodes[place].kv.append(part)

    def _together(
        self, number: int, layer: int, query: torch.Tensor, own: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        rows, (_, key_heads, _, size) = self._chunks[number], own.shape
        mask = self._mask(number, window, query.shape[0] // key_heads, query)
        tokens, keys = max(row.tokens for row in rows), mask.shape[-1]
        pieces: list[torch.Tensor] = []
        filler = own.new_zeros(2, key_heads, keys, size)
        for row in rows:
            begin = self.spans[row.first][0]
            pieces += [above[layer] for above in row.path]
            pieces += [own[:, :, begin : begin + row.tokens], filler[:, :, : keys - row.keys]]
        paths = torch.cat(pieces, dim=2).view(2, key_heads, len(rows), keys, size).transpose(1, 2)
        places = self._places(rows, tokens, query.device)
        # The query heads that share a key head are rows of one matrix.
        asked = query[:, places].unflatten(0, (key_heads, -1)).permute(2, 0, 1, 3, 4).flatten(2, 3)
        with sdpa_kernel(_KERNELS):
            found = scaled_dot_product_attention(asked, paths[0], paths[1], attn_mask=mask, scale=1.0)
        found = found.unflatten(2, (-1, tokens)).permute(1, 2, 0, 3, 4).flatten(0, 1)
        return torch.cat([found[:, place, : row.tokens] for place, row in enumerate(rows)], dim=1)

    def _places(self, rows: Sequence[_Row], tokens: int, device: torch.device) -> torch.Tensor:
        """[rows, tokens]: where a row's tokens stand in the pass; its last one fills it up."""
        begins = torch.tensor([self.spans[row.first][0] for row in rows], device=device)
        lasts = torch.tensor([row.tokens - 1 for row in rows], device=device)
        return begins[:, None] + torch.minimum(torch.arange(tokens, device=device), lasts[:, None])

    def _mask(self, number: int, window: int | None, heads: int, query: torch.Tensor) -> torch.Tensor:
        """What is added to the scores of a chunk, [rows, 1, heads · tokens, keys]: 0 or minus infinity."""
        name = (number, window, heads)
        if name not in self._masks:
            seen = self._seen(self._chunks[number], window, query.device)
            mask = torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, float("-inf"))
            self._masks[name] = mask.repeat(1, heads, 1)[:, None]
        return self._masks[name]

    def _seen(self, rows: Sequence[_Row], window: int | None, device: torch.device) -> torch.Tensor:
        """[rows, tokens, keys], True where a token looks: along its own path, and within the window."""
        own, asking = self._own(rows)
        own, asking, tokens = own.to(device), asking.to(device), own.shape[1]
        keys = torch.arange(-(-max(row.keys for row in rows) // _ALIGNED) * _ALIGNED, device=device)
        places = keys - torch.tensor([[row.start] for row in rows], device=device)  # among the row's own tokens
        inside = places.clamp(0, tokens - 1)
        seen = own.gather(2, inside[:, None].expand(-1, tokens, -1)) & (places < tokens)[:, None]
        seen |= (places < 0)[:, None]
        if window is not None:
            positions = torch.where(places < 0, keys, asking.gather(1, inside))
            seen &= asking[:, :, None] - positions[:, None] < window
        return seen

    def _own(self, rows: Sequence[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the rows' own tokens, filled up with the last one: which one sees which, [rows, tokens, tokens], and their
        places in their prompts, [rows, tokens]."""
        cpu, tokens = torch.device("cpu"), max(row.tokens for row in rows)
        own = torch.zeros(len(rows), tokens, tokens, dtype=torch.bool)
        asking = torch.zeros(len(rows), tokens, dtype=torch.long)
        for seen, positions, row in zip(own, asking, rows, strict=True):
            end = 0
            for node in self.nodes[row.first : row.last]:
                begin, end = end, end + len(node.segment)
                hidden = self.apart(node.parents, cpu) if node.parents else self.later(len(node.segment), cpu)
                seen[begin:end, begin:end] = ~hidden
                positions[begin:end] = torch.tensor(node.positions)
            seen[end:], positions[end:] = seen[end - 1], positions[end - 1]
        return own, asking


def _rows(nodes: Sequence[PackedNode], heads: int) -> Iterator[_Row]:
    """Neighbours behind the same path, as many as one row may hold."""
    row: _Row | None = None
    for place, node in enumerate(nodes):
        new = _Row(place, place + 1, node.path, node.start, len(node.segment))
        if row is not None and len(row.path) == len(node.path) and all(map(_same, row.path, node.path)):
            joined = _Row(row.first, place + 1, row.path, row.start, row.tokens + new.tokens)
            if _scores([joined], heads) <= _SCORES:
                row = joined
                continue
        if row is not None:
            yield row
        row = new
    if row is not None:
        yield row


def _same(one: NodeKV, other: NodeKV) -> bool:
    return one is other


def _chunks(rows: Sequence[_Row], heads: int) -> Iterator[list[_Row]]:
    """Rows that attend together: within the limits, or one."""
    chunk: list[_Row] = []
    for row in rows:
        longer = [*chunk, row]
        keys = len(longer) * max(row.keys for row in longer)
        if chunk and (_scores(longer, heads) > _SCORES or keys > _KEYS):
            yield chunk
            longer = [row]
        chunk = longer
    if chunk:
        yield chunk


def _scores(rows: Sequence[_Row], heads: int) -> int:
    """Scores that a key head computes for the rows, filled up."""
    return len(rows) * heads * max(row.tokens for row in rows) * max(row.keys for row in rows)
