"""Algorithm 1: decisions, orders, joint proposals, look-ahead, resume, cost."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.engine_models import DEVICES
from support.search_runs import FAST, groups, interrupted_after, labels, pairs, problem, reviews, rows, seen

import icm.search.trees
from icm.config import EngineConfig, SearchConfig
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.base import Engine
from icm.errors import ResumeError
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.labelling.session import run_labeling
from icm.results.units import units_folder
from icm.search.algorithm import Search, Standing, proposer, temperature
from icm.search.scoring import Scorer
from icm.search.simple import argmax_labels
from icm.search.trees import Order, draw_order
from icm.tasks import load_task
from icm.tasks.source import DataSource


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
@pytest.mark.parametrize(("init", "shots"), [("zero-shot", None), ("bootstrap", None), ("bootstrap", 4), ("random", 4)])
@pytest.mark.parametrize("kept", [0.1, 0.35, 0.6, 0.85, 1.0])
def test_resumed_run_is_the_uninterrupted_run(
    kept: float, init: Any, shots: int | None, dataset: ICMDataset, tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "t.jsonl"
    config = replace(FAST, init=init, shots=shots, refresh_every=8, restarts=2)
    found = list[dict[str, Any]]()
    whole = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, on_progress=seen(found))
    expected = rows(path)
    with pytest.raises(KeyboardInterrupt):
        stop = interrupted_after(max(1, int(len(found) * kept)))
        run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, on_progress=stop)
    last = max(units_folder(path).glob("*-*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    with last.open("ab") as torn:
        torn.write(b'{"type": "deci' if kept < 1 else b"")
    resumed = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, resume=True)
    assert rows(path) == expected
    assert labels(resumed) == labels(whole)
    assert resumed.score == whole.score
    if dataset.task != "comparison":
        assert any(row["accepted"] for row in expected if row["type"] == "order"), "no joint proposal to resume after"


def test_a_run_whose_first_labels_were_improved_goes_on_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    """Their order was drawn for those before, and is balanced by labels."""
    improved = 0
    for seed in range(6):
        path, found = tmp_path / f"{seed}.jsonl", list[dict[str, Any]]()
        config, dataset = SearchConfig(seed=seed, max_iterations=24, early_stop=False), reviews(24, seed)
        whole = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, on_progress=seen(found))
        expected, improved = rows(path), improved + ("ordered" in found[0])
        with pytest.raises(KeyboardInterrupt):
            run_labeling(
                dataset, AccountingEngine(tokenizer), config, trace_path=path, on_progress=interrupted_after(4)
            )
        resumed = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, resume=True)
        assert rows(path) == expected and labels(resumed) == labels(whole)
    assert improved > 0, "no such run tests nothing"


TWELVE = tuple(f"{degree} {side}" for degree in ("very", "rather", "barely") for side in ("good", "bad", "odd", "dull"))


@pytest.mark.parametrize("labels_of", [TWELVE, tuple(map(str, range(12)))], ids=["words", "integers"])
@pytest.mark.parametrize("calibration", ["batch", "contextual"])
def test_twelve_labels_of_several_tokens(
    labels_of: tuple[str, ...], calibration: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """A search over labels that share beginnings ends, resumes as it was, and proposes from all of them."""
    path, dataset = tmp_path / "t.jsonl", replace(reviews(24), label_space=LabelSpace(labels_of))
    config = replace(FAST, init="bootstrap", refresh_every=8, calibration=calibration)
    whole = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path)
    assert len(set(labels(whole).values())) >= 6
    usage = whole.metadata["usage"]
    assert usage["computed_tokens"] < 0.2 * usage["plain_tokens"]
    expected = rows(path)
    with pytest.raises(KeyboardInterrupt):
        stop = interrupted_after(len(expected) // 2)
        run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, on_progress=stop)
    resumed = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path, resume=True)
    assert rows(path) == expected
    assert labels(resumed) == labels(whole)
    assert resumed.metadata["usage"]["plain_tokens"] == usage["plain_tokens"]


@pytest.mark.parametrize("consistency", [False, True])
def test_plain_cost_is_that_of_the_prompts_of_the_trace(consistency: bool, tokenizer: Any) -> None:
    found, dataset = list[dict[str, Any]](), pairs(10)
    config = replace(FAST, consistency=consistency, alpha=10, max_iterations=200, final_orders=1)
    usage = run_labeling(dataset, AccountingEngine(tokenizer), config, on_progress=seen(found)).metadata["usage"]
    scorer = Scorer(AccountingEngine(tokenizer), dataset, config)
    position = {example.id: number for number, example in enumerate(dataset)}

    def sweep(labels: dict[int, str]) -> int:
        return scorer.trees(labels).leave_one_out(draw_order(labels, np.random.default_rng(0))).prompt_tokens

    first, *others = found
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


def test_a_fresh_order_starts_with_a_joint_proposal(tokenizer: Any) -> None:
    dataset, noted = reviews(24), []
    config = replace(FAST, early_stop=True)
    batch = problem(AccountingEngine(tokenizer), dataset, config)
    search = Search(batch, proposer(batch, {}), noted.append, Standing(iteration=9, unchanged=10))
    # What the model finds least likely.
    wrong = argmax_labels(-batch.scorer.zero_shot(range(24)), dataset.label_space.labels)
    better = search.refresh(batch.evaluate(wrong, draw_order(wrong, np.random.default_rng(0))))
    (row,) = noted
    assert better.utility > batch.evaluate(wrong, better.order).utility
    assert row.accepted
    assert len(row.changes) > 12
    assert better.labels == {p: row.changes.get(example.id, wrong[p]) for p, example in enumerate(dataset)}
    assert search.standing == Standing(iteration=9, refreshed=9, unchanged=0)


def test_appended_examples_are_folded_before_the_cache_overflows(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, costs = replace(FAST, max_iterations=96, refresh_every=32, seed=1), []
    for crowded in (icm.search.trees.MIN_FOLD_CROWDED, 10**6):
        monkeypatch.setattr("icm.search.trees.MIN_FOLD_CROWDED", crowded)
        engine = AccountingEngine(tokenizer, cache_tokens=8000)  # a sweep of 48 reviews takes about 12,000
        for draw in (1, 2, 3):  # each run goes its own way after the first fold: one alone says little
            run_labeling(reviews(48, draw), engine, config)
        costs.append(engine.usage.computed_tokens)
    assert costs[0] < 0.85 * costs[1]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"alpha": 3.0}, "settings.alpha was"), ({"seed": 9}, "settings.seed was"), ({}, "the examples are others")],
)
def test_resume_refuses_another_run(change: dict[str, Any], field: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    run_labeling(reviews(12), AccountingEngine(tokenizer), FAST, trace_path=path)
    other = reviews(12) if change else reviews(12, seed=1)
    with pytest.raises(ResumeError, match=f"cannot resume: {field}"):
        run_labeling(other, AccountingEngine(tokenizer), replace(FAST, **change), trace_path=path, resume=True)


def test_sum_and_mean_objective_differ_by_the_count(tokenizer: Any) -> None:
    dataset = reviews(10)
    labelled = {p: dataset.label_space.labels[p % 2] for p in range(10)}
    order = draw_order(labelled, np.random.default_rng(0))
    utilities = []
    for objective in ("mean", "sum"):
        batch = problem(AccountingEngine(tokenizer), dataset, replace(FAST, objective=objective))
        utilities.append(batch.evaluate(labelled, order).utility)
    assert utilities[1] == pytest.approx(10 * utilities[0])


@pytest.mark.parametrize("joint", [True, False])
def test_joint_proposals_mend_many_labels_at_once(joint: bool, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 20.0)  # a model that is sure of most examples
    dataset, engine = reviews(40), AccountingEngine(tokenizer)
    sure = labels(run_labeling(dataset, engine, SearchConfig(algorithm="zero-shot")))
    config = SearchConfig(init="random", initial_examples=40, max_iterations=1, joint_proposals=joint, shots=None)
    found = labels(run_labeling(dataset, engine, config))
    agreement = np.mean([found[key] == sure[key] for key in sure])
    assert agreement > 0.9 if joint else agreement < 0.75


@pytest.mark.parametrize("init", ["random", "bootstrap"])
def test_earlier_orders_propose_and_the_present_one_judges(
    init: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 0.5)  # orders disagree, so some proposals are rejected
    found, dataset = list[dict[str, Any]](), reviews(24)
    config = replace(FAST, init=init, max_iterations=200)
    run_labeling(dataset, AccountingEngine(tokenizer), config, on_progress=seen(found))
    names, preferred, proposals = dataset.label_space.labels, {}, {"joint": 0, "single": 0}
    for row in found:
        if row["type"] in ("start", "order"):
            preferred = {key: names[int(np.argmax(values))] for key, values in row["preferences"].items()}
        if row["type"] == "order":
            assert row["accepted"] == (row["delta"] > 0)
            assert all(preferred[key] == label for key, label in row["changes"].items())
            proposals["joint"] += bool(row["changes"])
        elif row["type"] == "decision" and row["previous"] is not None and row["example"] in preferred:
            assert row["proposal"] == preferred[row["example"]]
            proposals["single"] += row["proposal"] != row["previous"]
    assert min(proposals.values()) > 0, "a run without such proposals tests nothing"


def test_a_short_search_labels_a_long_rest(tokenizer: Any) -> None:
    examples = [ICMExample(f"Note {number}\nMood:") for number in range(400)]
    dataset = ICMDataset(examples, LabelSpace(("calm", "happy"), (" calm", " happy")), "notes", "classification")
    config = replace(FAST, max_iterations=2, batch_size=400, final_orders=1)
    result = run_labeling(dataset, AccountingEngine(tokenizer, context_length=4000), config)
    assert len(labels(result)) == 400
    assert result.metadata["usage"]["computed_tokens"] < 4 * 400 * 10 * 9  # a few sweeps of n·log2(n) demonstrations


@pytest.fixture(scope="module", params=DEVICES)
def engine(request: pytest.FixtureRequest) -> Any:
    with create_engine(EngineConfig(engine="transformers", device=request.param, deterministic=True)) as engine:
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
    with pytest.raises(KeyboardInterrupt):
        run_labeling(dataset, engine, config, trace_path=path, on_progress=interrupted_after(len(found[0]) // 2))
    run_labeling(dataset, engine, config, trace_path=path, resume=True)
    assert rows(path) == found[0]


@pytest.mark.slow
def test_fresh_orders_undo_the_label_that_means_neighbourhood(engine: Engine) -> None:
    """In a fixed tree, one label a half is copied from the neighbours and looks coherent; no gold is needed for it."""
    dataset = reviews(24, seed=1)
    gold = load_task(DataSource("reviews")).gold
    golden = {position: gold[example.id] for position, example in enumerate(dataset)}
    batch = problem(engine, dataset, SearchConfig())
    known, fresh = (draw_order(golden, np.random.default_rng(seed)) for seed in range(2))
    names = dataset.label_space.labels
    neighbours = {position: names[2 * number // len(dataset)] for number, position in enumerate(known.settled)}

    unseen = batch.evaluate(neighbours, fresh).utility
    assert batch.evaluate(neighbours, known).utility > unseen
    assert batch.evaluate(golden, fresh).utility > unseen
