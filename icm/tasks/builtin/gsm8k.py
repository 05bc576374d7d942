"""GSM8K verification (Cobbe et al. 2021): is this solution of the problem right?

Reads given solutions: {question, solution, is_correct} rows, or OpenAI's `example_model_solutions.jsonl`, where each
model's key holds {solution, is_correct}. The hub data set has right solutions only, so there a model writes the
candidates, and gold is equality of the final answers.
"""

import re
from collections.abc import Iterator

from icm.consistency import MathConsistencyRule
from icm.tasks.base import HubData, Item, Record, Task, candidates, signature
from icm.tasks.choices import answer_item
from icm.text import final_answer, same_answer

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    question = record.text("question")
    for solution, gold in _solutions(record):
        claim = _CALCULATOR.sub("", solution)
        yield answer_item(question, claim, gold, answer=final_answer(claim))


def _solutions(record: Record) -> Iterator[tuple[str, str | None]]:
    if "generated" in record.fields:
        right = record.optional_text("answer")
        for text in candidates(record):
            yield text, None if right is None else str(same_answer(text, right))
    elif "solution" in record.fields:
        yield record.text("solution"), record.truth("is_correct", "label")
    else:
        for name in _model_keys(record):
            written = record.inner(name)
            yield written.text("solution"), written.truth("is_correct")


def _model_keys(record: Record) -> list[str]:
    return [name for name, value in record.fields.items() if isinstance(value, dict) and "solution" in value]


def question(record: Record) -> tuple[str, str] | None:
    """The prompt for candidate solutions, where none is given."""
    if "solution" in record.fields or _model_keys(record):
        return None
    text = record.text("question")
    return text, f"Question: {text}\nAnswer: Let's think step by step."


TASK = Task(
    name="gsm8k",
    items=items,
    signatures=(
        signature("question", "answer"),
        signature("question", "solution"),
        signature("question", "ground_truth"),
        signature("question", "6b_finetuning"),
    ),
    gold_fields=frozenset({"is_correct", "label", "answer", "ground_truth"}),
    rules=(MathConsistencyRule(),),
    hub=(HubData("openai/gsm8k", "main", "train", "test"),),
    question=question,
    stated=final_answer,
)
