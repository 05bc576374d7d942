"""Algorithms 1 and 2: decisions, consistency, look-ahead, resume, batches."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_runs import groups, labels, pairs, reviews, rows

import icm.predictability
from icm.baselines import argmax_labels, make_consistent
from icm.config import EngineConfig, SearchConfig
from icm.consistency import LogicalConsistencyChecker, MathConsistencyRule
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.base import Engine
from icm.errors import ConfigError, ResumeError
from icm.examples import ICMDataset, ICMExample, LabelSpace, Relations
from icm.labelers import run_labeling, split_batches
from icm.predictability import Order, Scorer, draw_order
from icm.search import Search, temperature
from icm.tasks import load_task
from icm.tasks.source import DataSource

FAST = SearchConfig(init="zero-shot", initial_temperature=10, max_iterations=60, refresh_every=16, early_stop=False)


def test_published_schedule() -> None:
    config = SearchConfig(initial_temperature=10)
    assert temperature(config, 1) == 10
    assert temperature(config, 100) == pytest.approx(10 / (1 + 0.99 * math.log(100)))
    assert temperature(replace(config, initial_temperature=0.02), 10**6) == 0.01


def test_other_schedules_reach_the_final_temperature() -> None:
    geometric = SearchConfig(initial_temperature=10, schedule="geometric", cooling_rate=0.5, final_temperature=0.5)
    assert [temperature(geometric, n) for n in (1, 2, 50)] == [5, 2.5, 0.5]
    linear = SearchConfig(schedule="linear", max_iterations=10)
    assert temperature(linear, 10) == pytest.approx(0.01)


@pytest.mark.parametrize(("dataset", "rules"), [(reviews(24), ()), (groups(6, 4), ("exactly-one",))])
def test_all_examples_are_labelled_and_decisions_logged(
    dataset: ICMDataset, rules: tuple[str, ...], tokenizer: Any, tmp_path: Path
) -> None:
    config = replace(FAST, rules=rules)
    result = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=tmp_path / "t.jsonl")
    assert [item.example.id for item in result.labeled_examples] == [example.id for example in dataset]
    decisions = [row for row in rows(tmp_path / "t.jsonl") if row["type"] == "decision"]
    assert [row["iteration"] for row in decisions] == list(range(1, 61))
    for row in decisions:
        if row["delta"] > 0:
            assert row["accepted"]
        if row["previous"] == row["proposal"]:
            assert not row["changes"]
    assert len({row["accepted"] for row in decisions}) == 2, "a run without any rejection tests nothing"


@pytest.mark.parametrize("dataset", [reviews(24), pairs(8)], ids=["reviews", "pairs"])
def test_lookahead_does_not_change_the_search(dataset: ICMDataset, tokenizer: Any, tmp_path: Path) -> None:
    found = []
    for ahead in (1, 8):
        path = tmp_path / f"{ahead}.jsonl"
        run_labeling(dataset, AccountingEngine(tokenizer), replace(FAST, lookahead=ahead), trace_path=path)
        found.append(rows(path))
    assert found[0] == found[1]


@pytest.mark.parametrize("dataset", [pairs(10), reviews(24)], ids=["pairs", "reviews"])
@pytest.mark.parametrize("init", ["zero-shot", "bootstrap"])
@pytest.mark.parametrize("kept", [0.1, 0.35, 0.6, 0.85, 1.0])
def test_resumed_run_is_the_uninterrupted_run(
    kept: float, init: Any, dataset: ICMDataset, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    config = replace(FAST, init=init, refresh_every=8, restarts=2)
    whole = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path)
    expected, raw = rows(path), path.read_bytes()
    path.write_bytes(raw[: max(raw.index(b"\n") + 1, int(len(raw) * kept))])
    resumed = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, resume=True)
    assert rows(path) == expected
    assert labels(resumed) == labels(whole)
    assert resumed.score == whole.score
    if dataset.task != "comparison":
        assert any(row["accepted"] for row in expected if row["type"] == "order"), "no joint proposal to resume after"


@pytest.mark.parametrize("consistency", [False, True])
def test_plain_cost_is_that_of_the_prompts_of_the_trace(consistency: bool, tokenizer: Any, tmp_path: Path) -> None:
    path, dataset = tmp_path / "t.jsonl", pairs(10)
    config = replace(FAST, consistency=consistency, alpha=10, max_iterations=200, final_orders=1)
    usage = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path).metadata["usage"]
    scorer = Scorer(AccountingEngine(tokenizer), dataset, config)
    position = {example.id: number for number, example in enumerate(dataset)}

    def sweep(labels: dict[int, str]) -> int:
        return scorer.trees(labels).leave_one_out(draw_order(labels, np.random.default_rng(0))).prompt_tokens

    first, *others = rows(path)[1:]
    current = {position[key]: label for key, label in first["changes"].items()}
    plain = sweep(current) + sum(len(scorer.encoder.query(example)) for example in dataset)  # the zero-shot start
    unchanged, preferred, taken_back = 0, first["preferences"], 0
    for row in others:
        if row["type"] == "decision":
            drawn = position[row["example"]]
            before = {p: label for p, label in current.items() if p != drawn}
            if row["previous"] is None or row["example"] not in preferred:
                plain += scorer.trees(before).given_all(Order(tuple(before)), [drawn]).prompt_tokens
            after = current | {position[key]: label for key, label in row["changes"].items()}
            if row["changes"]:
                plain += sweep(after)
            else:
                unchanged += sweep(current)
                taken_back += row["proposal"] != row["previous"]
            current = after if row["accepted"] else current
        elif row["type"] == "order":
            plain += sweep(current) * (2 if row["changes"] else 1)  # Both labels are one token.
            current |= {position[key]: label for key, label in row["changes"].items() if row["accepted"]}
            preferred = row["preferences"]
    assert usage["unchanged_tokens"] == unchanged > 0
    assert bool(taken_back) == consistency
    final = sweep(current)  # at the last fresh order, perhaps of the last joint proposal, and at the unseen order
    assert usage["plain_tokens"] - plain in (2 * final, 3 * final)


@pytest.mark.parametrize("calibration", ["batch", "contextual"])
def test_plain_cost_of_bootstrap_is_that_of_its_prompts(calibration: Any, tokenizer: Any) -> None:
    config = SearchConfig(algorithm="bootstrap", calibration=calibration)
    usage = run_labeling(reviews(20), AccountingEngine(tokenizer), config).metadata["usage"]
    assert usage["plain_tokens"] == usage["prompt_tokens"]


def test_a_fresh_order_starts_with_a_joint_proposal(tokenizer: Any) -> None:
    dataset, noted = reviews(24), []
    config = replace(FAST, early_stop=True)
    scorer = Scorer(AccountingEngine(tokenizer), dataset, config)
    search = Search(scorer, LogicalConsistencyChecker([]).index(dataset), config, (0,), noted.append)
    names = dataset.label_space.labels
    wrong = argmax_labels(-scorer.zero_shot(range(24)), range(24), names)  # what the model finds least likely
    state = search.evaluate(wrong, draw_order(wrong, np.random.default_rng(0)))
    search._unchanged = 10
    better = search._refresh(state, 9)
    (row,) = noted
    assert better.utility > search.evaluate(wrong, better.order).utility
    assert row["accepted"]
    assert len(row["changes"]) > 12
    assert better.labels == {p: row["changes"].get(example.id, wrong[p]) for p, example in enumerate(dataset)}
    assert search._unchanged == 0


def test_joint_proposals_are_consistent(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 0.5)
    dataset, noted = pairs(12), []
    config = replace(FAST, alpha=0.05)
    index = LogicalConsistencyChecker().index(dataset)
    search = Search(Scorer(AccountingEngine(tokenizer), dataset, config), index, config, (0,), noted.append)
    labelled = {p: dataset.label_space.labels[p % 2] for p in range(24)}
    state = search.evaluate(labelled, draw_order(labelled, np.random.default_rng(0)))
    search._leave_order(state)
    preferred = {p: search._label(row) for p, row in search._preferences.items()}
    assert index.violations(preferred), "preferences that are consistent anyway test nothing"
    assert not index.violations(search._joint_candidate(state).labels)


@pytest.mark.parametrize(("known", "partner", "sweeps"), [(True, 0.6, 1), (True, 0.9, 0), (False, 0.6, 1)])
def test_a_proposal_takes_its_partner_along(
    known: bool, partner: float, sweeps: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithm 2 would sweep the broken labels and both consistent ones of the pair."""
    dataset, noted, config = pairs(6), [], replace(FAST, alpha=1)
    index = LogicalConsistencyChecker().index(dataset)
    engine = AccountingEngine(tokenizer)
    search = Search(Scorer(engine, dataset, config), index, config, (0,), noted.append)
    monkeypatch.setattr(search, "_pick", lambda *_: 0)
    (other,) = index.neighbours[0]
    consistent = {p: str(p > index.neighbours[p][0]) for p in range(12) if p > 0 or known}
    state = search.evaluate(consistent, draw_order(consistent, np.random.default_rng(0)))
    # Both prefer True: the example drawn, which has another label or none, and its partner, which has that label.
    (search._preferences if known else search._proposals)[0] = np.log([0.8, 0.2])
    search._preferences[other] = np.log([partner, 1 - partner])
    before = engine.usage.prompts
    search._step(state, 1)
    assert engine.usage.prompts - before == sweeps * len(dataset)
    assert noted[0]["proposal"] != noted[0]["previous"]
    assert noted[0]["changes"].keys() == ({dataset[0].id, dataset[other].id} if sweeps else set())
    assert noted[0]["inconsistencies"] == 0


