"""Prompts as trees of token segments. The one place that turns examples into token ids.

Segments are tokenised one by one and concatenated as ids, so a prefix of the text stays a prefix of the tokens.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace

_log = logging.getLogger(__name__)

SEPARATOR = "\n\n"

Segment = tuple[int, ...]


class Encoding(Protocol):
    """What a tokenizer makes of a text."""

    @property
    def input_ids(self) -> list[int]: ...


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer here."""

    @property
    def bos_token_id(self) -> int | None: ...

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoding: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class PromptTree:
    """A set of prompts that share prefixes: every path from the root to a node with a `query` is one prompt.

    Attributes:
        segment: token ids of this node.
        children: subtrees, in the order in which an engine should visit them.
        query: row of the score matrix that belongs to the prompt ending here; None for inner nodes.
    """

    segment: Segment = ()
    children: tuple["PromptTree", ...] = ()
    query: int | None = None

    # Without recursion: appended demonstrations make trees deeper than Python recurses.
    def paths(self) -> Iterator[tuple[int, Segment]]:
        """Yield (query, whole prompt) in visiting order."""
        stack: list[tuple[PromptTree, Segment]] = [(self, ())]
        while stack:
            node, above = stack.pop()
            path = above + node.segment
            if node.query is not None:
                yield node.query, path
            stack.extend((child, path) for child in reversed(node.children))

    def _ends(self) -> Iterator[tuple["PromptTree", int]]:
        """Yield every node with the tokens from the root to its end."""
        stack = [(self, 0)]
        while stack:
            node, above = stack.pop()
            end = above + len(node.segment)
            yield node, end
            stack.extend((child, end) for child in node.children)

    @cached_property
    def queries(self) -> int:
        """Number of prompts."""
        return sum(node.query is not None for node, _ in self._ends())

    @cached_property
    def tree_tokens(self) -> int:
        """Tokens computed when each node is computed once: the cost with a perfect prefix cache."""
        return sum(len(node.segment) for node, _ in self._ends())

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens computed when each prompt is computed alone: the cost without any cache."""
        return sum(end for node, end in self._ends() if node.query is not None)

    @cached_property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max((end for node, end in self._ends() if node.query is not None), default=0)


def token_ids(tokenizer: Tokenizer, text: str) -> Segment:
    """Ids of a piece of a prompt, without special tokens added. Text stays text: `<|im_start|>` or `</s>` in it does
    not become the control token of that name."""
    pieces = _pieces(tokenizer, text)
    return tuple(token for piece in pieces for token in tokenizer(piece, add_special_tokens=False).input_ids)


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a whole prompt, with the special tokens that the tokenizer adds; text stays text, as in `token_ids`."""
    if len(_pieces(tokenizer, text)) == 1:
        return list(tokenizer(text).input_ids)
    return [*start_ids(tokenizer), *token_ids(tokenizer, text)]


def chat_ids(tokenizer: Tokenizer, chat: str, content: str) -> Segment:
    """Ids of a rendered chat. The template's control tokens count; what `content`, the text in it, spells does not,
    unless the template changes the text."""
    before, found, after = chat.partition(content)
    if not found or len(_pieces(tokenizer, content)) == 1:
        return tuple(tokenizer(chat, add_special_tokens=False).input_ids)
    start, end = (tuple(tokenizer(part, add_special_tokens=False).input_ids) for part in (before, after))
    return start + token_ids(tokenizer, content) + end


def start_ids(tokenizer: Tokenizer) -> Segment:
    """Ids every prompt starts with: the BOS token where the tokenizer adds one."""
    # Tokenizers that know a BOS token do not all add one, and some add an end token behind it.
    return tuple(tokenizer("").input_ids)[:1] if tokenizer.bos_token_id is not None else ()


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text, cut behind the first character of each control token that it spells, so that none is recognised.

    The option `split_special_tokens` of tokenizers does not serve: Unigram models find control tokens among their
    pieces all the same, and mistral-common refuses it.
    """
    control = _control_tokens(tokenizer)
    found = list(control.finditer(text)) if control else []
    if found:
        _warn_once(tokenizer, found[0][0])
    cuts = [match.start() + 1 for match in found]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]


@lru_cache(maxsize=64)
def _warn_once(tokenizer: Tokenizer, name: str) -> None:
    _log.warning("texts spell control tokens of the model, such as %r: they are read as text, in a template too", name)


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """What finds the tokenizer's control tokens in a text; None for a stand-in that has none."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {*getattr(tokenizer, "all_special_tokens", ()), *(token.content for token in added if token.special)}
    longest_first = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


class PromptEncoder:
    """Token ids of queries, demonstrations and labels for one tokenizer and label space.

    Attributes:
        prefix: ids every prompt starts with (the BOS token where the tokenizer adds one).
        label_ids: first token of each verbaliser, in label order. Leaves are scored on exactly these, since one pass
            gives the probabilities of one token.

    Raises:
        ConfigError: two verbalisers share their first token, so that their scores would tie.
    """

    def __init__(self, tokenizer: Tokenizer, label_space: LabelSpace, separator: str = SEPARATOR) -> None:
        self._tokenizer = tokenizer
        self._labels = [self.encode(text) for text in label_space.verbalisers]
        self._separator = self.encode(separator)
        self._query_cache: dict[str, Segment] = {}
        self.label_space = label_space
        self.prefix: Segment = start_ids(tokenizer)
        self.label_ids = [ids[0] for ids in self._labels]
        if len(set(self.label_ids)) != len(self.label_ids):
            raise ConfigError(
                f"verbalisers {list(label_space.verbalisers)} share their first token in this tokenizer; "
                "choose texts that start differently with --verbalisers"
            )

    def encode(self, text: str) -> Segment:
        """Ids of a segment: without special tokens, which belong to the start of a prompt alone."""
        return token_ids(self._tokenizer, text)

    def query(self, example: ICMExample) -> Segment:
        """Ids of the example's input, up to where the label goes."""
        if example.id not in self._query_cache:
            self._query_cache[example.id] = self.encode(example.input)
        return self._query_cache[example.id]

    def demonstration(self, example: ICMExample, label: str) -> Segment:
        """Ids of the example with its label and the separator behind it."""
        return self.query(example) + self._labels[self.label_space.index(label)] + self._separator

    def context(self, demonstrations: Sequence[tuple[ICMExample, str]]) -> Segment:
        """Ids of the BOS token and the demonstrations in the given order."""
        body = (token for example, label in demonstrations for token in self.demonstration(example, label))
        return self.prefix + tuple(body)


def shared_context_tree(context: Segment, queries: Sequence[Segment]) -> PromptTree:
    """One context, many queries behind it: row i of the scores belongs to `queries[i]`."""
    return PromptTree(context, tuple(PromptTree(query, query=row) for row, query in enumerate(queries)))
