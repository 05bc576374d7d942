"""Answers to a question as claims to judge; multiple choice, where every choice is one."""

from collections.abc import Iterator, Sequence

from icm.tasks.base import Item, Record


def answer_item(
    question: str, claim: str, gold: str | None, prompt: str | None = None, answer: str | None = None
) -> Item:
    """The claim that this is the answer to the question.

    Args:
        question: what is asked; the field `question`.
        claim: the answer to judge; the field `claim`.
        gold: whether it is right.
        prompt: the question as a prompt that the claim continues, for preference pairs; None for the usual one.
        answer: normalised final answer that the claim states.
    """
    prompt = prompt or f"Question: {question}\nAnswer:"
    fields = {"question": question, "claim": claim}
    return Item(fields, gold, question, answer, prompt=prompt, completion=f" {claim}")


def choice_items(question: str, choices: Sequence[str], right: int | None, prompt: str | None = None) -> Iterator[Item]:
    """One claim a choice. `right` is the index of the right one, None if the record does not say which."""
    for number, choice in enumerate(choices):
        yield answer_item(question, choice, None if right is None else str(number == right), prompt)


def right_index(record: Record, name: str, names: Sequence[str]) -> int | None:
    """Index of the right choice, whose name (`0`, `A`, …) the field holds; None where it is absent, empty or -1."""
    value = record.fields.get(name)
    if value is None or str(value).strip() in ("", "-1"):
        return None
    if str(value).strip() not in names:
        raise record.error(name, f"one of {list(names)}")
    return list(names).index(str(value).strip())