def test_a_proposal_that_changes_nothing_mends_nothing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep has rejected would come back at every draw, each time with another chance."""
    dataset, noted, config = pairs(6), [], replace(FAST, alpha=0.1)
    index = LogicalConsistencyChecker().index(dataset)
    search = Search(Scorer(AccountingEngine(tokenizer), dataset, config), index, config, (0,), noted.append)
    monkeypatch.setattr(search, "_pick", lambda *_: 0)
    search._preferences[0] = np.log([0.8, 0.2])
    broken = dict.fromkeys(range(12), "True")
    search._step(search.evaluate(broken, draw_order(broken, np.random.default_rng(0))), 1)
    assert noted[0]["inconsistencies"] == 6
    assert not noted[0]["changes"]


@pytest.mark.parametrize("examples", [2, 20])
@pytest.mark.parametrize("objective", ["mean", "sum"])
def test_what_a_fix_costs_is_weighed_as_in_u(objective: Any, examples: int, tokenizer: Any) -> None:
    dataset, config = pairs(examples // 2), replace(FAST, alpha=1, objective=objective)
    index = LogicalConsistencyChecker().index(dataset)
    search = Search(Scorer(AccountingEngine(tokenizer), dataset, config), index, config, (0,), lambda row: None)
    sure = {p: np.log([0.9, 0.1]) for p in range(examples)}  # a fix costs 2.2 nats and mends one inconsistency
    found = search._mended(dict.fromkeys(range(examples), "True"), sure)
    assert bool(index.violations(found)) == (objective == "sum" or examples == 2)


def test_published_search_fixes_by_sweeps(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.search.make_consistent", lambda *arguments: pytest.fail("not Algorithm 2"))
    fixed, fix = [], Search.fix
    monkeypatch.setattr(Search, "fix", lambda search, *rest: fixed.append(fix(search, *rest)) or fixed[-1])
    config = replace(FAST, joint_proposals=False, init="random", alpha=1)
    run_labeling(pairs(6), AccountingEngine(tokenizer), config)
    assert len(fixed) > 2


@pytest.mark.parametrize("init", ["random", "zero-shot", "bootstrap"])
def test_a_search_starts_from_consistent_labels(init: Any, tokenizer: Any, tmp_path: Path) -> None:
    path, dataset = tmp_path / "t.jsonl", pairs(6)
    config = replace(FAST, init=init, initial_examples=12, max_iterations=1, alpha=0.1)
    run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path)
    (start,) = [row for row in rows(path) if row["type"] == "start"]
    assert (
        not LogicalConsistencyChecker()
        .index(dataset)
        .violations({p: start["changes"][example.id] for p, example in enumerate(dataset)})
    )


@pytest.mark.parametrize(("dataset", "rules"), [(groups(6, 4), ("exactly-one",)), (pairs(12), ())])
def test_joint_proposals_cost_a_fraction_of_algorithm_2(
    dataset: ICMDataset, rules: tuple[str, ...], tokenizer: Any
) -> None:
    tokens, scores = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    for joint in (True, False):
        for seed in range(4):
            engine = AccountingEngine(tokenizer, seed=seed)
            config = SearchConfig(max_iterations=96, seed=seed, rules=rules, joint_proposals=joint)
            scores[joint] += run_labeling(dataset, engine, config).score
            tokens[joint] += engine.usage.computed_tokens
    assert tokens[True] < 0.5 * tokens[False]
    assert scores[True] > scores[False]


@pytest.mark.parametrize(("weight", "mended"), [(0.0, True), (0.5, True), (1.5, False)])
def test_an_inconsistency_is_mended_where_that_costs_less(weight: float, mended: bool, tokenizer: Any) -> None:
    dataset = pairs(1)
    index = LogicalConsistencyChecker().index(dataset)
    log_probs = np.array([[0.0, -3.0], [0.0, -1.0]])  # both prefer True; the second gives it up for a nat
    scorer = Scorer(AccountingEngine(tokenizer), dataset, FAST)
    found = make_consistent({0: "True", 1: "True"}, log_probs, index, scorer, weight)
    assert found == {0: "True", 1: "False" if mended else "True"}


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


def test_appended_examples_are_folded_before_the_cache_overflows(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, costs = replace(FAST, max_iterations=96, refresh_every=32, seed=1), []
    for crowded in (icm.predictability.MIN_FOLD_CROWDED, 10**6):
        monkeypatch.setattr("icm.predictability.MIN_FOLD_CROWDED", crowded)
        engine = AccountingEngine(tokenizer, cache_tokens=6000)  # a sweep of 48 reviews takes about 9,000
        run_labeling(reviews(48), engine, config)
        costs.append(engine.usage.computed_tokens)
    assert costs[0] < 0.75 * costs[1]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"alpha": 3.0}, "settings.alpha"), ({"seed": 9}, "settings.seed"), ({}, "data")],
)
def test_resume_refuses_another_run(change: dict[str, Any], field: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    run_labeling(reviews(12), AccountingEngine(tokenizer), FAST, trace_path=path)
    other = reviews(12) if change else reviews(12, seed=1)
    with pytest.raises(ResumeError, match=f"cannot resume: {field} was"):
        run_labeling(other, AccountingEngine(tokenizer), replace(FAST, **change), trace_path=path, resume=True)


@pytest.mark.parametrize("joint", [True, False])
def test_consistency_is_restored_and_rejected_proposals_leave_nothing(
    joint: bool, tokenizer: Any, tmp_path: Path
) -> None:
    dataset = pairs(10)
    path = tmp_path / "t.jsonl"
    config = replace(FAST, alpha=0.05, joint_proposals=joint)
    result = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path)
    index = LogicalConsistencyChecker().index(dataset)
    names = labels(result)
    assert index.violations({p: names[e.id] for p, e in enumerate(dataset)}) == []
    state: dict[str, str] = {}
    for row in rows(path):
        if row["type"] == "start":
            state = dict(row["changes"])
        elif row["type"] == "decision":
            before = len(state)
            state |= row["changes"] if row["accepted"] else {}
            assert row["labelled"] == len(state) >= before


def test_fixing_works_on_a_copy(tokenizer: Any) -> None:
    dataset = pairs(3)
    scorer = Scorer(AccountingEngine(tokenizer), dataset, FAST)
    search = Search(
        scorer, LogicalConsistencyChecker().index(dataset), replace(FAST, alpha=0.01), (0,), lambda row: None
    )
    broken = dict.fromkeys(range(6), "True")
    state = search.evaluate(broken, draw_order(broken, np.random.default_rng(0)))
    assert state.inconsistencies == 3
    fixed = search.fix(state, np.random.default_rng(0))
    assert fixed.inconsistencies == 0
    assert fixed.utility > state.utility
    assert broken == dict.fromkeys(range(6), "True") == state.labels


def test_sum_and_mean_objective_differ_by_the_count(tokenizer: Any) -> None:
    dataset = reviews(10)
    labelled = {p: dataset.label_space.labels[p % 2] for p in range(10)}
    order = draw_order(labelled, np.random.default_rng(0))
    utilities = []
    for objective in ("mean", "sum"):
        config = replace(FAST, objective=objective)
        scorer = Scorer(AccountingEngine(tokenizer), dataset, config)
        search = Search(scorer, LogicalConsistencyChecker([]).index(dataset), config, (0,), lambda row: None)
        utilities.append(search.evaluate(labelled, order).utility)
    assert utilities[1] == pytest.approx(10 * utilities[0])


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


def test_mending_goes_on_while_it_helps(tokenizer: Any) -> None:
    """Same answer, same label; different answers, not both True: one repair can break the next pair."""
    rng, mended = np.random.default_rng(0), 0
    for _ in range(60):
        examples = [
            ICMExample(f"Solution {n}", {}, Relations("question", str(rng.integers(3))))
            for n in range(rng.integers(3, 7))
        ]
        dataset = ICMDataset(examples, LabelSpace(), "math", "gsm8k")
        index = LogicalConsistencyChecker([MathConsistencyRule()]).index(dataset)
        given = {p: str(bool(rng.integers(2))) for p in range(len(dataset))}
        scorer = Scorer(AccountingEngine(tokenizer), dataset, FAST)
        mended += bool(index.violations(given))
        found = make_consistent(given, np.log(rng.dirichlet([1, 1], len(dataset))), index, scorer)
        assert not index.violations(found)
    assert mended > 30


def test_bootstrap_mends_groups_that_break_a_rule(tokenizer: Any) -> None:
    dataset = groups(6, 4)
    config = SearchConfig(algorithm="bootstrap", rules=("exactly-one",))
    found = labels(run_labeling(dataset, AccountingEngine(tokenizer), config))
    true = [sum(found[e.id] == "True" for e in dataset if e.group == f"question {group}") for group in range(6)]
    assert true == [1] * 6


@pytest.mark.parametrize("joint", [True, False])
def test_joint_proposals_mend_many_labels_at_once(joint: bool, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 20.0)  # a model that is sure of most examples
    dataset, engine = reviews(40), AccountingEngine(tokenizer)
    sure = labels(run_labeling(dataset, engine, SearchConfig(algorithm="zero-shot")))
    config = SearchConfig(init="random", initial_examples=40, max_iterations=1, joint_proposals=joint)
    found = labels(run_labeling(dataset, engine, config))
    agreement = np.mean([found[key] == sure[key] for key in sure])
    assert agreement > 0.9 if joint else agreement < 0.75


@pytest.mark.parametrize("init", ["random", "bootstrap"])
def test_earlier_orders_propose_and_the_present_one_judges(
    init: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 0.5)  # orders disagree, so some proposals are rejected
    path, dataset = tmp_path / "t.jsonl", reviews(24)
    run_labeling(dataset, AccountingEngine(tokenizer), replace(FAST, init=init), trace_path=path)
    names, preferred, seen = dataset.label_space.labels, {}, {"joint": 0, "single": 0}
    for row in rows(path):
        if row["type"] in ("start", "order"):
            preferred = {key: names[int(np.argmax(values))] for key, values in row["preferences"].items()}
        if row["type"] == "order":
            assert row["accepted"] == (row["delta"] > 0)
            assert all(preferred[key] == label for key, label in row["changes"].items())
            seen["joint"] += bool(row["changes"])
        elif row["type"] == "decision" and row["previous"] is not None and row["example"] in preferred:
            assert row["proposal"] == preferred[row["example"]]
            seen["single"] += row["proposal"] != row["previous"]
    assert min(seen.values()) > 0, "a run without such proposals tests nothing"


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


def test_a_short_search_labels_a_long_rest(tokenizer: Any) -> None:
    examples = [ICMExample(f"Note {number}\nMood:") for number in range(400)]
    dataset = ICMDataset(examples, LabelSpace(("calm", "happy"), (" calm", " happy")), "notes", "classification")
    config = replace(FAST, max_iterations=2, batch_size=400, final_orders=1)
    result = run_labeling(dataset, AccountingEngine(tokenizer, context_length=4000), config)
    assert len(labels(result)) == 400
    assert result.metadata["usage"]["computed_tokens"] < 4 * 400 * 10 * 9  # a few sweeps of n·log2(n) demonstrations


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


@pytest.fixture(scope="module")
def engine() -> Any:
    with create_engine(EngineConfig(engine="transformers")) as engine:
        yield engine


@pytest.mark.slow
def test_real_model_lookahead_and_resume_write_the_same(engine: Engine, tmp_path: Path) -> None:
    config = SearchConfig(max_iterations=16, initial_examples=4, refresh_every=8, final_orders=1)
    dataset, found = reviews(8), []
    for ahead in (1, 6):
        path = tmp_path / f"{ahead}.jsonl"
        run_labeling(dataset, engine, replace(config, lookahead=ahead), trace_path=path)
        found.append(rows(path))
    assert found[0] == found[1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]) + b'{"type": "deci')
    run_labeling(dataset, engine, config, trace_path=path, resume=True)
    assert rows(path) == found[0]


@pytest.mark.slow
def test_fresh_orders_undo_the_label_that_means_neighbourhood(engine: Engine) -> None:
    """In a fixed tree, one label a half is copied from the neighbours and looks coherent; no gold is needed for it."""
    dataset = reviews(24, seed=1)
    gold = load_task(DataSource("reviews")).gold
    golden = {position: gold[example.id] for position, example in enumerate(dataset)}
    search = Search(
        Scorer(engine, dataset, SearchConfig()),
        LogicalConsistencyChecker([]).index(dataset),
        SearchConfig(),
        (0,),
        print,
    )
    known, fresh = (draw_order(golden, np.random.default_rng(seed)) for seed in range(2))
    names = dataset.label_space.labels
    neighbours = {position: names[2 * number // len(dataset)] for number, position in enumerate(known.settled)}

    unseen = search.evaluate(neighbours, fresh).utility
    assert search.evaluate(neighbours, known).utility > unseen
    assert search.evaluate(golden, fresh).utility > unseen
