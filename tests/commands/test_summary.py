"""What `icm run` says at its end: the labels, those given among them, the verdict, and what to do before training."""

from dataclasses import replace

import pytest

from icm.commands.run import _summary
from icm.examples import TRUSTED, ICMExample, LabelSpace
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord

USAGE = {"computed_tokens": 1200, "plain_tokens": 4800, "unchanged_tokens": 0, "seconds": 2.0}


def result(odds: float, given: int = 0) -> ICMResult:
    """64 labels of these log-odds, half True; of the given ones the first is predicted wrongly."""
    items = [
        LabeledExample(
            ICMExample(f"claim {n:03d}", {TRUSTED: True} if n < given else {}),
            "True" if n % 2 else "False",
            -1.0 if given and n == 0 else odds + n % 3 / 10,
        )
        for n in range(64)
    ]
    return ICMResult(items, -12.5, LabelSpace(), "claims", RunRecord(algorithm="icm", usage=USAGE), "my labels.jsonl")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (result(2.0), "read some before you train on them (icm review 'my labels.jsonl' --count 20"),
        (result(-0.1), "a few labels of yours may help (icm ask 'my labels.jsonl' --by influence"),
        (result(2.0, given=8), "of the 8 given labels the model tells 7 from all others"),
        (result(-0.1, given=8), "says well how many found ones are right: read some"),
    ],
)
def test_each_verdict_is_followed_by_what_to_do(labels: ICMResult, said: str) -> None:
    counts, *_, advice, cost = _summary(labels).splitlines()
    assert counts.startswith("64 examples: 32 True, 32 False") and said in advice and cost.startswith("1,200 tokens")
    assert (", 8 of them given;" in counts) == any(item.trusted for item in labels.labeled_examples)


def test_labels_that_nobody_judged_have_no_verdict_and_no_advice() -> None:
    random = result(2.0)
    record = replace(random.record, algorithm="random")
    assert len(_summary(replace(random, record=record)).splitlines()) == 2
