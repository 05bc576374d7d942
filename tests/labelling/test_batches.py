"""Batches: whole groups that fit the context, split once a run."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.search_runs import FAST, labels, pairs, reviews

from icm.config import EngineConfig, SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.labelling import run, session
from icm.labelling.batches import split_batches
from icm.labelling.session import run_labeling
from icm.labelling.settings import resolve_settings
from icm.results.format import read_result


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


def test_batches_that_are_handed_in_are_labelled(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, config = AccountingEngine(tokenizer), SearchConfig(algorithm="bootstrap", batch_size=8)
    batches = split_batches(reviews(16), engine, config)
    expected = labels(run_labeling(reviews(16), engine, config))
    monkeypatch.setattr(session, "split_batches", lambda *given: pytest.fail("split a second time"))
    assert labels(run_labeling(reviews(16), engine, config, batches=batches)) == expected


def test_a_run_splits_batches_and_looks_rules_up_once(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def noted(module: Any, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given: called.append(name) or function(*given))

    for module, names in ((run, ("split_batches", "named_rules", "rule_checker")), (session, ("split_batches",))):
        for name in names:
            noted(module, name)
    for name in ("named_rules", "rule_checker"):
        noted(session, name)
    monkeypatch.setattr(run, "create_engine", lambda config: AccountingEngine(tokenizer, 2048))
    given = {"dataset": "reviews", "max_examples": 12, "batch_size": 6, "max_iterations": 4, "engine": "transformers"}
    path = run.label(resolve_settings({**given, "output_dir": str(tmp_path)}, environ={}))
    assert read_result(path).metadata["batches"] == [6, 6]
    assert sorted(called) == ["named_rules", "rule_checker", "split_batches"]


def test_vllm_keeps_a_position_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(engine: str, length: int) -> int:
        monkeypatch.setattr(run, "choose_engine", lambda config: engine)
        found = run.fitting_batches(EngineConfig(max_model_len=length), reviews(8), SearchConfig(), "data")
        return len(found or ())

    enough = next(length for length in range(200, 600) if batches("transformers", length) == 1)
    assert batches("vllm", enough) == 2
    assert batches("vllm", enough + 1) == 1
