"""The data classes between the stages: examples without gold, the label space, gold labels kept apart."""

import gc
import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from icm.errors import DataError
from icm.files import fingerprint, fingerprint_of_rows

TRUSTED = "trusted"
"""Key in the metadata of labelled examples whose label was given, not found."""
CROSSED = 0.9
"""Share of the questions that must have a claim for it to be one that all are asked."""


@dataclass(frozen=True)
class LabelSpace:
    """The labels of a task and the text that stands for each in a prompt.

    Attributes:
        labels: label names, at least two, for example `("True", "False")`.
        verbalisers: text appended to the query for each label, leading space included (`" True"`). The label
            carries the space so that the tokeniser yields the natural label token.
        definitions: examples outside the data, (text up to where the label goes, label), that say what the labels
            mean: every prompt starts with them.
    """

    labels: tuple[str, ...] = ("True", "False")
    verbalisers: tuple[str, ...] = ()
    definitions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.verbalisers:
            object.__setattr__(self, "verbalisers", tuple(f" {label}" for label in self.labels))
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise DataError(f"label space {list(self.labels)}: expected at least two distinct labels")
        if len(self.verbalisers) != len(self.labels) or len(set(self.verbalisers)) != len(self.labels):
            raise DataError(
                f"verbalisers {list(self.verbalisers)}: expected one distinct text per label {list(self.labels)}"
            )
        for _, label in self.definitions:
            self.index(label)

    def random_labels(self, count: int, rng: np.random.Generator) -> dict[int, str]:
        """Place (of `count`, in the order drawn) → label; each label as often as the others as far as that goes."""
        return {int(place): self.labels[turn % len(self.labels)] for turn, place in enumerate(rng.permutation(count))}

    def index(self, label: str) -> int:
        """Position of `label`. Raises DataError if it is not in the space."""
        if label not in self.labels:
            raise DataError(f"unknown label {label!r}: expected one of {list(self.labels)}")
        return self.labels.index(label)


@dataclass(frozen=True, slots=True)
class Relations:
    """What the task's data says about how examples hang together; never derived from gold.

    Attributes:
        group: the question (or pair, or text) an example belongs to. Train and test share no group.
        answer: normalised final answer within the group; equal answers deserve equal labels.
        inverse: `ICMExample.id` of the example that claims the opposite (the pair with sides swapped).
    """

    group: str | None = None
    answer: str | None = None
    inverse: str | None = None


@dataclass(frozen=True, slots=True)
class ICMExample:
    """One unlabelled item.

    Attributes:
        input: the prompt up to where the label goes, no trailing space ("Question: …\\nI think this Claim is").
        metadata: anything the task wants to keep (question, choice, …); never the gold label.
        relations: logical relations to other examples.
        where: file and line, or row, that it was read from, for messages; no part of its content.
        record_id: id that the data give its record, by which users find their rows again; no part of its content.
        id: content hash of `input`: the same text is the same example, whatever file it came from.
    """

    input: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    relations: Relations = Relations()
    where: str | None = field(default=None, compare=False, repr=False)
    record_id: str | None = field(default=None, compare=False, repr=False)
    id: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", example_id(self.input))

    @property
    def group(self) -> str:
        """The group, or the id of an example that stands alone."""
        return self.relations.group or self.id


def example_id(text: str) -> str:
    """SHA-256 (first 16 hex digits) of an example's input."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]


T = TypeVar("T")


@contextmanager
def garbage_collection(on: bool) -> Iterator[None]:
    """With or without Python's cycle collector. It walks all that is held whenever that has grown by a quarter: a third
    of the time that reading a million examples takes, for nothing. What has no references goes as ever."""
    was = gc.isenabled()
    _switch(on)
    try:
        yield
    finally:
        _switch(was)


def _switch(on: bool) -> None:
    if on:
        gc.enable()
    else:
        gc.disable()


def claim_of_each(examples: Sequence[ICMExample], beside: Container[str] = ()) -> NDArray[np.intp]:
    """Number of the claim that an example makes, [examples]: where all questions are asked the same claims once each
    ("The reviewer is satisfied", "… dissatisfied"), from 1 on; else, and for the few other claims, 0.

    Such claims are calibrated by themselves, because what a model thinks of a claim says nothing of the text that it is
    about: the two sides of contrast pairs are normalised alike (Burns et al. 2022, arXiv 2212.03827, section 2.2).

    Args:
        beside: ids of examples that may be here without the others of their question.
    """
    groups: dict[str, list[ICMExample]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    whole = [members for members in groups.values() if any(member.id not in beside for member in members)]
    most, columns = CROSSED * len(whole), set.intersection(*(set(example.metadata) for example in examples))
    asked = sorted(column for column in columns if _shared(column, whole, most) > 1)
    texts = sorted(columns.difference(asked))

    def claim(example: ICMExample) -> tuple[str, ...]:
        return tuple(str(example.metadata[column]) for column in asked)

    def is_asked_once(members: Sequence[ICMExample]) -> bool:
        about = {tuple(str(member.metadata[column]) for column in texts) for member in members}
        return len(about) == 1 and len({claim(member) for member in members}) == len(members)

    counts = Counter(claim(member) for members in whole for member in members)
    claims = {name: place for place, name in enumerate(sorted(key for key in counts if counts[key] >= most), start=1)}
    if not asked or len(whole) < 2 or sum(map(is_asked_once, whole)) < most:
        claims = {}
    return np.array([claims.get(claim(example), 0) for example in examples], dtype=np.intp)


def _shared(column: str, groups: Sequence[Sequence[ICMExample]], most: float) -> int:
    """How many values of a column at least so many groups have."""
    counts = Counter(value for members in groups for value in {str(member.metadata[column]) for member in members})
    return sum(count >= most for count in counts.values())


def rank(group: str, seed: int) -> str:
    """Sort key that puts groups in random order, drawn by seed and content."""
    return fingerprint(["draw", seed, group])


def draw_groups(
    items: Sequence[T], group: Callable[[T], str], count: int, seed: int, first: Container[str] = ()
) -> list[T]:
    """At most `count` items: whole groups in random order (see `rank`), those of `first` first. A group that does not
    fit is passed over."""
    sizes, left = Counter(map(group, items)), count
    chosen: dict[str, list[T]] = {}
    for name in sorted(sizes, key=lambda name: (name not in first, rank(name, seed))):
        if sizes[name] <= left:
            chosen[name] = []
            left -= sizes[name]
    for item in items:
        if (found := chosen.get(group(item))) is not None:
            found.append(item)
    return [item for found in chosen.values() for item in found]


class GoldLabels(Mapping[str, str]):
    """Gold: example id → label. Read by evaluation, `icm analyze` and the golden twin of a training run; the
    search never receives it: gold is unreachable."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)

    def __getitem__(self, key: str) -> str:
        return self._labels[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)


