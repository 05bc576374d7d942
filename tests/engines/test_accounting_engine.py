"""Token figures of the accounting engine, against bounds and against what the transformers engine really computes."""

import math
from pathlib import Path

import numpy as np
import pytest
from support.engine_models import Reviews, save_tiny_model, words_tokenizer

from icm.config import EngineConfig, GenerationConfig
from icm.engines.accounting import AccountingEngine
from icm.engines.transformers import TransformersEngine
from icm.errors import ConfigError
from icm.prompts import PromptTree
from icm.search.trees import TreeBuilder, draw_order

LENGTH = 37


def _lengths_only(count: int, appended: int = 0) -> PromptTree:
    """A leave-one-out tree in which only lengths are real: ten tokens of each demonstration are label and separator."""
    builder = TreeBuilder(
        lambda position: tuple(range(1000 * position, 1000 * position + LENGTH)),
        lambda position: tuple(range(1000 * position, 1000 * position + LENGTH - 10)),
    )
    return builder.leave_one_out(
        draw_order(range(count), np.random.default_rng(0)).append(range(count, count + appended))
    )


@pytest.mark.parametrize("count", [64, 128, 256])
def test_a_sweep_costs_n_log_n(count: int) -> None:
    engine = AccountingEngine()
    engine.score(_lengths_only(count), [0, 1])
    assert engine.usage.computed_tokens <= 1.15 * count * (math.log2(count) + 1) * LENGTH
    assert engine.usage.prompt_tokens == count * ((count - 1) * LENGTH + LENGTH - 10)


def test_appended_growth_costs_two_segments_a_leaf() -> None:
    engine = AccountingEngine()
    engine.score(_lengths_only(64), [0, 1])
    engine.score(_lengths_only(64, appended=1), [0, 1])
    before = engine.usage.computed_tokens
    engine.score(_lengths_only(64, appended=2), [0, 1])
    assert engine.usage.computed_tokens - before <= 66 * 2 * LENGTH


def test_it_counts_what_the_transformers_engine_computes(tmp_path: Path) -> None:
    reviews = Reviews(words_tokenizer(), 14, seed=9)
    trees = [reviews.leave_one_out(10, seed=1), reviews.leave_one_out(10, 3, seed=1), reviews.leave_one_out(9, seed=2)]
    counted = AccountingEngine()
    with TransformersEngine(EngineConfig(model=str(save_tiny_model("llama", tmp_path)), device="cpu")) as engine:
        for tree in (*trees, *trees):
            engine.score(tree, reviews.labels)
            counted.score(tree, reviews.labels)
            assert counted.usage.computed_tokens == engine.usage.computed_tokens
            assert counted.usage.prompt_tokens == engine.usage.prompt_tokens


def test_scores_are_distributions_that_depend_on_prompt_and_seed() -> None:
    tree = _lengths_only(8)
    first, again, other = (AccountingEngine(seed=seed).score(tree, [3, 4, 5]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.isclose(first, other).any()
    np.testing.assert_allclose(np.exp(first).sum(axis=1), 1)
    assert len(np.unique(first)) == first.size


def test_a_label_of_one_word_is_one_token_where_the_tokenizer_is_not_here() -> None:
    lengths = [
        len(AccountingEngine().tokenizer(text).input_ids) for text in (" positive", " very positive", "\n\n", "")
    ]
    assert lengths == [1, 4, 1, 0]


def test_limits() -> None:
    with pytest.raises(ConfigError, match="does not fit the context of 100"):
        AccountingEngine(context_length=100).score(_lengths_only(8), [0, 1])
    with pytest.raises(ConfigError, match="no model to generate"):
        AccountingEngine().generate(["a"], GenerationConfig(), 0)
