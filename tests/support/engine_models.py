"""Tiny random models with a word tokenizer, real in every respect but their weights, and trees over reviews."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from icm.prompts import LabelTrie, PromptTree
from icm.search.trees import TreeBuilder, draw_order

WORDS = """
review film phone camera battery plot acting was is not really very good bad great dull slow fast broken lovely awful
it the a I loved hated after two days and but works never always fine Sentiment : positive negative
""".split()  # noqa: SIM905
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
WINDOW = 8  # of the tiny Gemma 3: far shorter than any prompt

_SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
CONFIGS = {
    "llama": LlamaConfig(**_SIZES),
    "qwen2": Qwen2Config(**_SIZES),
    "gemma3": Gemma3TextConfig(
        **_SIZES,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
    ),
}


def save_tiny_model(kind: str, folder: Path) -> Path:
    """A random float32 model of that architecture and its tokenizer."""
    torch.manual_seed(len(kind))
    AutoModelForCausalLM.from_config(CONFIGS[kind]).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


def words_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny models: one token a word, ids below 160."""
    vocabulary = {
        word: number for number, word in enumerate(["<unk>", "abcdef", *WORDS, *(f"w{n}" for n in range(160))][:160])
    }
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


class Reviews:
    """Random reviews as token ids: demonstrations, queries and the two labels.

    Args:
        tokenizer: of the model.
        count: number of reviews.
        seed: of their words and labels.
        words: fewest and most words of a review.
    """

    def __init__(self, tokenizer: Any, count: int, seed: int = 0, words: tuple[int, int] = (4, 20)) -> None:
        rng = np.random.default_rng(seed)
        texts = [" ".join(rng.choice(WORDS[:-4], size=rng.integers(*words))) for _ in range(count)]
        self.labels = [tokenizer(f" {label}", add_special_tokens=False).input_ids[0] for label in WORDS[-2:]]
        ids = [tokenizer(f"{text}\nSentiment :", add_special_tokens=False).input_ids for text in texts]
        self.queries = [tuple(query) for query in ids]
        self.demonstrations = [(*query, int(rng.choice(self.labels)), 7) for query in self.queries]
        self.builder = TreeBuilder(self.demonstrations.__getitem__, self.queries.__getitem__)

    def leave_one_out(self, count: int, appended: int = 0, seed: int = 1) -> PromptTree:
        """Leave-one-out tree over the first `count` reviews, the next `appended` behind every context."""
        order = draw_order(range(count), np.random.default_rng(seed))
        return self.builder.leave_one_out(order.append(range(count, count + appended)))


def plain_scores(model: Any, tree: PromptTree, labels: list[int]) -> np.ndarray:
    """One whole forward pass a prompt with the model's own masks: what every engine must agree with."""
    scores = np.full((tree.queries, len(labels)), np.nan)
    for query, prompt in tree.paths():
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        scores[query] = torch.log_softmax(logits.float(), dim=-1)[labels].double().numpy()
    return scores


def plain_label_scores(model: Any, tree: PromptTree, labels: LabelTrie) -> np.ndarray:
    """One whole forward pass for each prompt and label: what `Engine.score_labels` must agree with."""
    scores = np.full((tree.queries, len(labels.sequences)), np.nan)
    for query, prompt in tree.paths():
        for column, label in enumerate(labels.sequences):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([prompt + label])).logits[0, len(prompt) - 1 : -1]
            found = torch.log_softmax(logits.float(), dim=-1).gather(1, torch.tensor(label)[:, None])
            scores[query, column] = found.double().sum().item()
    return scores


def only(tree: PromptTree, query: int) -> PromptTree | None:
    """The part of the tree on the way to one query, which becomes row 0; segments are cut as before."""
    if tree.query == query:
        return PromptTree(tree.segment, (), 0)
    found = [branch for child in tree.children if (branch := only(child, query)) is not None]
    return PromptTree(tree.segment, tuple(found)) if found else None
