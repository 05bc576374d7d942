"""A model through its engine: zero-shot, many-shot and fine-tuned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.conditions.answers import Batch
from eval.conditions.base import answers, once, parts
from eval.conditions.pool import EnginePool, counters, spent
from eval.labels import Demonstrations, ordered
from icm.config import EngineConfig
from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace
from icm.prompts import PromptEncoder, Segment, shared_context_tree

# The base model's preamble: it sets the scene of a reliable assistant in our own words.
PREAMBLE = (
    "The following text comes from a careful assistant. It reads everything it is given to the end, says what is "
    "true even when many people believe otherwise, does not flatter, and gives each judgement in a single word.\n\n"
)


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
    _longest: list[int] = field(default_factory=list, init=False, compare=False, repr=False)

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        engine = engines.get(self.engine)
        encoder = PromptEncoder(engine.tokenizer, self.label_space)
        preamble = encoder.prefix + encoder.encode(self.preamble)
        longest = once(self._longest, lambda: max(len(encoder.query(example)) for example in self.held_out))
        room = engine.context_length - len(preamble) - longest - encoder.labels.depth
        shots = self._shots_that_fit(encoder, room)
        contexts = self._contexts(encoder, preamble, shots)
        facts = {"shots": shots, "shots_left_out": len(self.demonstrations) - shots} if self.demonstrations else {}
        for part in parts(examples):
            queries = [encoder.query(example) for example in part]
            before = counters(engine.usage)
            trees = [shared_context_tree(context, queries) for context in contexts]
            scores = [engine.score_labels(tree, encoder.labels) for tree in trees]
            prompts = [[(*context, *query) for context in contexts] for query in queries]
            yield Batch(answers(part, np.mean(scores, axis=0), prompts), spent(engine, before), facts)

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
