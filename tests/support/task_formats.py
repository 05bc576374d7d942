"""One record of each task's format, with gold 0, 1 or absent (None)."""

from collections.abc import Callable, Sequence
from typing import Any

Gold = Sequence[int | None]
Row = dict[str, Any]


def without_none(row: Row) -> Row:
    return {key: value for key, value in row.items() if value is not None}


def named(gold: int | None, *names: Any) -> Any:
    return None if gold is None else names[gold]


def truthfulqa(i: int, gold: int | None) -> Row:
    labels = None if gold is None else [gold, 1 - gold, gold]
    targets = without_none({"choices": [f"Yes, {i}.", f"No, {i}.", f"Perhaps {i}."], "labels": labels})
    return {"question": f"Is {i} lucky?", "mc2_targets": targets}


def gsm8k(i: int, gold: int | None) -> Row:
    steps = f"{i} * 2 = <<{i}*2={2 * i}>>{2 * i}\nA: {2 * i}"
    return {
        "question": f"Ann has {i} pairs of socks. How many socks?",
        "6b_finetuning": without_none({"solution": steps, "is_correct": named(gold, False, True)}),
        "175b_finetuning": without_none({"solution": f"A: {i}", "is_correct": named(gold, True, False)}),
    }


def comparison(i: int, gold: int | None) -> Row:
    row = {"query": f"How do I boil {i} eggs?", "response_a": f"For {i} minutes.", "response_b": "No idea."}
    return without_none({**row, "label": named(gold, "A", "B")})


def classification(i: int, gold: int | None) -> Row:
    return without_none({"text": f"text number {i}", "label": named(gold, "spam", "ham")})


def prepared(i: int, gold: int | None) -> Row:
    text = f"Question: What is {i} + 1?\nClaim: {i} + 1 = {i + i % 2}\nI think this Claim is [True/False]"
    return {"input": text, "metadata": without_none({"task": "math", "gold_label": named(gold, "True", "False")})}


def hellaswag(i: int, gold: int | None) -> Row:
    return {"ctx": f"Man {i} runs.", "endings": ["He stops.", "He melts."], "label": named(gold, "0", "1") or ""}


def piqa(i: int, gold: int | None) -> Row:
    return {"goal": f"Open jar {i}.", "sol1": "Twist the lid.", "sol2": "Eat the lid.", "label": named(gold, 0, 1)}


def arc_challenge(i: int, gold: int | None) -> Row:
    choices = {"text": ["rock", "air"], "label": ["A", "B"]}
    return {"question": f"What is item {i} made of?", "choices": choices, "answerKey": named(gold, "A", "B") or ""}


def winogrande(i: int, gold: int | None) -> Row:
    row = {"sentence": f"Ann thanked Eve {i} times because _ helped.", "option1": "Ann", "option2": "Eve"}
    return {**row, "answer": named(gold, "1", "2") or ""}


def boolq(i: int, gold: int | None) -> Row:
    return without_none({"question": f"is {i} even", "passage": f"About {i}.", "answer": named(gold, True, False)})


def bigbench_hard(i: int, gold: int | None) -> Row:
    text = f"Which is case {i}?\nOptions:\n(A) left\n(B) right"
    return without_none({"input": text, "target": named(gold, "(A)", "(B)")})


def ifeval(i: int, gold: int | None) -> Row:
    row = {"prompt": f"Write {i} words.", "response": f"word {i}"}
    return without_none({**row, "follow_all_instructions": named(gold, True, False)})


FORMATS: dict[str, Callable[[int, int | None], Row]] = {
    make.__name__: make
    for make in (
        *(truthfulqa, gsm8k, comparison, classification, prepared, hellaswag),
        *(piqa, arc_challenge, winogrande, boolq, bigbench_hard, ifeval),
    )
}
VERBALISERS = {"classification": {"spam": " spam", "ham": " ham"}}
