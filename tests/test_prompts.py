"""Prompts as token ids: every segment alone, special tokens at the start of a prompt only."""

from types import SimpleNamespace

import pytest

from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace
from icm.prompts import PromptEncoder, token_ids

BOS, EOS = 1, 2


class Letters:
    """A tokenizer with a token a letter that puts special tokens around a text unless it is told not to."""

    def __init__(self, bos: int | None = BOS) -> None:
        self.bos_token_id = bos

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> SimpleNamespace:
        ids = list(map(ord, text))
        return SimpleNamespace(input_ids=[BOS, *ids, EOS] if add_special_tokens else ids)


def test_special_tokens_stand_at_the_start_alone() -> None:
    encoder = PromptEncoder(Letters(), LabelSpace(("no", "yes"), (" n", "y")), separator="|")
    example = ICMExample("ab")
    assert encoder.encode("ab") == token_ids(Letters(), "ab") == encoder.query(example) == (97, 98)
    assert encoder.demonstration(example, "no") == (97, 98, 32, 110, 124)
    assert encoder.context([(example, "yes")]) == (BOS, 97, 98, 121, 124)
    assert encoder.labels.sequences == ((32, 110), (121,))
    assert PromptEncoder(Letters(bos=None), LabelSpace(("a", "b"), ("a", "b"))).prefix == ()


def test_labels_that_start_alike_cannot_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="share their first token"):
        PromptEncoder(Letters(), LabelSpace(("no", "yes"), (" n", " y")))
