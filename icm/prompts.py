"""Prompts as trees of token segments. The one place that turns examples into token ids.

Segments are tokenised one by one and concatenated as ids, so a prefix of the text stays a prefix of the tokens.
Labels may be of several tokens: a `LabelTrie` asks for them behind every prompt, token by token.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
        asks: the token ids that this row is read at; all that are asked for where it is empty. Engines for which
            fewer are cheaper leave the rest of the row NaN.
    """

    segment: Segment = ()
    children: tuple["PromptTree", ...] = ()
    query: int | None = None
    asks: Segment = ()

    # Without recursion: appended demonstrations make trees deeper than Python recurses.
    def _prompts(self) -> Iterator[tuple["PromptTree", Segment]]:
        """Yield every node with a query, and its whole prompt, in visiting order."""
        stack: list[tuple[PromptTree, Segment]] = [(self, ())]
        while stack:
            node, above = stack.pop()
            path = above + node.segment
            if node.query is not None:
                yield node, path
            stack.extend((child, path) for child in reversed(node.children))

    def paths(self) -> Iterator[tuple[int, Segment]]:
        """Yield (query, whole prompt) in visiting order."""
        return ((node.query, path) for node, path in self._prompts() if node.query is not None)

    def requests(
        self, token_ids: Sequence[int], most: int, known: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[int, Segment, list[int]]]:
        """Yield (query, whole prompt, places in `token_ids` that it is asked for), at most so many places at a time;
        without what is `known` [queries, tokens]."""
        place = {token: number for number, token in enumerate(token_ids)}
        for node, path in self._prompts():
            asked = [place[token] for token in node.asks] or list(range(len(token_ids)))
            if known is not None:
                asked = [number for number in asked if not known[node.query, number]]
            for start in range(0, len(asked), most):
                yield node.query or 0, path, asked[start : start + most]

    def _ends(self) -> Iterator[tuple["PromptTree", int]]:
        """Yield every node with the tokens from the root to its end."""
        stack = [(self, 0)]
        while stack:
            node, above = stack.pop()
            end = above + len(node.segment)
            yield node, end
            stack.extend((child, end) for child in node.children)

    def spelt(self, token_ids: Sequence[int]) -> NDArray[np.bool_]:
        """[queries, tokens]: whether a prompt goes on with the token in a longer prompt below it."""
        found = np.zeros((self.queries, len(token_ids)), dtype=bool)
        place = {token: number for number, token in enumerate(token_ids)}
        for node, _ in self._ends():
            if node.query is not None:
                first = (child.segment[0] for child in node.children if child.segment)
                found[node.query, [place[token] for token in first if token in place]] = True
        return found

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


