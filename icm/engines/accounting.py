"""Token figures without a model: what a sweep or a whole search costs with a perfect prefix cache."""

import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from icm.config import GenerationConfig
from icm.engines.base import Engine, Usage
from icm.engines.common import check_lengths, path_key
from icm.errors import ConfigError
from icm.prompts import PromptTree, Segment, Tokenizer

AGREEMENT = 4.0
"""Weight of an example's own preference against the noise of each prompt: about one proposal in six changes."""


CHARACTERS_PER_TOKEN = 4


class CharacterTokenizer:
    """Stands in for a tokenizer that is not here: one id every few characters, the same for the same characters, and
    one for a single word, as most labels are."""

    bos_token_id = None

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> SimpleNamespace:
        size = len(text) if len(text.split()) == 1 else CHARACTERS_PER_TOKEN
        pieces = (text[start : start + size] for start in range(0, len(text), size))
        return SimpleNamespace(input_ids=[zlib.crc32(piece.encode()) for piece in pieces])


_CHARACTERS = CharacterTokenizer()


class AccountingEngine(Engine):
    """Counts tokens as the transformers engine would, and answers with noise.

    Nodes with children are kept. When there is no more room, the one unused for longest goes. A query is computed each
    time. Segments may be any integer sequences: a tree of `range` objects of the right lengths will do.

    Args:
        tokenizer: for callers that encode text; not used here.
        context_length: longest prompt in tokens.
        cache_tokens: room for nodes in tokens.
        seed: of the log-probabilities, which are a hash of (seed, prompt).
    """

    name = "accounting"

    def __init__(
        self,
        tokenizer: Tokenizer = _CHARACTERS,
        context_length: int = 2**31,
        cache_tokens: float = math.inf,
        seed: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.cache_tokens = cache_tokens
        self.usage = Usage()
        self._seed = seed
        self._kept: OrderedDict[bytes, int] = OrderedDict()
        self._kept_tokens = 0

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        """See `Engine.score`; the log-probabilities mean nothing, but equal prompts get equal ones."""
        check_lengths(tree, self.context_length)
        started = time.perf_counter()
        scores = np.full((tree.queries, len(label_ids)), np.nan)
        self._visit(tree, b"", scores)
        self.usage.prompts += tree.queries
        self.usage.prompt_tokens += tree.prompt_tokens
        self.usage.seconds += time.perf_counter() - started
        return scores

    def _visit(self, node: PromptTree, parent: bytes, scores: NDArray[np.float64]) -> None:
        key = path_key(parent, node.segment)
        found = [(node, key)]
        if node.query is not None:
            for above, name in found:  # grows: the queries right behind this one are answered with it
                found += [(child, path_key(name, child.segment)) for child in above.children if child.query is not None]
            rows = [asked.query for asked, _ in found if asked.query is not None]
            scores[rows] = self._noise(key, node.segment, (len(rows), scores.shape[1]))
            self.usage.computed_tokens += sum(len(asked.segment) for asked, _ in found)
        else:
            self.usage.computed_tokens += 0 if key in self._kept else len(node.segment)
            self._keep(key, len(node.segment))
        for above, name in found:
            for child in above.children:
                if node.query is None or child.query is None:
                    self._visit(child, name, scores)

    def _keep(self, key: bytes, tokens: int) -> None:
        self._kept_tokens += tokens - self._kept.pop(key, 0)
        self._kept[key] = tokens
        while self._kept_tokens > self.cache_tokens:
            self._kept_tokens -= self._kept.popitem(last=False)[1]

    def _noise(self, key: bytes, query: Segment, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Prompts that end in the same query mostly agree, so that a search takes a course a real one could take."""
        own, context = (self._normal(part, shape) for part in (path_key(b"", query), key))
        scores = AGREEMENT * own + context
        return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))

    def _normal(self, key: bytes, shape: tuple[int, int]) -> NDArray[np.float64]:
        digest = blake2b(key + str(self._seed).encode(), digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest)).normal(size=shape)

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """Refused: there is no model to write text."""
        raise ConfigError("a dry run has no model to generate candidate solutions; give records that hold solutions")

    def close(self) -> None:
        """See `Engine.close`."""
        self._kept.clear()
