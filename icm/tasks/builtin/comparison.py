"""Which of two responses is better: {chosen, rejected} pairs, or {query, response_a, response_b[, label]}.

Each pair is asked in both orders, so that the position of the better response says nothing and the two examples can
contradict each other (`ComparisonConsistencyRule`). `label` is True (or "A") if response A is the better one.
"""

import re
from collections.abc import Iterator

from icm.consistency import ComparisonConsistencyRule
from icm.tasks.base import HubData, Item, Record, Task, signature

_TURN = re.compile(r"\n\n(?=(?:Human|Assistant):)")
_ROLES = {"user": "Human", "system": "System", "assistant": "Assistant"}


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    query, a, b, label = _preference(record) if "chosen" in record.fields else _labelled(record)
    if not a or not b or a == b:
        return  # published preference data has empty and equal replies: there is nothing to compare
    swapped = None if label is None else str(label == "False")
    ab = {"query": query, "response_a": a, "response_b": b}
    ba = {"query": query, "response_a": b, "response_b": a}
    for fields, inverse, gold in ((ab, ba, label), (ba, ab, swapped)):
        completion = f" {fields['response_a']}"
        yield Item(fields, gold, query, inverse=inverse, prompt=f"Query: {query}\nResponse:", completion=completion)


def _labelled(record: Record) -> tuple[str, str, str, str | None]:
    value = record.fields.get("label")
    named = {"A": "True", "B": "False", "a": "True", "b": "False"}
    label = named[value] if isinstance(value, str) and value in named else record.truth("label")
    return record.text("query", "prompt"), record.text("response_a"), record.text("response_b"), label


def _preference(record: Record) -> tuple[str, str, str, str]:
    """Query, the two replies and the label. Dialogues (hh-rlhf) share their first turns: those are the query."""
    first, second = _turns(record, "chosen"), _turns(record, "rejected")
    same = [a == b for a, b in zip(first, second, strict=False)]
    shared = first[: (*same, False).index(False)]
    if "prompt" in record.fields:
        query = record.text("prompt")
    elif shared:
        query = _plain(shared)
    else:
        raise record.error("rejected", "a dialogue that starts as `chosen` does, or a field `prompt`")
    return query, _plain(first[len(shared) :]), _plain(second[len(shared) :]), "True"


def _turns(record: Record, name: str) -> list[str]:
    value = record.fields.get(name)
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        inner = [Record(f"{record.where}: field '{name}[{i}]'", turn) for i, turn in enumerate(value)]
        return [f"{_ROLES.get(turn.text('role'), turn.text('role'))}: {turn.text('content')}" for turn in inner]
    return [turn.strip() for turn in _TURN.split(f"\n\n{record.text(name)}") if turn.strip()]


def _plain(turns: list[str]) -> str:
    """Turns as one text; a single one without its speaker."""
    if len(turns) == 1:
        return re.sub(r"^(?:Human|Assistant):", "", turns[0]).strip()
    return "\n".join(turns)


TASK = Task(
    name="comparison",
    items=items,
    signatures=(
        signature("chosen", "rejected"),
        signature("query", "response_a", "response_b"),
        signature("prompt", "response_a", "response_b"),
    ),
    template="Query: {query}\nResponse A: {response_a}\nResponse B: {response_b}\n"
    "Claim: Response A is more helpful and harmless than Response B\nI think this Claim is",
    gold_fields=frozenset({"chosen", "rejected", "label", "score_chosen", "score_rejected"}),
    rules=(ComparisonConsistencyRule(),),
    hub=(HubData("Anthropic/hh-rlhf", None, "train", "test"),),
)
