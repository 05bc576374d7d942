"""Result → rows for a trainer: SFT rows, label pairs, answer pairs. Pure functions without heavy imports.

`icm export` and `train/run.py` call the same ones.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf, log
from typing import Any

from icm.errors import ConfigError, DataError
from icm.examples import LabelSpace
from icm.results.format import ICMResult, LabeledExample

CHOSEN, REJECTED = "True", "False"

_QUESTIONS = ("question", "query", "prompt_text")
"""Where tasks keep what is asked."""
_TURN = re.compile(r"\n(System|Human|Assistant): ")
_ROLES = {"System": "system", "Human": "user", "Assistant": "assistant"}
"""As `icm.tasks.builtin.comparison` writes dialogues."""


@dataclass(frozen=True)
class Rows:
    """Rows for a trainer or a file, and what was left out.

    Attributes:
        rows: JSON objects in result order.
        dropped: reason → count; the reason says what is counted (examples, questions, pairs).
    """

    rows: list[dict[str, Any]]
    dropped: dict[str, int] = field(default_factory=dict)


def confidence_to_log_odds(confidence: float) -> float:
    """ln p/(1-p) of a confidence threshold p. Raises ConfigError unless 0 < p < 1."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence_threshold: found {confidence}, expected a probability above 0 and below 1")
    return log(confidence / (1 - confidence))


def sft_rows(result: ICMResult, *, conversational: bool = False, min_log_odds: float | None = None) -> Rows:
    """Rows in TRL's prompt/completion form: the input, and the verbaliser of its label (`" True"`).

    Args:
        result: labels of an ICM, golden, random or bootstrap run.
        conversational: messages instead of text; the chat template then brings the space before the label.
        min_log_odds: leave out labels with smaller log-odds (nats), and labels without any.
    """
    kept, dropped = confident_examples(result.labeled_examples, min_log_odds)
    rows = [
        {
            "prompt": _turn("user", item.example.input, conversational),
            "completion": _turn("assistant", _verbaliser(result.label_space, item.label), conversational),
        }
        for item in kept
    ]
    return Rows(rows, dropped)


def label_pairs(
    result: ICMResult, *, conversational: bool = False, min_log_odds: float | None = None, seed: int = 42
) -> Rows:
    """DPO rows for tasks without answer texts: one an example, its label chosen over another label.

    With more than two labels the rejected one is drawn from (seed, example id).
    """
    kept, dropped = confident_examples(result.labeled_examples, min_log_odds)
    space = result.label_space
    rows = []
    for item in kept:
        others = [label for label in space.labels if label != item.label]
        other = random.Random(f"{seed}:{item.example.id}").choice(others)
        texts = item.example.input, _verbaliser(space, item.label), _verbaliser(space, other)
        rows.append(_preference(*texts, conversational))
    return Rows(rows, dropped)


def right_answers(result: ICMResult, *, margin: float = 0.0, chat: bool = False) -> Rows:
    """SFT rows of answers: each distinct answer labelled True behind its question.

    Args:
        result: labels True and False.
        margin: the label has at least these log-odds (nats); 0 takes labels without log-odds too.
        chat: say the question as `messages` as well, for a chat template.

    Raises:
        DataError: the label space lacks True or False.
    """
    _need_truth(result)
    kept, reasons = confident_examples(result.labeled_examples, margin or None)
    answers = [item for item in kept if has_answer(item)]
    right = {_texts(item): item for item in answers if item.label == CHOSEN}
    rows: list[dict[str, Any]] = [
        {"prompt": prompt, "completion": _spaced(prompt, answer), **({"messages": messages_of(item)} if chat else {})}
        for (prompt, answer), item in right.items()
    ]
    dropped = Counter(reasons)
    dropped["examples without an answer text"] = len(kept) - len(answers)
    dropped["answers labelled False, or repeated"] = len(answers) - len(right)
    return Rows(rows, {reason: count for reason, count in dropped.items() if count})


def answer_pairs(
    result: ICMResult,
    *,
    max_pairs: int | None = None,
    conversational: bool = False,
    min_log_odds: float | None = None,
    seed: int = 42,
    margin: float = 0.0,
    chat: bool = False,
) -> Rows:
    """DPO rows within a question: an answer labelled True chosen over an answer labelled False.

    Answers are the examples' metadata `prompt` and `completion`, which tasks with answer texts write; questions
    are the examples' groups, or for comparisons each pair of responses.

    Args:
        result: labels True and False.
        max_pairs: at most this many pairs a question, drawn from (seed, question); None takes all combinations.
        conversational: messages instead of text.
        min_log_odds: both labels of a pair have at least these log-odds (nats).
        seed: of the draw.
        margin: the log-odds of a pair's labels have at least this sum (nats): so much surer is the labeler that the
            chosen answer is right than that the rejected one is. 0 takes labels without log-odds too.
        chat: say the question as `messages` as well, for a chat template.

    Raises:
        DataError: the label space lacks True or False.
        ConfigError: `max_pairs` below 1.
    """
    _need_truth(result)
    if max_pairs is not None and max_pairs < 1:
        raise ConfigError(f"max_pairs: found {max_pairs}, expected at least 1")
    kept, reasons = confident_examples(result.labeled_examples, min_log_odds)
    answers = [item for item in kept if has_answer(item)]
    dropped = Counter(reasons)
    dropped["examples without an answer text"] = len(kept) - len(answers)
    rows: list[dict[str, Any]] = []
    for key, items in _competing(answers).items():
        pairs, asked = _distinct_pairs(items, margin, dropped), {_texts(item)[0]: item for item in items}
        chosen = _draw(pairs, max_pairs, f"{seed}:{key}")
        dropped[f"pairs above {max_pairs} a question"] += len(pairs) - len(chosen)
        rows += [
            _preference(p, _spaced(p, good), _spaced(p, bad), conversational)
            | ({"messages": messages_of(asked[p])} if chat else {})
            for p, good, bad in chosen
        ]
    return Rows(rows, {reason: count for reason, count in dropped.items() if count})


