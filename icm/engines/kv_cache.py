"""Keys and values of prompt-tree nodes, and what is kept of them between calls.

A node holds only its own tokens. They depend on the segments of its path and on nothing else, so that a score is
the same bits whether its context was just computed or kept.
"""

from collections import OrderedDict

import torch

NodeKV = list[torch.Tensor]
"""Keys and values of a node's tokens, one tensor a layer, [2, heads, tokens, head size]."""


class NodeStore:
    """Kept nodes; the least recently used one goes first when the budget is spent.

    Dropping a node frees its memory only once no path that is being computed needs it.

    Args:
        capacity: bytes of keys and values to keep.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._nodes: OrderedDict[bytes, NodeKV] = OrderedDict()
        self.size = 0

    def get(self, key: bytes) -> NodeKV | None:
        """The node's keys and values, now the most recently used; None if they are not kept."""
        node = self._nodes.get(key)
        if node is not None:
            self._nodes.move_to_end(key)
        return node

    def put(self, key: bytes, node: NodeKV) -> None:
        """Keep a node, and drop the ones unused for longest until the budget holds."""
        self.size += _bytes(node) - _bytes(self._nodes.pop(key, []))
        self._nodes[key] = node
        while self.size > self._capacity:
            _, dropped = self._nodes.popitem(last=False)
            self.size -= _bytes(dropped)

    def clear(self) -> None:
        """Drop everything."""
        self._nodes.clear()
        self.size = 0


def _bytes(node: NodeKV) -> int:
    return sum(layer.nbytes for layer in node)
