"""All labelers label everything; batches fit; cost is counted; collapse is said."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.search_runs import FAST, pairs, reviews

from icm.config import SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.labelling.batches import split_batches
from icm.labelling.session import run_labeling


@pytest.mark.parametrize("calibration", ["batch", "contextual"])
def test_plain_cost_of_bootstrap_is_that_of_its_prompts(calibration: Any, tokenizer: Any) -> None:
    config = SearchConfig(algorithm="bootstrap", calibration=calibration)
    usage = run_labeling(reviews(20), AccountingEngine(tokenizer), config).metadata["usage"]
    assert usage["plain_tokens"] == usage["prompt_tokens"]


@pytest.mark.parametrize("calibration", ["batch", "contextual"])
@pytest.mark.parametrize("algorithm", ["icm", "bootstrap"])
def test_cost_outlives_an_interruption(algorithm: Any, calibration: Any, tokenizer: Any, tmp_path: Path) -> None:
    path, config = tmp_path / "t.jsonl", replace(FAST, algorithm=algorithm, calibration=calibration, restarts=2)
    whole = run_labeling(pairs(10), AccountingEngine(tokenizer), config, trace_path=path).metadata["usage"]
    lines = path.read_bytes().splitlines(keepends=True)
    usages = [number for number, line in enumerate(lines) if b'"type": "usage"' in line]
    path.write_bytes(b"".join(lines[: usages[len(usages) // 2] + 1]))
    resumed = run_labeling(pairs(10), AccountingEngine(tokenizer), config, trace_path=path, resume=True)
    usage = resumed.metadata["usage"]
    assert [usage[key] for key in ("plain_tokens", "unchanged_tokens")] == [
        whole[key] for key in ("plain_tokens", "unchanged_tokens")
    ]
    assert whole["computed_tokens"] <= usage["computed_tokens"] < 2 * whole["computed_tokens"]


@pytest.mark.parametrize("algorithm", ["icm", "bootstrap", "random", "zero-shot"])
@pytest.mark.parametrize("init", ["random", "zero-shot", "bootstrap"])
def test_every_labeler_labels_everything(algorithm: str, init: str, tokenizer: Any) -> None:
    config = replace(FAST, algorithm=algorithm, init=init, max_iterations=10, bootstrap_rounds=2)
    result = run_labeling(reviews(14), AccountingEngine(tokenizer), config)
    assert len(result.labeled_examples) == 14
    assert result.metadata["algorithm"] == algorithm
    assert (result.score is None) == (algorithm in ("random", "zero-shot"))


class OneAnswer(AccountingEngine):
    """Says the same whatever it is asked, to see whether a collapse is noticed."""

    def score(self, tree: Any, label_ids: Sequence[int]) -> Any:
        return np.tile(np.log([0.9, 0.1]), (len(super().score(tree, label_ids)), 1))


def test_collapse_is_said(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(FAST, calibration="none", max_iterations=200)
    result = run_labeling(reviews(10), OneAnswer(tokenizer), config)
    assert result.metadata["collapsed"]
    assert "has collapsed" in caplog.text


def test_batches_keep_groups_and_fit(tokenizer: Any) -> None:
    dataset, config = pairs(30), replace(FAST, batch_size=17)
    batches = split_batches(dataset, AccountingEngine(tokenizer), config)
    assert sorted(e.id for batch in batches for e in batch) == [e.id for e in dataset]
    assert max(map(len, batches)) <= 17
    groups = [{example.group for example in batch} for batch in batches]
    assert sum(map(len, groups)) == len(set().union(*groups))
    small = split_batches(dataset, AccountingEngine(tokenizer, context_length=150), config)
    assert len(small) > len(batches)
    assert [len(batch) for batch in split_batches(reviews(60), AccountingEngine(tokenizer), config)] == [15] * 4


def test_batches_leave_room_for_contextual_calibration(tokenizer: Any) -> None:
    config, dataset = SearchConfig(calibration="contextual", max_iterations=60), reviews(40)
    for length in range(900, 1100, 25):
        engine = AccountingEngine(tokenizer, context_length=length)
        assert sum(run_labeling(dataset, engine, config).metadata["batches"]) == 40


def test_many_groups_are_packed_in_linear_time(tokenizer: Any) -> None:
    examples = [ICMExample(f"Claim {number} is about nothing.\nI think this Claim is") for number in range(3000)]
    started = time.perf_counter()
    batches = split_batches(ICMDataset(examples, LabelSpace(), "claims"), AccountingEngine(tokenizer), SearchConfig())
    assert [len(batch) for batch in batches] == [250] * 12
    long = ICMExample("word " * 9000)
    with pytest.raises(ConfigError, match="do not fit the context"):
        split_batches(
            ICMDataset([*examples, long], LabelSpace(), "claims"), AccountingEngine(tokenizer, 8192), SearchConfig()
        )
    assert time.perf_counter() - started < 30


def test_question_larger_than_the_context_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="do not fit the context"):
        split_batches(pairs(4), AccountingEngine(tokenizer, context_length=20), FAST)
