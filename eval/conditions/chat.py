"""Zero-shot chat with a local model; the chat prompt, which `server.py` asks too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from eval.conditions.answers import Batch
from eval.conditions.base import answers, common_prefix, once, parts
from eval.conditions.pool import EnginePool, counters, spent
from icm.config import EngineConfig
from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace
from icm.prompts import LabelTrie, Segment, Tokenizer, chat_ids, distinct_labels, shared_context_tree, token_ids

Messages = list[dict[str, str]]

CHAT_INSTRUCTION = "Read the text below and complete its last line. Reply with exactly one of these and nothing else: "


@dataclass(frozen=True)
class LocalChat:
    """A chat model through its chat template: the user asks for one label, whole replies are scored.

    Attributes:
        engine: the chat model.
        held_out: all items: the prefix that all prompts share is computed once, for a part of them as for all.
    """

    engine: EngineConfig
    label_space: LabelSpace
    held_out: tuple[ICMExample, ...] = field(compare=False)  # it decides the last bits of an answer at most
    _shared: list[int] = field(default_factory=list, init=False, compare=False, repr=False)

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`."""
        engine = engines.get(self.engine)
        labels = self._labels(engine.tokenizer)
        shared = once(self._shared, lambda: common_prefix([self._prompt(engine.tokenizer, e) for e in self.held_out]))
        for part in parts(examples):
            asked = [self._prompt(engine.tokenizer, example) for example in part]
            tree = shared_context_tree(asked[0][:shared], [prompt[shared:] for prompt in asked])
            before = counters(engine.usage)
            scores = engine.score_labels(tree, labels)
            yield Batch(answers(part, scores, asked), spent(engine, before))

    def _prompt(self, tokenizer: Tokenizer, example: ICMExample) -> Segment:
        from transformers import PreTrainedTokenizerBase  # an engine has loaded it

        if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.chat_template:
            raise ConfigError(
                f"model {self.engine.model}: no chat template, so not a chat model; name one with the "
                "condition's `model`"
            )
        # Models that can think first are told not to: the reply has to start with the label.
        messages = chat_messages(example, self.label_space)
        text = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        return chat_ids(tokenizer, str(text), messages[0]["content"])

    def _labels(self, tokenizer: Tokenizer) -> LabelTrie:
        """The replies' tokens, with the token that ends a reply where one goes on where another ends."""
        words, end = label_words(self.label_space), getattr(tokenizer, "eos_token_id", None)
        return distinct_labels([token_ids(tokenizer, word) for word in words], () if end is None else (end,), words)


def label_words(label_space: LabelSpace) -> list[str]:
    """The words a chat model replies with: the verbalisers without their leading space."""
    return [text.strip() for text in label_space.verbalisers]


def chat_messages(example: ICMExample, label_space: LabelSpace) -> Messages:
    """The chat prompt. The instruction comes first, so that prompts share it as a prefix."""
    instruction = f"{CHAT_INSTRUCTION}{', '.join(label_words(label_space))}."
    return [{"role": "user", "content": f"{instruction}\n\n{example.input}"}]