def _need_truth(result: ICMResult) -> None:
    if not {CHOSEN, REJECTED} <= set(result.label_space.labels):
        raise DataError(f"answer pairs need the labels True and False, found {list(result.label_space.labels)}")


def left_out(dropped: Mapping[str, int]) -> str:
    """`Rows.dropped` as text."""
    return "; ".join(f"{count} {reason}" for reason, count in dropped.items()) or "nothing"


def has_answer(item: LabeledExample) -> bool:
    """Whether the example carries an answer text for `answer_pairs`."""
    return all(isinstance(item.example.metadata.get(key), str) for key in ("prompt", "completion"))


def _texts(item: LabeledExample) -> tuple[str, str]:
    """Prompt and completion of an example that `has_answer`."""
    return str(item.example.metadata["prompt"]), str(item.example.metadata["completion"])


def confident_examples(
    items: Sequence[LabeledExample], min_log_odds: float | None
) -> tuple[list[LabeledExample], dict[str, int]]:
    """The examples whose labels have at least these log-odds (nats), or are trusted, and what was left out (see
    `Rows.dropped`)."""
    if min_log_odds is None:
        return list(items), {}
    scored = [item for item in items if item.trusted or item.log_odds is not None]
    kept = [item for item in scored if item.trusted or (item.log_odds is not None and item.log_odds >= min_log_odds)]
    dropped = {
        "examples without log-odds": len(items) - len(scored),
        f"examples with log-odds below {min_log_odds:g}": len(scored) - len(kept),
    }
    return kept, {reason: count for reason, count in dropped.items() if count}


def _competing(items: Iterable[LabeledExample]) -> dict[str, list[LabeledExample]]:
    """Examples whose answers compete: the two directions of a comparison, otherwise all answers to a question."""
    sets: dict[str, list[LabeledExample]] = {}
    for item in items:
        inverse = item.example.relations.inverse
        # A question may have several comparisons; of two winners or losers nothing is known.
        key = item.example.group if inverse is None else min(item.example.id, inverse)
        sets.setdefault(key, []).append(item)
    return sets


def _distinct_pairs(
    items: Sequence[LabeledExample], margin: float, dropped: Counter[str]
) -> list[tuple[str, str, str]]:
    """Distinct (prompt, chosen, rejected) of one question; counts in `dropped` what gives no pair."""
    chosen = [item for item in items if item.label == CHOSEN]
    rejected = [item for item in items if item.label == REJECTED]
    if not chosen or not rejected:
        dropped["questions whose answers all have the same label"] += 1
        return []
    every = list(product(chosen, rejected))
    sure = [pair for pair in every if not margin or _margin(*pair) >= margin]
    texts = [(*_texts(good), _texts(bad)[1]) for good, bad in sure]
    different = [pair for pair in texts if pair[1].strip() != pair[2].strip()]
    distinct = list(dict.fromkeys(different))
    dropped[f"pairs with a margin below {margin:g}"] += len(every) - len(sure)
    dropped["pairs of equal answers"] += len(texts) - len(different)
    dropped["repeated pairs"] += len(different) - len(distinct)
    return distinct


def _margin(one: LabeledExample, other: LabeledExample) -> float:
    """Sum of the log-odds of both labels (nats); a trusted one is certain, so the other's alone count. Twins keep the
    labeler's, so that they lose the same pairs."""
    found = [item.log_odds for item in (one, other) if not item.trusted]
    return sum(value if value is not None else -inf for value in found) if found else inf


def messages_of(item: LabeledExample) -> list[dict[str, str]]:
    """The question of an example that `has_answer` as chat messages: what it asks, without the words around it. A
    dialogue keeps its turns, the system's first one among them."""
    metadata = item.example.metadata
    text = next((str(metadata[name]) for name in _QUESTIONS if name in metadata), _texts(item)[0]).strip()
    turns = _TURN.split(f"\n{text}")
    if turns[0] or len(turns) < 3:  # no dialogue: it begins with something else than a speaker
        return [{"role": "user", "content": text}]
    return [
        {"role": _ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(turns[1::2], turns[2::2], strict=True)
    ]


def _draw(pairs: list[tuple[str, str, str]], limit: int | None, seed: str) -> list[tuple[str, str, str]]:
    if limit is None or len(pairs) <= limit:
        return pairs
    places = random.Random(seed).sample(range(len(pairs)), limit)
    return [pairs[place] for place in sorted(places)]


def _verbaliser(space: LabelSpace, label: str) -> str:
    return space.verbalisers[space.index(label)]


def _preference(prompt: str, chosen: str, rejected: str, conversational: bool) -> dict[str, object]:
    return {
        "prompt": _turn("user", prompt, conversational),
        "chosen": _turn("assistant", chosen, conversational),
        "rejected": _turn("assistant", rejected, conversational),
    }


def _spaced(prompt: str, answer: str) -> str:
    """TRL concatenates plain prompts and answers: make sure that a space parts them. Verbalisers have their own."""
    return answer if prompt[-1:].isspace() or answer[:1].isspace() else f" {answer}"


def _turn(role: str, text: str, conversational: bool) -> str | list[dict[str, str]]:
    return [{"role": role, "content": text.strip()}] if conversational else text
