"""Consistency within the search: Algorithm 2, and what joint proposals do in its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.search_runs import FAST, groups, labels, pairs, problem, rows, task_index

from icm.config import SearchConfig
from icm.consistency import LogicalConsistencyChecker, MathConsistencyRule
from icm.engines.accounting import AccountingEngine
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, LabelSpace, Relations
from icm.labelling.session import run_labeling
from icm.search import published
from icm.search.algorithm import Search, Standing
from icm.search.checks import check_rules
from icm.search.joint import Joint
from icm.search.repair import Repairs, make_consistent
from icm.search.trees import draw_order


def test_joint_proposals_are_consistent(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.engines.accounting.AGREEMENT", 0.5)
    dataset = pairs(12)
    batch = problem(AccountingEngine(tokenizer), dataset, replace(FAST, alpha=0.05))
    joint = Joint(batch, {})
    labelled = {p: dataset.label_space.labels[p % 2] for p in range(24)}
    state = batch.evaluate(labelled, draw_order(labelled, np.random.default_rng(0)))
    found = joint.at_fresh_order(state, state)
    preferred = {p: batch.likeliest(row) for p, row in joint.preferences.items()}
    assert batch.checks.violations(preferred), "preferences that are consistent anyway test nothing"
    assert not batch.checks.violations(found.labels)


@pytest.mark.parametrize(("known", "partner", "sweeps"), [(True, 0.6, 1), (True, 0.9, 0), (False, 0.6, 1)])
def test_a_proposal_takes_its_partner_along(
    known: bool, partner: float, sweeps: int, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithm 2 would sweep the broken labels and both consistent ones of the pair."""
    dataset, noted = pairs(6), []
    engine = AccountingEngine(tokenizer)
    batch = problem(engine, dataset, replace(FAST, alpha=1))
    monkeypatch.setattr("icm.search.algorithm.drawn", lambda *_: 0)
    neighbours = batch.checks.neighbours
    (other,) = neighbours[0]
    consistent = {p: str(p > neighbours[p][0]) for p in range(12) if p > 0 or known}
    state = batch.evaluate(consistent, draw_order(consistent, np.random.default_rng(0)))
    # Both prefer True: the example drawn, which has another label or none, and its partner, which has that label.
    joint = Joint(batch, {other: np.log([partner, 1 - partner])})
    search = Search(batch, joint, noted.append, Standing(iteration=1))
    (joint.preferences if known else search._ahead)[0] = np.log([0.8, 0.2])
    before = engine.usage.prompts
    search.step(state)
    assert engine.usage.prompts - before == sweeps * len(dataset)
    assert noted[0].proposal != noted[0].previous
    assert noted[0].changes.keys() == ({dataset[0].id, dataset[other].id} if sweeps else set())
    assert noted[0].inconsistencies == 0


