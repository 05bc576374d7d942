"""All labelers label everything; cost is counted; collapse is said."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.search_runs import FAST, interrupted_after, pairs, reviews, rows

from icm.config import SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.labelling.session import run_labeling


@pytest.mark.parametrize("calibration", ["batch", "contextual", "prototypical"])
def test_plain_cost_of_bootstrap_is_that_of_its_prompts(calibration: Any, tokenizer: Any) -> None:
    config = SearchConfig(algorithm="bootstrap", calibration=calibration)
    usage = run_labeling(reviews(20), AccountingEngine(tokenizer), config).metadata["usage"]
    assert usage["plain_tokens"] == usage["prompt_tokens"]


@pytest.mark.parametrize("calibration", ["batch", "contextual", "prototypical"])
@pytest.mark.parametrize("algorithm", ["icm", "bootstrap"])
def test_cost_outlives_an_interruption(algorithm: Any, calibration: Any, tokenizer: Any, tmp_path: Path) -> None:
    path, config = tmp_path / "t.jsonl", replace(FAST, algorithm=algorithm, calibration=calibration, restarts=2)
    whole = run_labeling(pairs(10), AccountingEngine(tokenizer), config, trace_path=path).metadata["usage"]
    with pytest.raises(KeyboardInterrupt):
        stop = interrupted_after(len(rows(path)) // 2)
        run_labeling(pairs(10), AccountingEngine(tokenizer), config, trace_path=path, on_progress=stop)
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
    assert "what the model prefers whatever the text" in caplog.text
