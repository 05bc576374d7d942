"""Consistency rules: each fires where it must, stays silent elsewhere; the index agrees with a plain scan."""

import sys
import time
from collections.abc import Iterable, Sequence
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.beside import beside
from support.search_runs import task_index

from icm.consistency import (
    AtMostOneTrueRule,
    ComparisonConsistencyRule,
    ConsistencyRule,
    ExactlyOneTrueRule,
    GroupRule,
    IdenticalTextRule,
    LogicalConsistencyChecker,
    MathConsistencyRule,
)
from icm.consistency.rules import load_rule
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, LabelSpace, Relations, example_id
from icm.search.checks import rules_for
from icm.tasks import DataSource, load_task
from icm.text import final_answer, normalised_text

T, F = "True", "False"
BOTH = [(T, T), (T, F), (F, T), (F, F)]
SPACE = LabelSpace()


def solution(text: str, group: str | None = "q", answer: str | None = None, inverse: str | None = None) -> ICMExample:
    return ICMExample(text, {}, Relations(group, answer, inverse))


def options(rule: ConsistencyRule, a: ICMExample, b: ICMExample) -> list[tuple[str, str]]:
    """Options for (a, b), whatever their order in the data set."""
    dataset = ICMDataset([a, b])
    index = LogicalConsistencyChecker([rule]).index(dataset)
    i, j = dataset.examples.index(a), dataset.examples.index(b)
    return index.options(i, j, SPACE)


# --------------------------------------------------------------------------------------------------------------- rules
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (("q", "4"), ("q", "4"), [(T, T), (F, F)]),  # same answer, same label
        (("q", "4"), ("q", "5"), [(T, F), (F, T), (F, F)]),  # different answers are not both True
        (("q", "4"), ("r", "4"), BOTH),  # another problem
        (("q", "4"), ("q", None), BOTH),  # no answer stated
        ((None, None), (None, None), BOTH),
    ],
)
def test_math_rule_reads_relations(
    a: tuple[str | None, str | None], b: tuple[str | None, str | None], expected: list[tuple[str, str]]
) -> None:
    assert options(MathConsistencyRule(), solution("first", *a), solution("second", *b)) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("What is 2+2?", "What is 3+3?", BOTH),  # the documented example: nothing to compare
        ("2 + 2 = 4", "2 + 2 = 5", [(T, F), (F, T), (F, F)]),
        ("2 + 2 = 4", "2  + 2 = 4.0", [(T, T), (F, F)]),
        ("2 + 2 = 4", "2 + 3 = 5", BOTH),
        (
            "Question: Six pens at $2?\nClaim: 6 * 2 = 12, so $12.\nI think this Claim is",
            "Question: Six pens at $2?\nClaim: 6 + 2 = 8. But he pays 12\nI think this Claim is",
            [(T, T), (F, F)],  # the final answer counts, not the first equation
        ),
        (
            "Question: Six pens?\nClaim: 12\nI think this Claim is",
            "Question: Six pencils?\nClaim: 13\nI think this Claim is",
            BOTH,
        ),
    ],
)
def test_math_rule_reads_plain_texts(a: str, b: str, expected: list[tuple[str, str]]) -> None:
    assert options(MathConsistencyRule(), ICMExample(a), ICMExample(b)) == expected


def test_comparison_rule_wants_opposite_labels_of_inverse_pairs_only() -> None:
    a = solution("A before B", inverse=example_id("B before A"))
    b = solution("B before A", inverse=a.id)
    stranger = solution("C before D", inverse=example_id("D before C"))
    one_sided = solution("B before A", inverse=None)
    assert options(ComparisonConsistencyRule(), a, b) == [(T, F), (F, T)]
    assert options(ComparisonConsistencyRule(), a, one_sided) == [(T, F), (F, T)]
    assert options(ComparisonConsistencyRule(), a, stranger) == BOTH


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Good  camera.", "good camera", True),
        ("Claim: No.\nI think", "claim: no\nI think", True),
        ("\ufb01ne", "fine", True),
        ("Good camera", "Bad camera", False),
        ("It works!", "It works?", False),
        ("1.5", "15", False),
    ],
)
def test_identical_text_rule(a: str, b: str, same: bool) -> None:
    assert options(IdenticalTextRule(), ICMExample(a), ICMExample(b)) == ([(T, T), (F, F)] if same else BOTH)


