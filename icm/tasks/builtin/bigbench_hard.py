"""BIG-Bench Hard (Suzgun et al. 2022): records {input, target}.

The choices stand in the input, behind `Options:`, or follow from its form (yes/no, True/False). For free-form
subtasks a model writes candidate answers, and gold is equality with the target.
"""

import re
from collections.abc import Iterator

from icm.tasks.base import HubData, Item, Record, Task, candidates, signature
from icm.tasks.choices import answer_item, choice_items
from icm.text import normalised_text

_OPTION = re.compile(r"^(?:\(([A-Z])\)|-)\s*(.*\S)\s*$", re.MULTILINE)
_YES_NO = re.compile(
    r"(?:^|[.!:]\s+|\n)(?:is|are|does|do|did|was|were|can|could|would|will|has|have)\b[^.?]*\?", re.IGNORECASE
)


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    question, target = record.text("input"), record.optional_text("target")
    if "generated" in record.fields:
        for answer in candidates(record):
            gold = None if target is None else str(normalised_text(answer) == normalised_text(target))
            yield answer_item(question, answer, gold)
        return
    choices = _choices(question)
    right = next((i for i, choice in enumerate(choices) if target is not None and _is_target(choice, target)), None)
    if right is None and target is not None:
        raise record.error("target", f"one of the choices {choices}")
    yield from choice_items(question, choices, right)


def question(record: Record) -> tuple[str, str] | None:
    """The prompt for candidate answers of a free-form record."""
    text = record.text("input")
    return None if _choices(text) else (text, f"Question: {text}\nAnswer:")


def _choices(text: str) -> list[str]:
    options = [f"({m[1]}) {m[2]}" if m[1] else m[2] for m in _OPTION.finditer(text.partition("Options:")[2])]
    if options:
        return options
    if re.fullmatch(r"(?:True|False|and|or|not|[() ])+\s+is", text):
        return ["True", "False"]
    return ["Yes", "No"] if _YES_NO.search(text) else []


def _is_target(choice: str, target: str) -> bool:
    letter = re.match(r"\(([A-Z])\) ", choice)
    forms = [choice, *([letter[1], f"({letter[1]})", choice[letter.end() :]] if letter else [])]
    return normalised_text(target) in map(normalised_text, forms)


TASK = Task(
    name="bigbench_hard",
    items=items,
    signatures=(signature("input", "target"),),
    gold_fields=frozenset({"target"}),
    hub=(HubData("lukaemon/bbh", "boolean_expressions", "test", "test"),),
    question=question,
)
