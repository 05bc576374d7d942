"""Decisions from samples of the leaves: how often they are wrong, what they cost, and that they resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_runs import labels, reviews, rows

import icm.engines.accounting
from icm.acceptance import is_settled, sample_sizes
from icm.calibration import Array
from icm.config import SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.labelers import run_labeling

SAMPLED = SearchConfig(max_iterations=120, refresh_every=40, early_stop=False, acceptance_error=0.1)


def decided(estimates: Array, threshold: float, error: float) -> tuple[bool, int]:
    """The verdict on a population in random order, and how many leaves it took."""
    for size in sample_sizes(len(estimates)):
        if is_settled(estimates[:size], len(estimates), threshold, error):
            return bool(estimates[:size].mean() > threshold), size
    return bool(estimates.mean() > threshold), len(estimates)


def test_samples_double_up_to_everything() -> None:
    assert list(sample_sizes(256)) == [32, 64, 128]
    assert list(sample_sizes(32)) == []


@pytest.mark.parametrize("distance", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("skewed", [False, True])
def test_wrong_decisions_are_as_rare_as_promised(distance: float, skewed: bool) -> None:
    rng, wrong, leaves, trials, error = np.random.default_rng(0), 0, 0, 2000, 0.1
    for _ in range(trials):
        population = rng.standard_exponential(200) - 1 if skewed else rng.standard_normal(200)
        truth = population.mean()
        verdict, used = decided(population, truth - distance, error)
        wrong += not verdict
        leaves += used
    assert wrong <= 1.25 * error * trials  # Exponential estimates are not normal: the promise holds nearly.
    if distance == 0.3:
        assert leaves < 0.7 * 200 * trials


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_resumed_run_is_the_uninterrupted_run(kept: float, tokenizer: Any, tmp_path: Path) -> None:
    path, dataset = tmp_path / "t.jsonl", reviews(80)
    whole = run_labeling(dataset, AccountingEngine(tokenizer), SAMPLED, trace_path=path)
    expected, raw = rows(path), path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    resumed = run_labeling(dataset, AccountingEngine(tokenizer), SAMPLED, trace_path=path, resume=True)
    assert rows(path) == expected
    assert labels(resumed) == labels(whole)


def test_clear_decisions_cost_less(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icm.engines.accounting, "AGREEMENT", 20.0)  # a model that is sure of most examples
    costs = []
    for error in (0.0, 0.05):
        engine = AccountingEngine(tokenizer)
        run_labeling(reviews(128), engine, replace(SAMPLED, max_iterations=160, acceptance_error=error))
        costs.append(engine.usage.computed_tokens)
    assert costs[1] < 0.8 * costs[0]


def test_small_data_is_decided_exactly(tokenizer: Any, tmp_path: Path) -> None:
    found = []
    for error in (0.0, 0.1):
        path = tmp_path / f"{error}.jsonl"
        config = replace(SAMPLED, acceptance_error=error)
        run_labeling(reviews(32), AccountingEngine(tokenizer), config, trace_path=path)
        found.append(rows(path)[1:])
    assert found[0] == found[1]
