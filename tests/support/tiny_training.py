"""Short reviews with gold labels, and a tiny Llama with the embedded model's tokenizer."""

from pathlib import Path

import pytest

from icm.files import write_jsonl
from icm.models import resolve_model

GOOD = ("works", "delights me", "is a bargain", "arrived early", "survived the rain", "sounds warm", "never jams")
BAD = ("broke", "smells of glue", "was late", "drains in an hour", "crackles", "tore at once", "leaks")
THINGS = ("kettle", "tent", "novel", "headset", "bicycle pump", "film", "desk lamp", "rucksack", "drill")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set file of 126 short reviews with gold labels, each its own question."""
    rows = [
        {"text": f"The {thing} {verdict}.", "label": label}
        for thing in THINGS
        for label, verdicts in (("positive", GOOD), ("negative", BAD))
        for verdict in verdicts
    ]
    path = tmp_path_factory.mktemp("data") / "things.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that prefers no token to another."""
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


def save_tiny_llama(folder: Path, initializer_range: float = 0.02) -> Path:
    """A randomly initialised Llama of two layers: the same code path as a real model, at a thousandth of the cost."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
