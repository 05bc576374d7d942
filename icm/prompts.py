"""Prompts as trees of token segments. The one place that turns examples into token ids.

Segments are tokenised one by one and concatenated as ids, so a prefix of the text stays a prefix of the tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from icm.errors import ConfigError
from icm.examples import ICMExample, LabelSpace

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
    """Ids of a piece of a prompt, without special tokens added."""
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


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
        # Tokenizers that know a BOS token do not all add one, and some add an end token behind it.
        self.prefix: Segment = tuple(tokenizer("").input_ids)[:1] if tokenizer.bos_token_id is not None else ()
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