@dataclass(frozen=True)
class ICMDataset(Sequence[ICMExample]):
    """Examples of one task in canonical order (by id, so that no file order can carry gold).

    Attributes:
        examples: distinct examples.
        label_space: the labels they can take.
        name: for file names and reports ("truthfulqa").
        task: task type ("truthfulqa", "classification", …).
        trusted: example id → label that somebody vouches for, an input of the search. Gold never gets here.
        start: example id → label to start a search from, as an earlier one found it, and its log-odds (0: not known).
    """

    examples: Sequence[ICMExample]
    label_space: LabelSpace = LabelSpace()
    name: str = "dataset"
    task: str = "classification"
    trusted: Mapping[str, str] = field(default_factory=dict)
    start: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.examples:
            raise DataError(f"{self.name}: no examples; expected at least one")
        examples = self.examples  # sorted already, they need no second table of a million ids
        if any(one.id >= next_one.id for one, next_one in pairwise(examples)):
            unique = {example.id: example for example in examples}
            examples = tuple(unique[key] for key in sorted(unique))
        object.__setattr__(self, "examples", tuple(examples))
        held = {example.id for example in examples} if self.trusted or self.start else set[str]()
        if unknown := sorted((self.trusted.keys() | self.start.keys()) - held):
            raise DataError(f"{self.name}: a label is given for {unknown[0]!r}, which is no example's id")
        for label in (*self.trusted.values(), *(label for label, _ in self.start.values())):
            self.label_space.index(label)

    def part(self, examples: Sequence[ICMExample]) -> "ICMDataset":
        """The data set with some of its examples, and what is known of their labels."""
        ids = [example.id for example in examples]
        trusted = {key: self.trusted[key] for key in ids if key in self.trusted}
        start = {key: self.start[key] for key in ids if key in self.start}
        return replace(self, examples=examples, trusted=trusted, start=start)

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> ICMExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ICMExample]: ...
    def __getitem__(self, index: int | slice) -> ICMExample | Sequence[ICMExample]:
        return self.examples[index]

    def sample(self, count: int, seed: int) -> "ICMDataset":
        """At most `count` examples: whole groups, drawn with `seed` as `load_task` draws `max_examples`."""
        return self.part(draw_groups(self.examples, lambda example: example.group, count, seed))

    @property
    def fingerprint(self) -> str:
        """Content hash of ids, relations, label space and, where there are any, definitions and labels that are trusted
        or started from; gold does not enter."""
        rows = ([e.id, e.relations.group, e.relations.answer, e.relations.inverse] for e in self.examples)
        space = self.label_space
        more = {"definitions": space.definitions, "trusted": dict(self.trusted), "start": dict(self.start)}
        given = {name: value for name, value in more.items() if value}
        return fingerprint_of_rows(rows, space.labels, space.verbalisers, *([given] if given else []))


@dataclass(frozen=True)
class TaskData:
    """What a task loader returns.

    Attributes:
        dataset: the examples.
        gold: their gold labels, possibly none.
        template: with which the prompts were rendered.
        account: what was read as what, for the user.
        written: question → the claims that a model wrote for it while the data were loaded.
    """

    dataset: ICMDataset
    gold: GoldLabels
    template: str | None = None
    account: str = ""
    written: Mapping[str, Sequence[str]] = field(default_factory=dict)
