"""Shared contexts: each is asked about all others, its common preference is taken out, answers are averaged."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.search_runs import FAST, problem, reviews

from icm.calibration import calibrate, label_bias, over_labels
from icm.config import SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.errors import ConfigError
from icm.labelling.session import run_labeling
from icm.prompts import PromptTree, shared_context_tree
from icm.search.trees import Order, balanced_order

SHARED = replace(FAST, shots=4, contexts=3)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(2, 6))
def test_every_example_is_outside_of_a_context(count: int, shots: int, most: int) -> None:
    contexts = Order(tuple(range(count))).contexts(shots, most)
    assert len(contexts) <= most
    assert len({len(context) for context in contexts}) == 1 and len(contexts[0]) <= shots
    shown = Counter(position for context in contexts for position in context)
    assert set(shown.values()) <= {1}
    assert len(contexts) > 1 or count == 1
    assert all(any(position not in context for context in contexts) for position in range(count))


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=40), st.integers(0, 99))
def test_labels_take_turns(given_labels: list[str], seed: int) -> None:
    labels = dict(enumerate(given_labels))
    order = balanced_order(labels, np.random.default_rng(seed))
    assert sorted(order.settled) == sorted(labels)
    few = min(Counter(given_labels).values()) if len(set(given_labels)) == 2 else 0
    counts = Counter(labels[position] for position in order.settled[: 2 * few])
    assert len(set(counts.values())) <= 1


def test_a_sweep_is_the_mean_of_what_each_context_says_of_the_others(tokenizer: Any) -> None:
    dataset, engine = reviews(14), AccountingEngine(tokenizer)
    scorer = problem(engine, dataset, SHARED).scorer
    labels = {p: dataset.label_space.labels[p % 2] for p in range(12)}  # two have none yet
    order = scorer.draw(labels, np.random.default_rng(0))
    sweep, encoder = scorer.sweep(labels, order), scorer.encoder
    found: dict[int, list[Any]] = {}
    for context in order.contexts(4, 3):
        shown = tuple(t for p in context for t in encoder.demonstration(dataset[p], labels[p]))
        others = [p for p in range(14) if p not in context]
        tree = PromptTree(encoder.prefix, (shared_context_tree(shown, [encoder.query(dataset[p]) for p in others]),))
        scores = engine.score_labels(tree, encoder.labels)
        for position, row in zip(others, calibrate(scores, label_bias(scores)), strict=True):
            found.setdefault(position, []).append(row)
    expected = {position: over_labels(np.mean(rows, axis=0)) for position, rows in found.items()}
    for position, row in sweep.by_position.items():
        np.testing.assert_allclose(row, expected[position])
    before = engine.usage.computed_tokens
    for position, row in zip((12, 13), scorer.proposals(labels, sweep, order, [12, 13]), strict=True):
        np.testing.assert_allclose(row, expected[position])
    assert engine.usage.computed_tokens == before, "the sweep has asked about unlabelled examples too"


def test_an_engine_that_fails_on_one_context_is_not_averaged_away(tokenizer: Any) -> None:
    class Overflown(AccountingEngine):
        def score(self, tree: Any, label_ids: Any) -> Any:
            scores = super().score(tree, label_ids)
            scores[:2] = np.nan
            return scores

    scorer = problem(Overflown(tokenizer), reviews(14), SHARED).scorer
    labels = {p: scorer.dataset.label_space.labels[p % 2] for p in range(14)}
    assert np.isnan(scorer.sweep(labels, scorer.draw(labels, np.random.default_rng(0))).log_probs).any()


def test_a_changed_label_asks_only_the_context_that_shows_it(tokenizer: Any) -> None:
    dataset, engine = reviews(24), AccountingEngine(tokenizer)
    scorer = problem(engine, dataset, SHARED).scorer
    labels = {p: dataset.label_space.labels[p % 2] for p in range(24)}
    order = scorer.draw(labels, np.random.default_rng(0))
    first = scorer.sweep(labels, order)
    prompts = []
    for position in (order.settled[0], order.settled[-1]):  # shown, and not shown
        before = engine.usage.prompts
        other = dataset.label_space.labels[1 - dataset.label_space.index(labels[position])]
        changed = scorer.sweep({**labels, position: other}, order)
        prompts.append(engine.usage.prompts - before)
        assert changed.predictabilities({**labels, position: other}).sum() != first.predictabilities(labels).sum()
    assert prompts == [20, 0]


def test_plain_cost_is_that_of_the_prompts(tokenizer: Any) -> None:
    usage = run_labeling(
        reviews(20), AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap", calibration="contextual")
    ).metadata["usage"]
    assert usage["plain_tokens"] == usage["prompt_tokens"]


def test_a_hopeless_search_says_so_and_costs_little_more_than_its_start(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that are noise: what one order prefers, the next does not."""
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 0.0)
    tokens = {}
    for algorithm in ("bootstrap", "icm"):
        engine = AccountingEngine(tokenizer)
        result = run_labeling(reviews(64), engine, SearchConfig(algorithm=algorithm))  # type: ignore[arg-type]
        tokens[algorithm] = engine.usage.computed_tokens
    assert "demonstration orders disagree" in caplog.text
    assert result.record.iterations is not None and result.record.iterations < 30
    assert tokens["icm"] <= 1.5 * tokens["bootstrap"]


@pytest.mark.parametrize(("field", "value"), [("contexts", 1), ("shots", 0)])
def test_settings_that_cannot_be_are_refused(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=field):
        SearchConfig(**{field: value})  # type: ignore[arg-type]
