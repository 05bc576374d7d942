"""The in-context condition scores whole labels, and keeps room for all of their tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.engine_models import plain_label_scores
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.conditions.in_context import PREAMBLE, InContext
from eval.conditions.pool import EnginePool
from icm.config import EngineConfig
from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace
from icm.prompts import PromptEncoder, shared_context_tree

ITEMS = tuple(
    ICMExample(f"Review: thing {number} is {word}\nStars:") for number, word in enumerate(["good", "bad"] * 2)
)
STARS = LabelSpace(tuple("12345"))  # in this tokenizer all of them start with a token for the space


def test_whole_labels_are_scored(tiny_model: Path) -> None:
    config = EngineConfig(str(tiny_model), engine="transformers", dtype="float32", device="cpu")
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(tiny_model), STARS)
    shot = (ICMExample("Review: fine\nStars:"), "4")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    queries = [encoder.query(item) for item in ITEMS]
    with EnginePool() as pool:
        for asked, context in (
            (InContext(config, STARS, ITEMS, PREAMBLE), encoder.prefix + encoder.encode(PREAMBLE)),
            (InContext(config, STARS, ITEMS, demonstrations=(shot,)), encoder.context([shot])),
        ):
            found = [answer.log_probs for batch in asked.answer(ITEMS, pool) for answer in batch.answers]
            expected = plain_label_scores(model, shared_context_tree(context, queries), encoder.labels)
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_room_is_kept_for_every_token_of_a_label(tiny_model: Path) -> None:
    space = LabelSpace(("very good indeed", "very bad indeed"))
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(tiny_model), space)
    config = EngineConfig(str(tiny_model), engine="transformers", device="cpu")
    shot = (ICMExample("Review: fine\nMood:"), "very good indeed")
    # With one token less there would be room for the query, but not for the label's tokens behind it.
    exact = len(encoder.context([shot])) + max(len(encoder.query(item)) for item in ITEMS) + encoder.labels.depth
    room, tight = (
        InContext(replace(config, max_model_len=length), space, ITEMS, demonstrations=(shot, shot))
        for length in (exact, exact - 1)
    )
    with EnginePool() as pool:
        assert [batch.facts["shots_left_out"] for batch in room.answer(ITEMS, pool)] == [1]
        with pytest.raises(ConfigError, match="holds no demonstration"):
            list(tight.answer(ITEMS, pool))
