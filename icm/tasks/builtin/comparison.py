"""Which of two responses is better: {chosen, rejected} pairs, or a query, two responses and which is better.

Each pair is asked in both orders, so that the position of the better response says nothing and the two examples can
contradict each other (`ComparisonConsistencyRule`). `label` is True (or "A") if response A is the better one. A tie
is an example without a label: gold does not decide which examples there are.

For instructions without responses ({prompt} or {instruction}; name the task, `--task-type comparison`) a model writes
them, and each is compared with one other.

Reads TRL's preference data (explicit and implicit prompts, texts and messages with or without content parts),
ShareGPT's turns, the paper's files {question, choice, choice_2, label}, AlpacaEval's and the arena's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from icm.consistency import ComparisonConsistencyRule
from icm.tasks.base import HubData, Item, Record, Task, candidates, signature

QUERIES = ("query", "prompt", "question", "instruction", "conversations")
PAIRS = (
    ("response_a", "response_b"),
    ("choice", "choice_2"),
    ("output_1", "output_2"),
    ("response_0", "response_1"),
    ("response_1", "response_2"),
)
_INSTRUCTIONS = ("prompt", "instruction")
_RESPONSES = {"chosen", "rejected", "conversation_a", "conversation_b", *(name for pair in PAIRS for name in pair)}
GOLD = ("label", "winner", "preference", "better_response_id")
_TURN = re.compile(r"\n\n(?=(?:Human|Assistant):)")
_ROLES = {"user": "Human", "human": "Human", "system": "System", "assistant": "Assistant", "gpt": "Assistant"}
_A, _B = {"a", "model_a", "response_a", "chatbot_a"}, {"b", "model_b", "response_b", "chatbot_b"}


def items(record: Record) -> Iterator[Item]:
    """See `Task.items`."""
    if "generated" in record.fields:
        found = candidates(record)
        for a, b in zip(found[::2], found[1::2], strict=False):
            yield from _both_ways(record.text(*_INSTRUCTIONS), a, b, None)
        return
    query, a, b = _compared(record)
    label = "True" if "chosen" in record.fields else _label(record)
    if not a or not b or a == b:
        return  # published preference data has empty and equal replies: there is nothing to compare
    yield from _both_ways(query, a, b, None if label == "tie" else label)


def _both_ways(query: str, a: str, b: str, label: str | None) -> Iterator[Item]:
    swapped = None if label is None else str(label == "False")
    ab = {"query": query, "response_a": a, "response_b": b}
    ba = {"query": query, "response_a": b, "response_b": a}
    for fields, inverse, gold in ((ab, ba, label), (ba, ab, swapped)):
        completion = f" {fields['response_a']}"
        yield Item(fields, gold, query, inverse=inverse, prompt=f"Query: {query}\nResponse:", completion=completion)


def question(record: Record) -> tuple[str, str] | None:
    """The instruction, for a model to answer, where the record has no response."""
    if not any(name in record.fields for name in _INSTRUCTIONS) or not _RESPONSES.isdisjoint(record.fields):
        return None
    text = record.text(*_INSTRUCTIONS)
    return text, f"Instruction: {text}\nResponse:"


def _compared(record: Record) -> tuple[str, str, str]:
    """The query and its two replies."""
    if "chosen" in record.fields:
        return _dialogues(record, "chosen", "rejected")
    if "conversation_a" in record.fields:
        return _dialogues(record, "conversation_a", "conversation_b")
    a, b = next((pair for pair in PAIRS if pair[0] in record.fields and pair[1] in record.fields), PAIRS[0])
    return _query(record) or record.text(*QUERIES), _text(record, a), _text(record, b)


def _dialogues(record: Record, a: str, b: str) -> tuple[str, str, str]:
    """Query and replies of two dialogues. Those that hold their query (hh-rlhf) share their first turns."""
    first, second = _turns(record, a), _turns(record, b)
    same = [x == y for x, y in zip(first, second, strict=False)]
    shared = first[: (*same, False).index(False)]
    query = _query(record) or _plain(shared)
    if not query:
        raise record.error(b, f"a dialogue that starts as `{a}` does, or a field `prompt`")
    return query, _plain(first[len(shared) :]), _plain(second[len(shared) :])


def _query(record: Record) -> str | None:
    name = next((name for name in QUERIES if name in record.fields), None)
    return None if name is None else _text(record, name)


def _text(record: Record, name: str) -> str:
    return record.text(name) if isinstance(record.fields.get(name), str) else _plain(_turns(record, name))


def _turns(record: Record, name: str) -> list[str]:
    """The turns of a dialogue in a field: messages (one, or a list of them), or text."""
    value = record.fields.get(name)
    messages = [value] if isinstance(value, Mapping) else value
    if isinstance(messages, list) and messages and all(isinstance(turn, Mapping) for turn in messages):
        shown = record.called.get(name, name)
        return [_turn(Record(f"{record.where}: field '{shown}[{i}]'", turn)) for i, turn in enumerate(messages)]
    return [turn.strip() for turn in _TURN.split(f"\n\n{record.text(name)}") if turn.strip()]


def _turn(message: Record) -> str:
    """A message {role, content} or, as ShareGPT has it, {from, value}; the content may come in parts of text."""
    role = message.text("role", "from")
    name = "content" if "content" in message.fields else "value" if "value" in message.fields else "content"
    content = message.fields.get(name)
    if isinstance(content, list):
        where = f"{message.where}: {name}"
        parts = [Record(where, part if isinstance(part, Mapping) else {"text": part}) for part in content]
        return f"{_ROLES.get(role, role)}: {chr(10).join(part.text('text') for part in parts)}"
    return f"{_ROLES.get(role, role)}: {message.text(name)}"


def _plain(turns: Sequence[str]) -> str:
    """Turns as one text; a single one without its speaker."""
    if len(turns) == 1:
        return re.sub(r"^(?:Human|Assistant):", "", turns[0]).strip()
    return "\n".join(turns)


def _label(record: Record) -> str | None:
    """Whether the first response is the better one: "True", "False" or "tie"; None where the record does not say."""
    if "winner_model_a" in record.fields:  # the arena's files on Kaggle
        found = [record.truth(f"winner_{name}") for name in ("model_a", "model_b")]
        return "True" if found[0] == "True" else "False" if found[1] == "True" else "tie"
    name = next((name for name in GOLD if record.fields.get(name) is not None), GOLD[0])
    value = str(record.fields.get(name, "")).strip().lower()
    if value in _A or value in _B:
        return str(value in _A)
    if value.startswith("tie") or value.startswith("both"):
        return "tie"
    if name == "preference" and value:  # AlpacaEval: 1 for the first, 2 for the second, in between where a model judged
        number = _number(record, name)
        return None if number is None else "tie" if number in (0, 1.5) else str(number < 1.5)
    if name == "better_response_id":
        return {"0": "True", "1": "False"}.get(record.label(name))
    return record.truth(name)


def _number(record: Record, name: str) -> float | None:
    try:
        number = float(str(record.fields[name]))
    except ValueError:
        raise record.error(name, "a number from 1 (the first is better) to 2 (the second is)") from None
    if number != number or number == -1:
        return None
    if not 0 <= number <= 2:
        raise record.error(name, "a number from 1 (the first is better) to 2 (the second is)")
    return number


TASK = Task(
    name="comparison",
    items=items,
    signatures=(
        signature("chosen", "rejected"),
        *(signature(query, *pair) for pair in PAIRS for query in QUERIES),
        signature("conversation_a", "conversation_b"),
    ),
    template="Query: {query}\nResponse A: {response_a}\nResponse B: {response_b}\n"
    "Claim: Response A is more helpful and harmless than Response B\nI think this Claim is",
    gold_fields=frozenset(
        {
            "chosen",
            "rejected",
            "score_chosen",
            "score_rejected",
            *GOLD,
            *(f"winner_{w}" for w in ("model_a", "model_b")),
        }
    ),
    rules=(ComparisonConsistencyRule(),),
    hub=(HubData("Anthropic/hh-rlhf", None, "train", "test"),),
    question=question,
)