def test_identical_text_rule_takes_any_labels() -> None:
    dataset = ICMDataset([ICMExample("good"), ICMExample("Good")], LabelSpace(("x", "y", "z")))
    index = task_index(dataset)
    assert index.options(0, 1, dataset.label_space) == [("x", "x"), ("y", "y"), ("z", "z")]


@pytest.mark.parametrize("rule", [AtMostOneTrueRule(), ExactlyOneTrueRule()])
def test_group_rules_forbid_two_true_within_a_group(rule: ConsistencyRule) -> None:
    assert options(rule, solution("a"), solution("b")) == [(T, F), (F, T), (F, F)]
    assert options(rule, solution("a", "q"), solution("b", "r")) == BOTH
    assert options(rule, solution("a", None), solution("b", None)) == BOTH


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_exactly_one_notices_that_none_is_true(size: int) -> None:
    dataset = ICMDataset([solution(f"choice {i}") for i in range(size)] + [solution("other", "r")])
    members = [i for i, e in enumerate(dataset) if e.relations.group == "q"]
    index = LogicalConsistencyChecker([ExactlyOneTrueRule()]).index(dataset)
    none = dict.fromkeys(members, F)
    broken = index.violations(none)
    assert len(broken) == (size + 1) // 2 and {i for pair in broken for i in pair} == set(members)
    assert all(i < j for i, j in broken) and index.violations_of(members[0], none) == broken
    for missing in members:
        assert index.violations({i: F for i in members if i != missing}) == [], "a group not yet labelled throughout"
        assert index.violations({**none, missing: T}) == []
    assert index.violations({**none, members[0]: T, members[1]: T}) == [(members[0], members[1])]
    assert LogicalConsistencyChecker([AtMostOneTrueRule()]).index(dataset).violations(none) == []


def test_default_rules_follow_the_task() -> None:
    kinds = {task: [type(rule).__name__ for rule in rules_for(task)] for task in ("gsm8k", "comparison", "truthfulqa")}
    assert kinds["gsm8k"] == ["MathConsistencyRule", "IdenticalTextRule"]
    assert kinds["comparison"] == ["ComparisonConsistencyRule", "IdenticalTextRule"]
    assert kinds["truthfulqa"] == ["IdenticalTextRule"]  # several answers of a question may be right
    assert [type(rule).__name__ for rule in rules_for("made by hand")] == ["IdenticalTextRule"]


