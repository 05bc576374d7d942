"""Batches: whole groups that fit the context, split once a run."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.search_runs import FAST, labels, pairs, reviews
from transformers import AutoTokenizer

from icm.config import EngineConfig, SearchConfig
from icm.engines.accounting import AccountingEngine
from icm.errors import ConfigError, DataError, ICMError
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.files import write_jsonl
from icm.labelling import run, session
from icm.labelling.batches import LEAST, _Group, _packed, _Room, batched, say_batches, split_batches
from icm.labelling.forecast import plan_run
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


@pytest.mark.parametrize("shots", [4, None])
def test_a_text_alone_in_its_batch_is_not_its_own_template(tokenizer: Any, shots: int | None) -> None:
    texts = [f"{n:02d}{' word' * length} is" for n, length in enumerate((80, 80, 5, 5))]
    dataset = replace(reviews(1), examples=[ICMExample(text) for text in texts])
    engine = AccountingEngine(tokenizer, context_length=100)
    result = run_labeling(dataset, engine, SearchConfig(calibration="contextual", shots=shots, max_iterations=8))
    assert len(result.labeled_examples) == 4 and 1 in result.metadata["batches"]


@pytest.mark.parametrize("trusted", [0, 6, 20])
@pytest.mark.parametrize("algorithm", ["icm", "bootstrap", "zero-shot"])
def test_a_batch_holds_what_fits_into_a_prompt_by_four(tokenizer: Any, algorithm: str, trusted: int) -> None:
    """One in five texts is ten times as long as the others; the engine refuses a prompt longer than it takes."""
    config = SearchConfig(algorithm=algorithm, max_iterations=40, calibration="contextual")
    texts = [f"Text {n}:{' word' * (100 if n % 5 == 0 else 10)}\nI think this Claim is" for n in range(60)]
    known = {ICMExample(text).id: "positive" for text in texts[:trusted]}
    dataset = replace(reviews(1), examples=[ICMExample(text) for text in texts], trusted=known)
    counts = {}
    for length in (600, 800, 1200, 1800, 3000):
        try:
            result = run_labeling(dataset, AccountingEngine(tokenizer, context_length=length), config)
        except ConfigError as error:
            assert trusted and "stand in every batch" in str(error) and length < 1500
            continue
        counts[length] = len(result.metadata["batches"])
        assert len(result.labeled_examples) == 60
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert counts[1800] == 1, "all texts together have 2,500 tokens"
    if not trusted:
        assert counts[800] == 1 and (counts[600] == 1) is (algorithm == "zero-shot")


@pytest.mark.parametrize("algorithm", ["bootstrap", "icm", "zero-shot"])
def test_what_trusted_labels_entail_stands_in_prompts_too(tokenizer: Any, algorithm: str) -> None:
    dataset, config = pairs(24), SearchConfig(algorithm=algorithm, max_iterations=20)
    first = {example.group: example.id for example in dataset}
    dataset = replace(dataset, trusted=dict.fromkeys(list(first.values())[:5], "True"))
    sizes = set()
    for length in range(60, 300, 20):
        engine = AccountingEngine(tokenizer, context_length=length)
        try:
            split_batches(dataset, engine, config)
        except ConfigError:
            continue
        sizes.add(len(run_labeling(dataset, engine, config).metadata["batches"]))
    assert 1 in sizes


@pytest.mark.parametrize(
    ("lengths", "count", "least", "most"),
    [
        ([200] * 20000, 79, 250, 256),
        ([10] * 290 + [400] * 10, 5, 60, 60),
        ([30] * 19600 + [400] * 400, 200, 90, 110),
        ([10] * 299 + [980], 3, 1, 150),
        ([550, 10] * 10000, 10000, 2, 2),
    ],
)
def test_long_texts_are_packed_evenly_into_few_batches(lengths: list[int], count: int, least: int, most: int) -> None:
    started = time.perf_counter()
    groups = [_Group([ICMExample(str(place))], [length]) for place, length in enumerate(lengths)]
    found = [len(batch) for batch in _packed(groups, _Room(256, 1000, 5))]
    assert (len(found), min(found) >= least, max(found) <= most) == (count, True, True)
    assert time.perf_counter() - started < 10


def test_few_examples_are_calibrated_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for size, config, warned in (
        (LEAST - 1, SearchConfig(algorithm="zero-shot"), True),
        (LEAST, SearchConfig(algorithm="zero-shot"), False),
        (1, SearchConfig(algorithm="zero-shot", calibration="none"), False),
        (1, SearchConfig(algorithm="random"), False),
    ):
        caplog.clear()
        say_batches([reviews(size)], config)
        assert ("--calibration none" in caplog.text) is warned


@pytest.mark.parametrize(
    ("algorithm", "size", "warned"), [("zero-shot", 16, False), ("icm", 19, True), ("icm", 20, False)]
)
def test_too_few_answers_for_prototypes_are_said(
    algorithm: Any, size: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    say_batches([reviews(size)], SearchConfig(algorithm=algorithm, calibration="prototypical"))
    assert ("too few to tell groups apart" in caplog.text) is warned


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


def test_a_text_longer_than_the_context_is_left_out_and_named(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = ICMExample("word " * 9000, where="data.jsonl:17")
    dataset = replace(reviews(16), examples=[*reviews(16), long])
    for config in (FAST, replace(FAST, calibration="contextual")):
        batches = split_batches(dataset, AccountingEngine(tokenizer, 2048), config, "auto")
        assert batched(dataset, batches) == reviews(16)
        found = caplog.messages[-1]
        assert found.startswith("left out: 1 of 17 questions (data.jsonl:17: the text has ")
        assert "tokens, which do not fit the context (" in found and "raise" not in found
        assert found.endswith("shorten it, or use a model with a longer context)")
    with pytest.raises(ConfigError, match=r"data\.jsonl:17: the text has"):
        split_batches(dataset, AccountingEngine(tokenizer, 2048), FAST)


def test_a_question_with_more_examples_than_a_batch_is_refused_with_the_remedy(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"2 examples do not fit the batch size .*raise --batch-size to 2"):
        split_batches(pairs(4), AccountingEngine(tokenizer), replace(FAST, batch_size=1), "skip")


@pytest.mark.parametrize(("limit", "remedy"), [(None, False), (60, True), (8192, False)])
def test_a_longer_context_is_proposed_where_there_is_one(limit: int | None, remedy: bool) -> None:
    dataset = replace(reviews(1), examples=[ICMExample("word " * 9000, where="a.csv:2")])
    with pytest.raises(DataError, match=r"^a\.csv:2: the text has 9") as caught:
        run.fitting_batches(EngineConfig(max_model_len=limit), dataset, SearchConfig(), "auto", "transformers")
    assert str(caught.value).endswith("; --max-model-len can be up to 8192") == remedy


def test_a_run_labels_what_fits(
    tokenizer: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*({"text": f"Text {n}", "label": "ab"[n % 2]} for n in range(12)), {"text": "word " * 9000, "label": "a"}]
    write_jsonl(tmp_path / "texts.jsonl", rows)
    monkeypatch.setattr(run, "create_engine", lambda config: AccountingEngine(tokenizer, 2048))
    given = {"dataset": str(tmp_path / "texts.jsonl"), "algorithm": "random", "output_dir": str(tmp_path)}
    settings = resolve_settings({**given, "model": str(tiny_model), "engine": "transformers"}, environ={})
    result = read_result(run.label(settings))
    assert len(result.labeled_examples) == 12 and result.dataset.fingerprint == result.record.data.fingerprint
    assert plan_run(settings).batches == [12]
    refused = replace(settings, data=replace(settings.data, bad_records="refuse"))
    for run_it in (run.label, plan_run):
        with pytest.raises(ICMError, match=r"texts\.jsonl:13: the text has 9"):
            run_it(refused)


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

    for module, names in ((run, ("split_batches", "named_rules", "checker_of")), (session, ("split_batches",))):
        for name in names:
            noted(module, name)
    for name in ("named_rules", "rule_checker"):
        noted(session, name)
    monkeypatch.setattr(run, "create_engine", lambda config: AccountingEngine(tokenizer, 2048))
    given = {"dataset": "reviews", "max_examples": 12, "batch_size": 6, "max_iterations": 4, "engine": "transformers"}
    path = run.label(resolve_settings({**given, "output_dir": str(tmp_path)}, environ={}))
    assert read_result(path).metadata["batches"] == [6, 6]
    assert sorted(called) == ["checker_of", "named_rules", "split_batches"]


def test_vllm_keeps_a_position_of_the_context(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> None:
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)  # read once

    def batches(engine: str, length: int) -> int:
        config, search = EngineConfig(max_model_len=length), SearchConfig(shots=None)
        found = run.fitting_batches(config, reviews(8), search, "data", engine)
        return len(found or ())

    enough = next(length for length in range(200, 600) if batches("transformers", length) == 1)
    assert batches("vllm", enough) == 2
    assert batches("vllm", enough + 1) == 1
