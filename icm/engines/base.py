"""What the search needs of a model: log-probabilities of the labels behind every prompt of a tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from icm.config import GenerationConfig
from icm.prompts import LabelTrie, PromptTree, Tokenizer


@dataclass
class Usage:
    """Cost so far, cumulative.

    Attributes:
        prompts: prompts scored.
        prompt_tokens: tokens of those prompts, each counted whole: the cost of plain order without a cache.
        computed_tokens: tokens that went through the model.
        generated_tokens: tokens sampled.
        failures: requests to a server that failed and were repeated.
        seconds: wall-clock time inside the engine.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    failures: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """A loaded model. Use it as a context manager: leaving it frees memory and stops processes, also on error.

    Attributes:
        name: `vllm`, `transformers`, `server` or `accounting`.
        tokenizer: Hugging Face tokenizer of the model.
        context_length: longest prompt in tokens.
        cache_tokens: tokens of tree nodes that stay cached between calls; infinite where that is not known.
        usage: cumulative cost.
    """

    name: str
    tokenizer: Tokenizer
    context_length: int
    cache_tokens: float
    usage: Usage

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        """Log-probabilities of tokens as the next token, over the full vocabulary.

        Args:
            tree: prompts; queries are numbered 0 … tree.queries - 1.
            label_ids: distinct token ids.

        Returns:
            Array [tree.queries, len(label_ids)], natural log; row r belongs to the prompt with query r. What a prompt
            does not ask for (`PromptTree.asks`) may be NaN.

        Raises:
            ConfigError: a prompt is longer than `context_length`. Prompts are never cut.
        """
        ...

    def score_labels(self, tree: PromptTree, labels: LabelTrie) -> NDArray[np.float64]:
        """Log-probabilities of whole labels, over all texts: [tree.queries, labels], natural log."""
        return labels.combine(self.score(labels.expand(tree), labels.tokens))

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """Sample one continuation a prompt; `stop` strings end it and are not returned."""
        ...

    def adapt(self, adapter: str | None) -> bool:
        """Answer with that adapter from now on, or with none; False if it takes a new engine."""
        return False

    def close(self) -> None:
        """Free memory and stop processes. Safe to call twice."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
