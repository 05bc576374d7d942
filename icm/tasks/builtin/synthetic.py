"""Made-up claims with known truth: `synthetic:math` (additions) and `synthetic:comparison` (which number is larger)."""

import random
from collections.abc import Iterator

from icm.consistency import ComparisonConsistencyRule, MathConsistencyRule
from icm.errors import ConfigError
from icm.tasks.base import Item, Record, Task
from icm.tasks.reading import refuse_named_split
from icm.tasks.source import DataSource
from icm.text import final_answer

NUMBERS = range(1, 101)
LARGEST_ERROR = 10


def records(source: DataSource) -> Iterator[Record]:
    """`size` additions with a right and a wrong result each, or `size` comparisons; the same for the same seed."""
    refuse_named_split(source)
    kind = source.dataset.partition(":")[2]
    makers = {"math": _additions, "comparison": _comparisons}
    if kind not in makers:
        raise ConfigError(f"dataset: found {source.dataset!r}, expected synthetic:math or synthetic:comparison")
    rng = random.Random(f"{source.dataset}:{source.seed}")
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS if kind == "math" or a != b]
    if source.size > len(pairs):
        raise ConfigError(
            f"size: found {source.size}, expected at most {len(pairs)}, the distinct pairs of numbers 1-100"
        )
    for number, (a, b) in enumerate(rng.sample(pairs, source.size)):
        for fields in makers[kind](a, b, rng):
            yield Record(f"{source.dataset}: item {number}", {"kind": kind, **fields})


def _additions(a: int, b: int, rng: random.Random) -> Iterator[dict[str, str]]:
    error = rng.choice([d for d in range(-LARGEST_ERROR, LARGEST_ERROR + 1) if d != 0 and a + b + d > 0])
    for result, label in ((a + b, "True"), (a + b + error, "False")):
        yield {"question": f"What is {a} + {b}?", "claim": f"{a} + {b} = {result}", "label": label}


def _comparisons(a: int, b: int, rng: random.Random) -> Iterator[dict[str, str]]:
    yield {"a": str(a), "b": str(b), "label": str(a > b)}


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    gold = record.truth("label")
    if record.text("kind") == "comparison":
        a, b = record.text("a"), record.text("b")
        group = " ".join(sorted((a, b)))
        yield Item(_comparison(a, b), gold, group, inverse=_comparison(b, a))
        return
    question, claim = record.text("question"), record.text("claim")
    fields = {"task": "math", "question": question, "text": f"Question: {question}\nClaim: {claim}"}
    prompt = f"Question: {question}\nAnswer:"
    yield Item(fields, gold, question, answer=final_answer(claim), prompt=prompt, completion=f" {claim}")


def _comparison(a: str, b: str) -> dict[str, str]:
    text = (
        f"Query: Which number is larger?\nResponse A: {a}\nResponse B: {b}\nClaim: Response A is larger than Response B"
    )
    return {"task": "comparison", "text": text}


TASK = Task(
    name="synthetic",
    items=items,
    signatures=(),
    template="{text}\nI think this Claim is",
    gold_fields=frozenset({"label"}),
    rules=(MathConsistencyRule(), ComparisonConsistencyRule()),
    records=records,
)
