"""Of two equally coherent concepts, a few trusted labels say which is meant, and which way round."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.salience import Reader, two_concepts

from icm.config import SearchConfig
from icm.labelling.session import run_labeling
from icm.results.format import ICMResult

RUNS = range(10)


def start_of(result: ICMResult) -> dict[str, tuple[str, float]]:
    """What `--start` reads of a result."""
    return {item.example.id: (item.label, item.log_odds or 0.0) for item in result.labeled_examples}


def right(algorithm: Any, seed: int, count: int, tokenizer: Any) -> tuple[float, float]:
    """Share of the labels that are right by tone, which is meant, and by topic, with so many trusted ones by tone."""
    dataset, tone, topic = two_concepts(48, seed)
    chosen = np.random.default_rng(seed).permutation(sorted(tone))[:count]
    trusted = {str(key): tone[key] for key in chosen}
    result = run_labeling(
        replace(dataset, trusted=trusted), Reader(tokenizer), SearchConfig(algorithm=algorithm, seed=seed)
    )
    agree = [np.mean([label == gold[key] for key, label in result.labels.items()]) for gold in (tone, topic)]
    return float(agree[0]), float(agree[1])


@pytest.mark.parametrize("algorithm", ["icm", "bootstrap"])
def test_eight_trusted_labels_choose_the_concept_that_is_meant(algorithm: str, tokenizer: Any) -> None:
    found = [right(algorithm, seed, 0, tokenizer) for seed in RUNS]
    by_tone, by_topic = ({max(pair[place], 1 - pair[place]) > 0.9 for pair in found} for place in (0, 1))
    assert by_tone == by_topic == {True, False}  # either, and one that is meant the wrong way round
    assert any(tone < 0.1 for tone, _ in found)
    assert sum(right(algorithm, seed, 8, tokenizer)[0] > 0.9 for seed in RUNS) >= 9


def test_a_start_from_an_earlier_result_keeps_what_it_found_and_costs_less(tokenizer: Any) -> None:
    dataset, tone, _ = two_concepts(48, seed=3)
    cold_engine, warm_engine = Reader(tokenizer), Reader(tokenizer)
    cold = run_labeling(dataset, cold_engine, SearchConfig())
    trusted = {key: tone[key] for key in sorted(tone)[:8]}
    assert trusted.items() <= cold.labels.items()
    anew = Reader(tokenizer)
    run_labeling(replace(dataset, trusted=trusted), anew, SearchConfig())
    warm = run_labeling(replace(dataset, trusted=trusted, start=start_of(cold)), warm_engine, SearchConfig())
    assert warm.labels == cold.labels
    assert warm_engine.usage.computed_tokens < 0.7 * anew.usage.computed_tokens


def test_a_start_that_is_turned_round_is_turned_back(tokenizer: Any) -> None:
    dataset, tone, _ = two_concepts(48, seed=0)
    cold = run_labeling(dataset, Reader(tokenizer), SearchConfig())
    assert not tone.items() & cold.labels.items()
    trusted = {key: tone[key] for key in sorted(tone)[:8]}
    warm = run_labeling(replace(dataset, trusted=trusted, start=start_of(cold)), Reader(tokenizer), SearchConfig())
    assert warm.labels == tone
