"""Made-up data with known truth: `synthetic:math` (additions), `synthetic:comparison` (which number is larger) and
`synthetic:problems` (word problems of two or three steps, whose solutions a model writes first)."""

import random
from collections.abc import Iterator

from icm.consistency import ComparisonConsistencyRule, MathConsistencyRule
from icm.errors import ConfigError
from icm.tasks.base import Item, Record, Task, candidates
from icm.tasks.reading import refuse_named_split
from icm.tasks.source import DataSource
from icm.text import final_answer, same_answer

NUMBERS = range(1, 101)
LARGEST_ERROR = 10
MOST_PROBLEMS = 100_000
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Kim", "Leo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "toys")


def records(source: DataSource) -> Iterator[Record]:
    """`size` additions with a right and a wrong result each, or `size` comparisons; the same for the same seed."""
    refuse_named_split(source)
    kind = source.dataset.partition(":")[2]
    makers = {"math": _additions, "comparison": _comparisons}
    rng = random.Random(f"{source.dataset}:{source.seed}")
    if kind == "problems":
        yield from _problems(source, rng)
        return
    if kind not in makers:
        raise ConfigError(
            f"dataset: found {source.dataset!r}, expected synthetic:math, synthetic:comparison or synthetic:problems"
        )
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


def _problems(source: DataSource, rng: random.Random) -> Iterator[Record]:
    if source.size > MOST_PROBLEMS:
        raise ConfigError(f"size: found {source.size}, expected at most {MOST_PROBLEMS} problems")
    made: dict[str, int] = {}
    while len(made) < source.size:
        question, answer = _problem(rng)
        made.setdefault(question, answer)
    for number, (question, answer) in enumerate(made.items()):
        fields = {"kind": "problems", "question": question, "answer": f"#### {answer}"}
        yield Record(f"{source.dataset}: item {number}", fields)


def _problem(rng: random.Random) -> tuple[str, int]:
    """A question of two or three steps with small numbers, and its answer."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    a, b, c, d = (rng.randint(2, 12) for _ in range(4))
    few = rng.randint(1, b * c - 1)
    problems = (
        (
            f"{name} has {a} {things} and buys {b} boxes with {c} {things} each. Then {name} gives {few} {things} "
            f"away. How many {things} does {name} have now?",
            a + b * c - few,
        ),
        (
            f"A bus starts with {a + b + d} people. At the first stop {b} people get off and {c} get on. At the second "
            f"stop {d} people get off. How many people are on the bus now?",
            a + c,
        ),
        (
            f"A shop sells {things} at {a} dollars each and bags at {b} dollars each. {name} buys {c} {things} and {d} "
            "bags. How many dollars does that cost?",
            a * c + b * d,
        ),
        (
            f"{name} reads {a + b} pages on Monday, twice as many on Tuesday, and on Wednesday {b} fewer than on "
            f"Tuesday. How many pages does {name} read in the three days?",
            5 * (a + b) - b,
        ),
        (
            f"{name} earns {a} dollars an hour and works {b} hours on each of {c} days. {name} spends {few} dollars of "
            "that. How many dollars are left?",
            a * b * c - few,
        ),
        (
            f"{b} friends share {b * c} {things} equally. {name}, who is one of them, had {a} {things} before and now "
            f"buys {d} more. How many {things} does {name} have now?",
            a + c + d,
        ),
    )
    return rng.choice(problems)


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    kind, gold = record.text("kind"), record.truth("label")
    if kind == "problems":
        yield from _solutions(record)
        return
    if kind == "comparison":
        a, b = record.text("a"), record.text("b")
        group = " ".join(sorted((a, b)))
        yield Item(_comparison(a, b), gold, group, inverse=_comparison(b, a))
        return
    question, claim = record.text("question"), record.text("claim")
    fields = {"task": "math", "question": question, "text": f"Question: {question}\nClaim: {claim}"}
    prompt = f"Question: {question}\nAnswer:"
    yield Item(fields, gold, question, answer=final_answer(claim), prompt=prompt, completion=f" {claim}")


def _solutions(record: Record) -> Iterator[Item]:
    asked, right = record.text("question"), record.text("answer")
    for text in candidates(record):
        fields = {"task": "problems", "question": asked, "text": f"Question: {asked}\nClaim: {text}"}
        gold = str(same_answer(text, right))
        yield Item(fields, gold, asked, final_answer(text), prompt=solution_prompt(asked), completion=f" {text}")


def question(record: Record) -> tuple[str, str] | None:
    """The prompt for candidate solutions of a word problem."""
    if record.text("kind") != "problems":
        return None
    return record.text("question"), solution_prompt(record.text("question"))


def solution_prompt(asked: str) -> str:
    """How a word problem is asked: when solutions are written, learnt and measured."""
    return f"Question: {asked}\nAnswer: Let's think step by step."


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
    gold_fields=frozenset({"label", "answer"}),
    rules=(MathConsistencyRule(), ComparisonConsistencyRule()),
    records=records,
    question=question,
    stated=final_answer,
)