# ----------------------------------------------------------------------------------------------------- rules of users
class SameFirstLetter:
    """A user's rule: texts that start alike are labelled alike."""

    def keys(self, example: ICMExample) -> Iterable[str]:
        return [example.input[:1]]

    def consistent(self, a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
        return label_a == label_b


class NoRule:
    pass


class NeedsArguments:
    def __init__(self, size: int) -> None:
        self.size = size


def test_rule_by_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_package.my_rules", sys.modules[__name__])
    rule = load_rule("my_package.my_rules:SameFirstLetter")
    assert options(rule, ICMExample("apple"), ICMExample("avocado")) == [(T, T), (F, F)]
    assert options(rule, ICMExample("apple"), ICMExample("banana")) == BOTH
    assert isinstance(load_rule("icm.consistency:ExactlyOneTrueRule"), GroupRule)


@pytest.mark.parametrize(
    "path", ["nonsense", "no.such.module:Rule", "icm.consistency:Nope", ":Rule", "icm.consistency:"]
)
def test_rule_that_cannot_be_loaded(path: str) -> None:
    with pytest.raises(ConfigError, match=f"consistency rule '{path}'"):
        load_rule(path)


@pytest.mark.parametrize("name", ["NoRule", "NeedsArguments"])
def test_class_that_is_no_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_rules", sys.modules[__name__])
    with pytest.raises(ConfigError, match=f"my_rules:{name}"):
        load_rule(f"my_rules:{name}")


# --------------------------------------------------------------------------------------------------------- the index
GROUPS = st.sampled_from([None, "q", "r"])
ANSWERS = st.sampled_from([None, "1", "2"])
TEXTS = st.sampled_from(["a", "A", "b", "c", "d ", "d", "e", "f"])
LABELS = ("True", "False", "Perhaps")


@st.composite
def datasets(draw: st.DrawFn) -> ICMDataset:
    texts = draw(st.lists(TEXTS, min_size=2, max_size=8, unique=True))
    inverses = st.sampled_from([None, *map(example_id, texts)])
    examples = [ICMExample(t, {}, Relations(draw(GROUPS), draw(ANSWERS), draw(inverses))) for t in texts]
    return ICMDataset(examples, LabelSpace(LABELS))


ALL_RULES: Sequence[ConsistencyRule] = (
    *(MathConsistencyRule(), ComparisonConsistencyRule(), IdenticalTextRule(), AtMostOneTrueRule()),
    ExactlyOneTrueRule(),
)
RULES = st.lists(st.sampled_from(ALL_RULES), unique=True)


def holds(rules: Sequence[ConsistencyRule], a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
    """The definition, without an index: every rule that has both examples under one key is content."""
    related = [rule for rule in rules if set(rule.keys(a)) & set(rule.keys(b))]
    return all(rule.consistent(a, label_a, b, label_b) for rule in related)


@given(dataset=datasets(), rules=RULES)
def test_options_are_exactly_the_consistent_ones(dataset: ICMDataset, rules: list[ConsistencyRule]) -> None:
    index = LogicalConsistencyChecker(rules).index(dataset)
    for i, j in product(range(len(dataset)), repeat=2):
        if i == j:
            continue
        expected = [(x, y) for x, y in product(LABELS, LABELS) if holds(rules, dataset[i], x, dataset[j], y)]
        assert index.options(i, j, dataset.label_space) == expected
        assert {(y, x) for x, y in index.options(j, i, dataset.label_space)} == set(expected), "not symmetric"
        shared = any(set(rule.keys(dataset[i])) & set(rule.keys(dataset[j])) for rule in rules)
        assert (j in index.neighbours[i]) == shared == (i in index.neighbours[j])
        assert shared or len(expected) == len(LABELS) ** 2


@given(dataset=datasets(), rules=RULES, data=st.data())
def test_violations_are_exactly_the_inconsistent_pairs(
    dataset: ICMDataset, rules: list[ConsistencyRule], data: st.DataObject
) -> None:
    positions = data.draw(st.sets(st.sampled_from(range(len(dataset)))))
    labels = {i: data.draw(st.sampled_from(LABELS)) for i in sorted(positions)}
    index = LogicalConsistencyChecker(rules).index(dataset)
    pairwise = [
        (i, j)
        for i, j in combinations(sorted(labels), 2)
        if not holds(rules, dataset[i], labels[i], dataset[j], labels[j])
    ]
    violations = index.violations(labels)
    assert violations == sorted(set(violations)) and set(pairwise) <= set(violations)
    if not any(isinstance(rule, GroupRule) for rule in rules):
        assert violations == pairwise
    for i in range(len(dataset)):
        assert {pair for pair in violations if i in pair} <= set(index.violations_of(i, labels)) <= set(violations)


@settings(max_examples=400, deadline=None)
@given(dataset=datasets(), rules=RULES, data=st.data())
def test_relabelling_one_example_changes_only_its_own_violations(
    dataset: ICMDataset, rules: list[ConsistencyRule], data: st.DataObject
) -> None:
    labels = {i: data.draw(st.sampled_from(LABELS)) for i in range(len(dataset))}
    i = data.draw(st.sampled_from(range(len(dataset))))
    changed = {**labels, i: data.draw(st.sampled_from(LABELS))}
    index = LogicalConsistencyChecker(rules).index(dataset)
    before, after = (set(index.violations(x)) - set(index.violations_of(i, x)) for x in (labels, changed))
    assert before == after
    total = [len(index.violations(x)) for x in (labels, changed)]
    own = [len(index.violations_of(i, x)) for x in (labels, changed)]
    assert total[1] - total[0] == own[1] - own[0]


# ------------------------------------------------------------------------------------------------------ final answers
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 16 - 3 = 13 eggs.\nA: 13", "13"),
        ("A: $1,200.00", "1200"),
        ("so it is 5.\n#### 72", "72"),
        ("so it is 5.\n####72\nThat is all 9 of it", "72"),
        ("Thus \\boxed{3/4} of it", "3/4"),
        ("Thus 0.75", "3/4"),
        ("The answer is 18 dollars for 2 people", "18"),
        ("Answer: 3 + 4 = 7 apples", "7"),
        ("A: 20%", "20"),
        ("A: \u22123", "-3"),
        ("A: -$5", "-5"),
        ("A: .50", "1/2"),
        ("He pays 5-3", "3"),
        ("x = 4, then y = 12 pens", "12"),
        ("A: 007", "7"),
        ("A: 1\nA: 2", "2"),
        ("A: seven", None),
        ("no number", None),
        ("", None),
        ("A: 1/0", "1/0"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@given(st.text())
def test_final_answer_and_normal_form_never_fail(text: str) -> None:
    answer = final_answer(text)
    assert answer is None or answer
    assert normalised_text(normalised_text(text)) == normalised_text(text)


# ----------------------------------------------------------------------------------------------------------- real data
def test_synthetic_rules_fire_and_agree_with_gold() -> None:
    math = load_task(DataSource("synthetic:math", size=60))
    index = task_index(math.dataset)
    truth = {i: math.gold[e.id] for i, e in enumerate(math.dataset)}
    assert index.violations(truth) == [] and len(index.violations(dict.fromkeys(truth, T))) == 60
    pairs = load_task(DataSource("synthetic:comparison", size=9_900))
    index = task_index(pairs.dataset)
    truth = {i: pairs.gold[e.id] for i, e in enumerate(pairs.dataset)}
    assert index.violations(truth) == [] and all(len(found) == 1 for found in index.neighbours)
    assert len(index.violations(dict.fromkeys(truth, F))) == 4_950


@pytest.mark.parametrize(
    ("file", "most", "all_true"),
    [("gsm8k/example_model_solutions.jsonl", 2_560, 800), ("hh_rlhf/harmless-base-test.jsonl.gz", 2_560, 1_200)],
)
def test_rules_fire_on_real_data_but_never_against_gold(file: str, most: int, all_true: int) -> None:
    data = load_task(DataSource(str(beside(f"data/{file}")), max_examples=most))
    start = time.perf_counter()
    index = task_index(data.dataset)
    truth = {i: data.gold[e.id] for i, e in enumerate(data.dataset)}
    assert index.violations(truth) == []
    assert len(index.violations(dict.fromkeys(truth, T))) > all_true
    assert time.perf_counter() - start < 10, "too slow for 2,560 examples"
    assert max(map(len, index.neighbours)) < 20, "relates what does not belong together"


def test_final_answers_agree_with_the_published_verdicts() -> None:
    from icm.files import read_jsonl

    rows = [row for _, row in read_jsonl(beside("data/gsm8k/example_model_solutions.jsonl"))]
    models = [row[name] for row in rows for name in row if isinstance(row[name], dict)]
    expected = [final_answer(row["ground_truth"]) for row in rows for name in row if isinstance(row[name], dict)]
    verdicts = [final_answer(m["solution"]) == e for m, e in zip(models, expected, strict=True)]
    assert len(verdicts) == 5_276 and verdicts == [m["is_correct"] for m in models]
