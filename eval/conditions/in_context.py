"""The conditions: small frozen objects with one method, `answer`, that gives label log-probabilities item by item."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eval.conditions.answers import Answer, Batch, prompt_hash
from eval.conditions.pool import EnginePool, counters, spent
from eval.labels import Demonstrations, ordered
from icm.config import EngineConfig
from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace
from icm.prompts import PromptEncoder, Segment, shared_context_tree

ITEMS_PER_BATCH = 16

# The base model's preamble: it sets the scene of a reliable assistant in our own words.
PREAMBLE = (
    "The following text comes from a careful assistant. It reads everything it is given to the end, says what is "
    "true even when many people believe otherwise, does not flatter, and gives each judgement in a single word.\n\n"
)
CHAT_INSTRUCTION = "Read the text below and complete its last line. Reply with exactly one of these and nothing else: "


class Condition(Protocol):
    """Something that answers the held-out items."""

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """Answer the items in order, batch by batch."""
        ...


@dataclass(frozen=True)
class Majority:
    """The most frequent label of the training part, with its frequency as probability.

    Attributes:
        labels: gold labels of the training part.
    """

    labels: tuple[str, ...]
    label_space: LabelSpace

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        counts = Counter(self.labels)
        share = (np.array([counts[label] for label in self.label_space.labels]) + 1.0) / (
            len(self.labels) + len(self.label_space.labels)
        )
        log_probs = tuple(np.log(share).tolist())
        yield Batch(tuple(Answer(example.id, log_probs) for example in examples))


@dataclass(frozen=True)
class InContext:
    """A model through its engine, behind a preamble, demonstrations, or nothing: zero-shot, many-shot and fine-tuned.

    All prompts share one context. Demonstrations that do not fit in front of the longest query are left out, and the
    number is kept in `Batch.facts`; a query is never cut.

    Attributes:
        engine: model, with its adapter if it is fine-tuned.
        held_out: all items: the longest one decides how many demonstrations fit, for a continued run as for a whole.
        demonstrations: labelled examples, the same for all many-shot conditions of a seed.
        orders: random orders of the demonstrations over which log-probabilities are averaged.
        seed: of these orders.
    """

    engine: EngineConfig
    label_space: LabelSpace
    held_out: tuple[ICMExample, ...]
    preamble: str = ""
    demonstrations: Demonstrations = ()
    orders: int = 1
    seed: int = 0

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        engine = engines.get(self.engine)
        encoder = PromptEncoder(engine.tokenizer, self.label_space)
        preamble = encoder.prefix + token_ids(engine.tokenizer, self.preamble)
        longest = max(len(encoder.query(example)) for example in self.held_out)
        room = engine.context_length - len(preamble) - longest
        shots = self._shots_that_fit(encoder, room)
        contexts = self._contexts(encoder, preamble, shots)
        facts = {"shots": shots, "shots_left_out": len(self.demonstrations) - shots} if self.demonstrations else {}
        for part in _parts(examples):
            queries = [encoder.query(example) for example in part]
            before = counters(engine.usage)
            scores = [engine.score(shared_context_tree(context, queries), encoder.label_ids) for context in contexts]
            prompts = [[(*context, *query) for context in contexts] for query in queries]
            answers = _answers(part, np.mean(scores, axis=0), prompts)
            yield Batch(answers, spent(engine, before), facts)

    def _shots_that_fit(self, encoder: PromptEncoder, room: int) -> int:
        """How many demonstrations fit, counted with the longest label, so that conditions that differ in labels alone
        keep the same ones."""
        sizes = [
            max(len(encoder.demonstration(example, label)) for label in self.label_space.labels)
            for example, _ in self.demonstrations
        ]
        shots = int(np.searchsorted(np.cumsum(sizes), room, side="right")) if sizes else 0
        if room < 0 or (sizes and not shots):
            raise ConfigError(
                f"the longest query leaves room for {room} tokens, which holds no demonstration; "
                "raise engine.max_model_len or choose shorter items"
            )
        return shots

    def _contexts(self, encoder: PromptEncoder, preamble: Segment, shots: int) -> list[Segment]:
        """The context in every order."""
        kept = self.demonstrations[:shots]
        orders = [ordered(kept, self.seed, order) for order in range(self.orders if kept else 1)]
        return [preamble + encoder.context(order)[len(encoder.prefix) :] for order in orders]


@dataclass(frozen=True)
class LocalChat:
    """A chat model through its chat template: the user asks for one word, the reply's first token is scored.

    Attributes:
        engine: the chat model.
    """

    engine: EngineConfig
    label_space: LabelSpace

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        engine = engines.get(self.engine)
        label_ids = self._label_ids(engine.tokenizer)
        prompts = {example.id: self._prompt(engine.tokenizer, example) for example in examples}
        shared = common_prefix(list(prompts.values()))
        for part in _parts(examples):
            asked = [prompts[example.id] for example in part]
            tree = shared_context_tree(asked[0][:shared], [prompt[shared:] for prompt in asked])
            before = counters(engine.usage)
            scores = engine.score(tree, label_ids)
            yield Batch(_answers(part, scores, asked), spent(engine, before))

    def _prompt(self, tokenizer: Any, example: ICMExample) -> Segment:
        if not tokenizer.chat_template:
            raise ConfigError(
                f"model {self.engine.model}: no chat template, so not a chat model; name one with the "
                "condition's `model`"
            )
        # Models that can think first are told not to: the first token of the reply has to be the label.
        text = tokenizer.apply_chat_template(
            chat_messages(example, self.label_space), add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        return token_ids(tokenizer, text)

    def _label_ids(self, tokenizer: Any) -> list[int]:
        words = label_words(self.label_space)
        first = [token_ids(tokenizer, word)[0] for word in words]
        if len(set(first)) != len(first):
            raise ConfigError(f"replies {words} share their first token in {self.engine.model}; set data.verbalisers")
        return first


def label_words(label_space: LabelSpace) -> list[str]:
    """The words a chat model replies with: the verbalisers without their leading space."""
    return [text.strip() for text in label_space.verbalisers]


def chat_messages(example: ICMExample, label_space: LabelSpace) -> list[dict[str, str]]:
    """The chat prompt. The instruction comes first, so that prompts share it as a prefix."""
    instruction = f"{CHAT_INSTRUCTION}{', '.join(label_words(label_space))}."
    return [{"role": "user", "content": f"{instruction}\n\n{example.input}"}]


def token_ids(tokenizer: Any, text: str) -> Segment:
    """Ids of text that stands on its own (a preamble, a rendered chat), without special tokens added."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def _parts(examples: Sequence[ICMExample]) -> Iterator[Sequence[ICMExample]]:
    for start in range(0, len(examples), ITEMS_PER_BATCH):
        yield examples[start : start + ITEMS_PER_BATCH]


def _answers(part: Sequence[ICMExample], scores: Any, prompts: Sequence[Any]) -> tuple[Answer, ...]:
    if not np.isfinite(scores).all():
        raise FloatingPointError(f"the engine returned {scores[~np.isfinite(scores)][0]} as a log-probability")
    rows = zip(part, scores.tolist(), prompts, strict=True)
    return tuple(Answer(example.id, tuple(row), prompt_hash=prompt_hash(prompt)) for example, row, prompt in rows)


def common_prefix(prompts: Sequence[Segment]) -> int:
    """Tokens that all prompts start with; every prompt keeps at least one of its own."""
    limit = min(map(len, prompts)) - 1
    return next((k for k in range(limit) if len({prompt[k] for prompt in prompts}) > 1), limit)