@dataclass(frozen=True)
class LabelTrie:
    """Token sequences to be scored behind every prompt of a tree: labels, or answers.

    Behind each query stand their proper prefixes, one prompt each and each computed once, that ask for the tokens
    that can follow. A sequence's log-probability is the sum over its tokens. Sequences of one token each need the
    query's own prompt and nothing more.

    Attributes:
        sequences: token ids, at least one each.
    """

    sequences: tuple[Segment, ...]

    @cached_property
    def tokens(self) -> list[int]:
        """Every token once, in the order in which the sequences have them."""
        return list(dict.fromkeys(token for sequence in self.sequences for token in sequence))

    @cached_property
    def _followers(self) -> dict[Segment, Segment]:
        """Proper prefix → the tokens that follow it, the empty prefix first."""
        found: dict[Segment, dict[int, None]] = {(): {}}
        for sequence in self.sequences:
            for length, token in enumerate(sequence):
                found.setdefault(sequence[:length], {})[token] = None
        return {prefix: tuple(tokens) for prefix, tokens in found.items()}

    @property
    def depth(self) -> int:
        """Tokens that the longest prompt gets longer by."""
        return max(map(len, self._followers))

    def expand(self, tree: PromptTree) -> PromptTree:
        """The tree with the prompts that the sequences need: row r becomes the rows from r · prefixes on."""
        if len(self._followers) == 1:
            return tree
        nodes = [tree]
        for node in nodes:  # grows: parents before children, without recursion
            nodes.extend(node.children)
        built: dict[int, PromptTree] = {}
        for node in reversed(nodes):
            below = tuple(built[id(child)] for child in node.children)
            if node.query is not None:
                rows = {prefix: node.query * len(self._followers) + k for k, prefix in enumerate(self._followers)}
                asking = self._asking(node.segment, rows)
                built[id(node)] = replace(asking, children=asking.children + below)
            else:
                built[id(node)] = replace(node, children=below)
        return built[id(tree)]

    def _asking(self, segment: Segment, rows: Mapping[Segment, int]) -> PromptTree:
        """The query's own prompt with those of the prefixes below it."""
        built: dict[Segment, PromptTree] = {}
        for prefix in sorted(rows, key=len, reverse=True):  # children before parents: labels may be of any length
            tokens = self._followers[prefix]
            children = tuple(built[longer] for token in tokens if (longer := (*prefix, token)) in rows)
            built[prefix] = PromptTree(prefix[-1:] or segment, children, rows[prefix], tokens)
        return built[()]

    def combine(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Natural-log probabilities [prompts, sequences] from those of `tokens` in the expanded tree."""
        row = {prefix: number for number, prefix in enumerate(self._followers)}
        column = {token: number for number, token in enumerate(self.tokens)}
        by_prefix = scores.reshape(-1, len(row), len(column))
        places = [[(row[s[:k]], column[s[k]]) for k in range(len(s))] for s in self.sequences]
        return np.stack([by_prefix[:, *np.transpose(place)].sum(axis=1) for place in places], axis=1)

    def plain_tokens(self, prompt_tokens: int, prompts: int = 1) -> int:
        """Tokens computed when each prompt is computed alone, once for each of the longest prefixes: a pass over it
        gives all probabilities that its sequences take."""
        alone = [prefix for prefix, tokens in self._followers.items() if not self._goes_on(prefix, tokens)]
        return len(alone) * prompt_tokens + sum(map(len, alone)) * prompts

    def _goes_on(self, prefix: Segment, tokens: Segment) -> bool:
        return any((*prefix, token) in self._followers for token in tokens)


def distinct_labels(sequences: Sequence[Segment], end: Segment, texts: Sequence[str]) -> LabelTrie:
    """Labels as events of which one at most can happen.

    Args:
        sequences: token ids of each label.
        end: what follows a label; scored too, behind all labels, where one label goes on where another ends.
        texts: the labels as text, for the message.

    Raises:
        ConfigError: a label has no tokens, or two cannot be told apart even so.
    """
    if not all(sequences):
        raise ConfigError(f"verbalisers {list(texts)}: one has no tokens; choose other texts with --verbalisers")
    if _contained(sequences):
        sequences = [sequence + end for sequence in sequences]
    if pair := _contained(sequences):
        first, second = (texts[place] for place in pair)
        raise ConfigError(
            f"verbalisers {first!r} and {second!r} cannot be told apart by their tokens in this tokenizer; "
            "choose other texts with --verbalisers"
        )
    return LabelTrie(tuple(sequences))


def _contained(sequences: Sequence[Segment]) -> tuple[int, int] | None:
    """Places of a sequence and of one that is equal to it or goes on where it ends; None if there are none."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    return next(((i, j) for i, j in pairwise(order) if sequences[j][: len(sequences[i])] == sequences[i]), None)


def token_ids(tokenizer: Tokenizer, text: str) -> Segment:
    """Ids of a piece of a prompt, without special tokens added. Text stays text: `<|im_start|>` or `</s>` in it does
    not become the control token of that name."""
    pieces = _pieces(tokenizer, text)
    return tuple(token for piece in pieces for token in tokenizer(piece, add_special_tokens=False).input_ids)


def _counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """What counts the tokens of a text as `token_ids` makes them, without Hugging Face's wrapper where there is a fast
    tokenizer below it: the wrapper doubles the cost of a short text."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return lambda text: len(token_ids(tokenizer, text))
    fast.no_truncation()
    fast.no_padding()
    return lambda text: sum([len(fast.encode(piece, add_special_tokens=False)) for piece in _pieces(tokenizer, text)])


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a whole prompt, with the special tokens that the tokenizer adds; text stays text, as in `token_ids`."""
    if len(_pieces(tokenizer, text)) == 1:
        return list(tokenizer(text).input_ids)
    return [*start_ids(tokenizer), *token_ids(tokenizer, text)]


def chat_ids(tokenizer: Tokenizer, chat: str, *contents: str) -> Segment:
    """Ids of a rendered chat. The template's control tokens count; what `contents`, the texts in it in order, spell
    does not, unless the template changes a text."""
    ids: Segment = ()
    rest = chat
    for content in contents:
        before, found, after = rest.partition(content)
        if found and len(_pieces(tokenizer, content)) > 1:
            ids += tuple(tokenizer(before, add_special_tokens=False).input_ids) + token_ids(tokenizer, content)
            rest = after
    return ids + tuple(tokenizer(rest, add_special_tokens=False).input_ids)


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
    if not found:
        return [text]
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
        prefix: ids every prompt starts with: the BOS token where the tokenizer adds one, and the label space's
            definitions.
        ending: what is scored behind each verbaliser: the first token of the separator where one verbaliser goes on
            where another ends (" 1", " 10"), so that no label contains another; nothing elsewhere.
        labels: the tokens of each verbaliser with that ending, in label order.

    Raises:
        ConfigError: two verbalisers cannot be told apart in this tokenizer, or one has no tokens.
    """

    def __init__(self, tokenizer: Tokenizer, label_space: LabelSpace, separator: str = SEPARATOR) -> None:
        self._tokenizer = tokenizer
        self._labels = [self.encode(text) for text in label_space.verbalisers]
        self._separator = self.encode(separator)
        self._query_cache: dict[str, Segment] = {}
        self.label_space = label_space
        defined = (self.demonstration(ICMExample(text), label) for text, label in label_space.definitions)
        self.prefix: Segment = sum(defined, start_ids(tokenizer))
        self.labels = distinct_labels(self._labels, self._separator[:1], label_space.verbalisers)
        self.ending = self.labels.sequences[0][len(self._labels[0]) :]

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

    def longest_demonstrations(self, examples: Sequence[ICMExample]) -> list[int]:
        """Tokens of each example with its longest label. Nothing is kept: a million examples are measured so."""
        more = max(map(len, self._labels)) + len(self._separator)
        count = _counter(self._tokenizer)
        return [count(example.input) + more for example in examples]

    def context(self, demonstrations: Sequence[tuple[ICMExample, str]]) -> Segment:
        """Ids of the prefix and the demonstrations in the given order."""
        body = (token for example, label in demonstrations for token in self.demonstration(example, label))
        return self.prefix + tuple(body)


def shared_context_tree(context: Segment, queries: Sequence[Segment]) -> PromptTree:
    """One context, many queries behind it: row i of the scores belongs to `queries[i]`."""
    return PromptTree(context, tuple(PromptTree(query, query=row) for row, query in enumerate(queries)))
