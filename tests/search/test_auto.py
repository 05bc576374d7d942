"""`auto` takes the labels of the cheapest labeler that finds coherent ones, and says which."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support.search_runs import reviews

from icm.config import Algorithm, SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.labelling.session import run_labeling
from icm.results.format import ICMResult


def labelled(tokenizer: Any, algorithm: Algorithm, **more: Any) -> tuple[ICMResult, int]:
    """A result and its tokens."""
    engine = AccountingEngine(tokenizer)
    result = run_labeling(reviews(48), engine, SearchConfig(algorithm=algorithm), **more)
    return result, engine.usage.computed_tokens


@pytest.mark.parametrize(("agreement", "enough"), [(8.0, "zero-shot"), (3.0, "bootstrap"), (0.8, "icm")])
def test_the_first_coherent_labels_are_kept(
    agreement: float,
    enough: Algorithm,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From answers that hardly depend on what stands before them to such that mostly do."""
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", agreement)
    with caplog.at_level(logging.INFO):
        found, tokens = labelled(tokenizer, "auto")
    expected, _ = labelled(tokenizer, enough)
    assert found.labels == expected.labels
    said = [record.getMessage().split(":")[0] for record in caplog.records if "labels by" in record.getMessage()]
    assert said == ["labels by zero-shot", "labels by bootstrap"][: 1 + (enough != "zero-shot")]
    search, searched = labelled(tokenizer, "icm")
    assert (tokens < searched) == (enough != "icm")
    assert (found.score == search.score) == (enough == "icm")


def test_a_search_that_was_interrupted_goes_on(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 1.0)
    whole, _ = labelled(tokenizer, "auto", trace_path=tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[: len(lines) // 2]))
    half, _ = labelled(tokenizer, "auto", trace_path=tmp_path / "half.jsonl", resume=True)
    assert half.labels == whole.labels and half.score == whole.score

    def told(name: str) -> list[Any]:
        return [row for row in map(json.loads, (tmp_path / name).read_text().splitlines()) if row["type"] != "usage"]

    assert told("half.jsonl") == told("whole.jsonl")


def test_one_example_is_labelled_and_not_judged(tokenizer: Any, recwarn: pytest.WarningsRecorder) -> None:
    result = run_labeling(reviews(1), AccountingEngine(tokenizer), SearchConfig(algorithm="auto"))
    assert len(result.labels) == 1 and not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