def test_a_proposal_that_changes_nothing_mends_nothing(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep has rejected would come back at every draw, each time with another chance."""
    noted, batch = [], problem(AccountingEngine(tokenizer), pairs(6), replace(FAST, alpha=0.1))
    monkeypatch.setattr("icm.search.algorithm.drawn", lambda *_: 0)
    search = Search(batch, Joint(batch, {0: np.log([0.8, 0.2])}), noted.append, Standing(iteration=1))
    broken = dict.fromkeys(range(12), "True")
    search.step(batch.evaluate(broken, draw_order(broken, np.random.default_rng(0))))
    assert noted[0].inconsistencies == 6
    assert not noted[0].changes


@pytest.mark.parametrize("examples", [2, 20])
@pytest.mark.parametrize("objective", ["mean", "sum"])
def test_what_a_fix_costs_is_weighed_as_in_u(objective: Any, examples: int, tokenizer: Any) -> None:
    config = replace(FAST, alpha=1, objective=objective)
    batch = problem(AccountingEngine(tokenizer), pairs(examples // 2), config)
    sure = {p: np.log([0.9, 0.1]) for p in range(examples)}  # a fix costs 2.2 nats and mends one inconsistency
    found = Joint(batch, {}).mended(dict.fromkeys(range(examples), "True"), sure)
    assert bool(batch.checks.violations(found)) == (objective == "sum" or examples == 2)


def test_published_search_fixes_by_sweeps(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.search.joint.make_consistent", lambda *arguments: pytest.fail("not Algorithm 2"))
    fixed, fix = [], published.consistencyfix
    monkeypatch.setattr(published, "consistencyfix", lambda *given: fixed.append(fix(*given)) or fixed[-1])
    config = replace(FAST, joint_proposals=False, init="random", alpha=1)
    run_labeling(pairs(6), AccountingEngine(tokenizer), config)
    assert len(fixed) > 2


@pytest.mark.parametrize("init", ["random", "zero-shot", "bootstrap"])
def test_a_search_starts_from_consistent_labels(init: Any, tokenizer: Any, tmp_path: Path) -> None:
    path, dataset = tmp_path / "t.jsonl", pairs(6)
    config = replace(FAST, init=init, initial_examples=12, max_iterations=1, alpha=0.1)
    run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path)
    (start,) = [row for row in rows(path) if row["type"] == "start"]
    assert not task_index(dataset).violations({p: start["changes"][e.id] for p, e in enumerate(dataset)})


@pytest.mark.parametrize(("dataset", "rules"), [(groups(6, 4), ("exactly-one",)), (pairs(12), ())])
def test_joint_proposals_cost_a_fraction_of_algorithm_2(
    dataset: ICMDataset, rules: tuple[str, ...], tokenizer: Any
) -> None:
    tokens, scores = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    for joint in (True, False):
        for seed in range(4):
            engine = AccountingEngine(tokenizer, seed=seed)
            config = SearchConfig(max_iterations=96, seed=seed, rules=rules, joint_proposals=joint, shots=None)
            scores[joint] += run_labeling(dataset, engine, config).score
            tokens[joint] += engine.usage.computed_tokens
    assert tokens[True] < 0.5 * tokens[False]
    assert scores[True] > scores[False]


@pytest.mark.parametrize(("weight", "mended"), [(0.0, True), (0.5, True), (1.5, False)])
def test_an_inconsistency_is_mended_where_that_costs_less(weight: float, mended: bool) -> None:
    dataset = pairs(1)
    log_probs = {0: np.array([0.0, -3.0]), 1: np.array([0.0, -1.0])}  # both prefer True; the second by one nat
    repairs = Repairs(task_index(dataset), dataset.label_space, log_probs, weight)
    found = make_consistent({0: "True", 1: "True"}, repairs)
    assert found == {0: "True", 1: "False" if mended else "True"}


@pytest.mark.parametrize("joint", [True, False])
def test_consistency_is_restored_and_rejected_proposals_leave_nothing(
    joint: bool, tokenizer: Any, tmp_path: Path
) -> None:
    dataset = pairs(10)
    path = tmp_path / "t.jsonl"
    config = replace(FAST, alpha=0.05, joint_proposals=joint)
    result = run_labeling(dataset, AccountingEngine(tokenizer), config, trace_path=path)
    index = task_index(dataset)
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
    batch = problem(AccountingEngine(tokenizer), pairs(3), replace(FAST, alpha=0.01))
    broken = dict.fromkeys(range(6), "True")
    state = batch.evaluate(broken, draw_order(broken, np.random.default_rng(0)))
    assert state.inconsistencies == 3
    fixed = published.consistencyfix(batch, state, np.random.default_rng(0))
    assert fixed.inconsistencies == 0
    assert fixed.utility > state.utility
    assert broken == dict.fromkeys(range(6), "True") == state.labels


def test_mending_goes_on_while_it_helps() -> None:
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
        mended += bool(index.violations(given))
        log_probs = dict(enumerate(np.log(rng.dirichlet([1, 1], len(dataset)))))
        found = make_consistent(given, Repairs(index, dataset.label_space, log_probs))
        assert not index.violations(found)
    assert mended > 30


def test_bootstrap_mends_groups_that_break_a_rule(tokenizer: Any) -> None:
    dataset = groups(6, 4)
    config = SearchConfig(algorithm="bootstrap", rules=("exactly-one",))
    found = labels(run_labeling(dataset, AccountingEngine(tokenizer), config))
    true = [sum(found[e.id] == "True" for e in dataset if e.group == f"question {group}") for group in range(6)]
    assert true == [1] * 6


def test_rules_on_claims_of_a_group_need_a_true_label_and_groups() -> None:
    named = SearchConfig(rules=("exactly-one",))
    check_rules(named, groups(4, 3))
    check_rules(SearchConfig(), pairs(4))
    alone = ICMDataset([ICMExample(f"claim {n}", relations=Relations(group=f"{n}")) for n in range(4)], LabelSpace())
    with pytest.raises(ConfigError, match=r"rules exactly-one: no two of the 4 examples belong.*--group-field"):
        check_rules(named, alone)
    stars = replace(groups(4, 3), label_space=LabelSpace(("right", "wrong"), (" True", " False")))
    with pytest.raises(ConfigError, match=r"rules exactly-one: .*the labels are \['right', 'wrong'\].*--label-map"):
        check_rules(named, stars)
