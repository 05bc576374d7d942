"""Where all questions are asked the same claims, what a model thinks of a claim is taken out of each by itself."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.search_runs import FAST, groups, problem, reviews

from eval.conditions.answers import Answer
from eval.scores import ScoredRun
from icm.calibration import OWN, calibrate, calibrate_claims, label_bias, over_labels
from icm.config import EngineConfig, SearchConfig
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.errors import ResumeError
from icm.examples import ICMDataset, ICMExample, Relations, claim_of_each
from icm.labelling.session import run_labeling
from icm.results.trust import judged
from icm.tasks import load_task
from icm.tasks.source import DataSource

TEMPLATE = "Review: {review}\nClaim: {claim}\nI think this Claim is"
CLAIMS = ("The reviewer is satisfied", "The reviewer is dissatisfied")


def asked(folder: Path, count: int, claims: tuple[str, ...] = CLAIMS) -> ICMDataset:
    """So many of the built-in reviews with each of the claims, from a file."""
    rows = [
        {"review": review.metadata["text"], "claim": claim} for review in reviews(count).examples for claim in claims
    ]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = DataSource(
        str(folder / "asked.jsonl"),
        "classification",
        template=TEMPLATE,
        group_field="review",
        verbalisers={"True": " True", "False": " False"},
    )
    return load_task(source).dataset


def example(group: int, **columns: str) -> ICMExample:
    return ICMExample(f"{group} {columns}", columns, Relations(f"question {group}"))


def numbers(*examples: ICMExample) -> list[int]:
    return claim_of_each(examples).tolist()


def test_claims_are_told_by_the_column_that_all_questions_share(tmp_path: Path) -> None:
    dataset = asked(tmp_path, 12)
    assert [CLAIMS[2 - number] for number in claim_of_each(dataset.examples)] == [e.metadata["claim"] for e in dataset]


def test_two_columns_that_all_questions_share_make_four_claims() -> None:
    sides = [(who, tone) for who in ("buyer", "seller") for tone in ("glad", "sorry")]
    found = numbers(*(example(group, who=who, tone=tone, text=str(group)) for group in range(6) for who, tone in sides))
    assert found == [*found[:4]] * 6 and sorted(found[:4]) == [1, 2, 3, 4]


def test_one_question_in_ten_may_be_asked_otherwise() -> None:
    rows = [example(group, claim=claim) for group in range(10) for claim in "ab"]
    assert numbers(*rows[:-1]) == [1, 2] * 9 + [1]
    assert numbers(*rows[:-1], example(9, claim="b!")) == [1, 2] * 9 + [1, 0]
    assert set(numbers(*rows[:-3], rows[-2])) == {0}


def test_trusted_examples_that_stand_alone_in_a_batch_change_nothing() -> None:
    rows = [example(group, claim=claim) for group in range(20) for claim in "ab"]
    alone = [example(group, claim="a") for group in range(20, 50)]
    assert set(numbers(*rows, *alone)) == {0}
    assert claim_of_each([*rows, *alone], {one.id for one in alone}).tolist() == [1, 2] * 20 + [1] * 30


@pytest.mark.parametrize(
    "examples",
    [
        reviews(12).examples,
        groups(6, 4).examples,
        [example(group, answer=f"{group} {place}") for group in range(6) for place in range(3)],
        [example(group, kind="ab"[group % 2]) for group in range(12)],
        [example(group, stars=str(n % 3), text=f"{group} {n}") for group in range(6) for n in range(9)],
        [example(group, model=name, answer=f"{group} {name}") for group in range(12) for name in "abc"],
        [example(0, answer=str(place)) for place in range(12)],
        [example(0)],
    ],
    ids=[
        "one claim",
        "no columns",
        "answers of their own",
        "a kind of question",
        "stars of many reviews",
        "authors of answers",
        "one question",
        "one example",
    ],
)
def test_other_examples_make_one_claim(examples: Any) -> None:
    assert set(numbers(*examples)) == {0}


def test_each_claim_is_calibrated_by_itself_if_it_has_items_enough() -> None:
    rng = np.random.default_rng(0)
    gold, claims = rng.integers(2, size=40), np.repeat([0, 1, 2], [20, 21 - OWN, OWN - 1])
    told = 2 * np.eye(2)[gold] + np.where(claims[:, None] == 1, [5, 0], [0, 5]) + rng.normal(scale=0.2, size=(40, 2))
    found, together = calibrate_claims(told, claims, label_bias), calibrate(told, label_bias(told))
    assert (found[claims < 2].argmax(axis=1) == gold[claims < 2]).all()
    assert np.array_equal(found[claims == 2], together[claims == 2])
    assert (together[claims < 2].argmax(axis=1) == gold[claims < 2]).mean() < 0.7
    assert np.array_equal(calibrate_claims(told, np.zeros(40, int), label_bias), together)


@pytest.mark.parametrize("shots", [None, 4])
@pytest.mark.parametrize("calibration", ["batch", "prototypical", "contextual", "none"])
def test_every_answer_of_a_search_is_calibrated_within_its_claim(
    tokenizer: Any, tmp_path: Path, shots: int | None, calibration: str
) -> None:
    """An engine that believes one claim, whatever the review: its preference is gone but for `none`."""
    dataset = asked(tmp_path, 12)

    class Biased(AccountingEngine):
        def score(self, tree: Any, label_ids: Any) -> Any:
            prompts = [tokenizer.decode(list(tokens)) for _, tokens in sorted(tree.paths())]
            believed = [CLAIMS[1] in prompt.rpartition("Claim:")[2] for prompt in prompts]
            return over_labels(super().score(tree, label_ids) + 9.0 * np.outer(believed, [1, 0]))

    config = replace(FAST, shots=shots, calibration=calibration)
    scorer = problem(Biased(tokenizer), dataset, config).scorer
    labels = {p: dataset.label_space.labels[p % 2] for p in range(20)}
    order = scorer.draw(labels, np.random.default_rng(0))
    sweep = scorer.sweep(labels, order)
    rest = list(range(20, 24))
    rows = np.zeros((24, 2))
    rows[list(sweep.positions)] = sweep.log_probs
    rows[rest] = scorer.proposals(labels, sweep, order, rest)
    for found in (rows, scorer.zero_shot(range(24))):
        apart = np.diff([(found[scorer.claims == claim] @ [1, -1]).mean() for claim in (1, 2)])
        assert (abs(apart) > 5) == (calibration == "none"), apart


def test_a_run_says_so_and_resumes_no_trace_that_was_calibrated_otherwise(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = tmp_path / "run.trace.jsonl"
    config = replace(FAST, algorithm="bootstrap", calibration="prototypical", shots=4)
    with caplog.at_level("INFO"):
        run_labeling(asked(tmp_path, 12), AccountingEngine(tokenizer), config, trace_path=trace)
        assert "the same 2 claims" in caplog.text
        assert "labels are calibrated over 12 examples" in caplog.text and "10 answers are too few" in caplog.text
        caplog.clear()
        run_labeling(reviews(24), AccountingEngine(tokenizer), config)
        assert not caplog.text
    header, rest = trace.read_text(encoding="utf-8").split("\n", 1)
    old = {key: value for key, value in json.loads(header).items() if key != "calibrated"}
    trace.write_text(json.dumps(old) + "\n" + rest, encoding="utf-8")
    with pytest.raises(ResumeError, match="calibrated was 'all claims together' and is now 'claim by claim'"):
        run_labeling(asked(tmp_path, 12), AccountingEngine(tokenizer), config, trace_path=trace, resume=True)


def test_a_held_out_item_is_calibrated_among_those_of_its_claim() -> None:
    claims = 1 + np.arange(24) % 2
    log_probs = over_labels(np.random.default_rng(1).normal(size=(24, 2)) + 6.0 * np.outer(claims == 1, [1, 0]))
    answers = tuple(Answer(str(item), tuple(row)) for item, row in enumerate(log_probs))
    run: Any = SimpleNamespace(config=SimpleNamespace(kind="many-shot"))
    batch = ScoredRun(run, answers, {}, {}, ("True", "False"), claims).batch
    assert batch is not None
    assert np.allclose([(batch[claims == claim] @ [1, -1]).mean() for claim in (1, 2)], 0)


def test_the_embedded_model_tells_reviews_apart_by_two_claims_each(tmp_path: Path) -> None:
    """Calibrated together, all claims of one wording are True to it, whatever the review: half of its labels right."""
    dataset, gold = asked(tmp_path, 16), load_task(DataSource("reviews"))
    praised = {example.metadata["text"] for example in gold.dataset if gold.gold[example.id] == "positive"}
    with create_engine(EngineConfig(model="embedded")) as engine:
        result = run_labeling(dataset, engine, SearchConfig(algorithm="bootstrap", rules=("exactly-one",), seed=1))
    found = [(item.label == "True", item.example.metadata) for item in result.labeled_examples]
    right = [label == ((about["claim"] == CLAIMS[0]) == (about["review"] in praised)) for label, about in found]
    assert np.mean(right) > 0.7
    trust = judged(result)
    assert trust is not None and trust.verdict != "nothing found" and not trust.cue.flagged
