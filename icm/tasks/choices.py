"""What multiple-choice benchmarks share: each choice becomes a claim of its own."""

from collections.abc import Iterator, Sequence

from icm.tasks.base import Item, Record


def choice_items(
    question: str, choices: Sequence[str], right: int | None, prompt: str, group: str | None = None
) -> Iterator[Item]:
    """One claim a choice.

    Args:
        question: what is asked; the field `question`. The choice is the field `claim`.
        choices: their texts.
        right: index of the right one, or None if the record does not say.
        prompt: the question as a prompt that a choice continues, for preference pairs.
        group: text of the group where it is more than the question.
    """
    for number, choice in enumerate(choices):
        gold = None if right is None else str(number == right)
        yield Item(
            {"question": question, "claim": choice}, gold, group or question, prompt=prompt, completion=f" {choice}"
        )


def right_index(record: Record, name: str, names: Sequence[str]) -> int | None:
    """Index of the right choice, whose name (`0`, `A`, …) the field holds; None where it is absent, empty or -1."""
    value = record.fields.get(name)
    if value is None or str(value).strip() in ("", "-1"):
        return None
    if str(value).strip() not in names:
        raise record.error(name, f"one of {list(names)}")
    return list(names).index(str(value).strip())
