"""Logical consistency I(D) (arXiv 2506.10139, section 2): rules, and an index of the pairs that break them.

A rule names keys for each example; only examples that share a key of that rule are compared, so no rule scans all
pairs. Keys come from the relations that the task's data states (question, final answer, inverse pair), never from gold.
"""

import importlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import chain, combinations, product
from typing import Protocol, runtime_checkable

from icm.config import SearchConfig
from icm.errors import ConfigError
from icm.examples import ICMDataset, ICMExample, LabelSpace, example_id

TRUE = "True"


class ConsistencyRule(Protocol):
    """One logical rule c(x_i, y_i, x_j, y_j). Stateless."""

    def keys(self, example: ICMExample) -> Iterable[str]:
        """Names under which the example meets the others it must agree with; empty if the rule says nothing on it."""
        ...

    def consistent(self, a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
        """Whether the two labels can hold together. Symmetric; asked only for examples that share a key."""
        ...


@runtime_checkable
class GroupRule(ConsistencyRule, Protocol):
    """A rule that can also be broken by a whole group although no pair breaks it ("none of the choices is right")."""

    def complete(self, labels: Sequence[str]) -> bool:
        """Whether the labels of all examples of one key can hold together, given that every pair can."""
        ...


class MathConsistencyRule:
    """Solutions of one problem: the same final answer gets the same label, different answers are not both True.

    Reads `relations.group` and `relations.answer`. Examples without an answer there are read as
    `…\\nClaim: <solution>` or `<expression> = <result>`; a text that states no answer takes no part.
    """

    def keys(self, example: ICMExample) -> Iterable[str]:
        stated = stated_answer(example)
        return () if stated is None else (stated[0],)

    def consistent(self, a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
        if stated_answer(a) == stated_answer(b):
            return label_a == label_b
        return not label_a == label_b == TRUE


class ComparisonConsistencyRule:
    """Asymmetry of inverse pairs: of "A is better than B" and "B is better than A" exactly one is True."""

    def keys(self, example: ICMExample) -> Iterable[str]:
        inverse = example.relations.inverse
        return (example.id,) if inverse is None else (example.id, inverse)

    def consistent(self, a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
        opposite = a.relations.inverse == b.id or b.relations.inverse == a.id
        return label_a != label_b if opposite else True


class IdenticalTextRule:
    """Texts that differ only in case, spacing, Unicode form or full stops at line ends get the same label."""

    def keys(self, example: ICMExample) -> Iterable[str]:
        return (example_id(normalised_text(example.input)),)

    def consistent(self, a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
        return label_a == label_b


class AtMostOneTrueRule:
    """At most one claim of a group is True. Opt-in: it is wrong where several answers of a question are right."""

    def keys(self, example: ICMExample) -> Iterable[str]:
        group = example.relations.group
        return () if group is None else (group,)

    def consistent(self, a: ICMExample, label_a: str, b: ICMExample, label_b: str) -> bool:
        return not label_a == label_b == TRUE


class ExactlyOneTrueRule(AtMostOneTrueRule):
    """Exactly one claim of a group is True. Opt-in, for groups that are in the data set as a whole.

    No pair of labels shows that a True is missing. A group that is labelled throughout without one therefore counts
    as ceil(n/2) inconsistent pairs that cover its members once (the first again if n is odd), so that fixing pairs can
    make any member the True one. A group of one example is left alone.
    """

    def complete(self, labels: Sequence[str]) -> bool:
        return TRUE in labels


class LogicalConsistencyChecker:
    """A set of rules.

    Args:
        rules: None takes the default rules of the data set's task (`rules_for`).
    """

    def __init__(self, rules: Sequence[ConsistencyRule] | None = None) -> None:
        self.rules = None if rules is None else tuple(rules)

    def index(self, dataset: ICMDataset) -> "ConsistencyIndex":
        """The related pairs of a data set under these rules."""
        return ConsistencyIndex(dataset, rules_for(dataset.task) if self.rules is None else self.rules)


class ConsistencyIndex:
    """The pairs of one data set that share a rule, by position in the data set.

    Attributes:
        neighbours: for each position, the sorted positions it shares a rule with.
    """

    def __init__(self, dataset: ICMDataset, rules: Sequence[ConsistencyRule]) -> None:
        self._examples = dataset.examples
        self._rules_of_pair: dict[tuple[int, int], list[ConsistencyRule]] = defaultdict(list)
        self._groups: list[tuple[GroupRule, tuple[int, ...]]] = []
        for rule in rules:
            self._relate(rule)
        self._pairs = sorted(self._rules_of_pair)
        self._verdicts: dict[tuple[int, int, str, str], bool] = {}
        self._groups_of: dict[int, list[int]] = defaultdict(list)
        for number, (_, members) in enumerate(self._groups):
            for member in members:
                self._groups_of[member].append(number)
        self.neighbours = self._neighbours()

    def _relate(self, rule: ConsistencyRule) -> None:
        members: dict[str, list[int]] = defaultdict(list)
        for position, example in enumerate(self._examples):
            for key in set(rule.keys(example)):
                members[key].append(position)
        related = [tuple(positions) for positions in members.values() if len(positions) > 1]
        for pair in {pair for positions in related for pair in combinations(positions, 2)}:
            self._rules_of_pair[pair].append(rule)
        if isinstance(rule, GroupRule):
            self._groups += [(rule, positions) for positions in related]

    def _neighbours(self) -> list[tuple[int, ...]]:
        found: list[list[int]] = [[] for _ in self._examples]
        for i, j in self._pairs:
            found[i].append(j)
            found[j].append(i)
        return [tuple(sorted(positions)) for positions in found]

    def violations(self, labels: Mapping[int, str]) -> list[tuple[int, int]]:
        """Inconsistent pairs (i < j, sorted) among the labelled positions; their number is I(D).

        Args:
            labels: position → label, for the labelled positions only.
        """
        broken = {pair for pair in self._pairs if self._breaks(pair, labels)}
        for rule, members in self._groups:
            broken.update(_incomplete(rule, members, labels))
        return sorted(broken)

    def violations_of(self, i: int, labels: Mapping[int, str]) -> list[tuple[int, int]]:
        """The pairs of `violations(labels)` that the label of `i` can mend or make: those with `i` in them, and those
        that stand for the groups of `i`. Relabelling `i` changes I(D) by the change of their number."""
        pairs = {(min(i, j), max(i, j)) for j in self.neighbours[i]}
        pairs.update(pair for number in self._groups_of.get(i, ()) for pair in _cover(self._groups[number][1]))
        broken = {pair for pair in pairs if self._breaks(pair, labels)}
        for number in {number for j in chain(*pairs) for number in self._groups_of.get(j, ())}:
            broken.update(pairs.intersection(_incomplete(*self._groups[number], labels)))
        return sorted(broken)

    def options(self, i: int, j: int, label_space: LabelSpace) -> list[tuple[str, str]]:
        """All labels for positions (i, j) that no rule forbids for this pair, in label-space order."""
        labels = label_space.labels
        return [(a, b) for a, b in product(labels, labels) if self._consistent(i, j, a, b)]

    def _breaks(self, pair: tuple[int, int], labels: Mapping[int, str]) -> bool:
        i, j = pair
        return i in labels and j in labels and not self._consistent(i, j, labels[i], labels[j])

    def _consistent(self, i: int, j: int, label_i: str, label_j: str) -> bool:
        if i > j:
            i, j, label_i, label_j = j, i, label_j, label_i
        key = (i, j, label_i, label_j)
        if key not in self._verdicts:
            a, b = self._examples[i], self._examples[j]
            rules = self._rules_of_pair.get((i, j), ())
            self._verdicts[key] = all(rule.consistent(a, label_i, b, label_j) for rule in rules)
        return self._verdicts[key]


def _incomplete(rule: GroupRule, members: tuple[int, ...], labels: Mapping[int, str]) -> list[tuple[int, int]]:
    """The pairs that stand for a group, if it is labelled throughout and breaks a group rule."""
    if all(member in labels for member in members) and not rule.complete([labels[member] for member in members]):
        return _cover(members)
    return []


def _cover(members: tuple[int, ...]) -> list[tuple[int, int]]:
    """ceil(n/2) pairs (i < j) that hold every member."""
    row = members if len(members) % 2 == 0 else (*members, members[0])
    return [(min(i, j), max(i, j)) for i, j in zip(row[::2], row[1::2], strict=True)]


def rules_for(task: str) -> tuple[ConsistencyRule, ...]:
    """Default rules of a task type: the task's own and identical text. A task type that no loader knows (examples
    made by hand) gets identical text alone."""
    from icm.tasks.base import find_task  # tasks name their rules, so the import at module level would be a circle

    try:
        return (*find_task(task).rules, IdenticalTextRule())
    except ConfigError:
        return (IdenticalTextRule(),)


def rule_checker(task: str, config: SearchConfig) -> LogicalConsistencyChecker:
    """The task's own rules and those of `config.rules`. Raises ConfigError for a rule that cannot be loaded."""
    named = {"at-most-one": AtMostOneTrueRule, "exactly-one": ExactlyOneTrueRule}
    extra = [named[name]() if name in named else load_rule(name) for name in config.rules]
    return LogicalConsistencyChecker([*rules_for(task), *extra])


def load_rule(path: str) -> ConsistencyRule:
    """A rule by import path, `package.module:RuleClass`; the class is called without arguments.

    Raises:
        ConfigError: the path has another form, cannot be imported, or does not name a rule.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise ConfigError(f"consistency rule {path!r}: expected an import path like 'package.module:RuleClass'")
    try:
        rule = getattr(importlib.import_module(module_name), name)()
    except Exception as error:  # somebody else's module: whatever it raises, the user has to mend it there
        raise ConfigError(
            f"consistency rule {path!r}: cannot be loaded ({error}); check PYTHONPATH and the name"
        ) from None
    for method in ("keys", "consistent"):
        if not callable(getattr(rule, method, None)):
            raise ConfigError(f"consistency rule {path!r}: expected a class with the method {method!r}, found none")
    return rule


# ---------------------------------------------------------------------------------------------- answers and texts
_NUMBER = re.compile(r"(?<![\w.,])[-+]?\s?[$€£]?\s?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?")
_MARKER = re.compile(r"(?:^|\n)\s*(?:A|Answer)\s*:|####|\\boxed\s*\{|\banswer is\b", re.IGNORECASE)
_MAX_DIGITS = 100  # longer "numbers" are noise of a model, and int() refuses more than 4,300 digits


def final_answer(solution: str) -> str | None:
    """The final answer a worked solution states, normalised, or None if it states no number.

    The text behind the last `A:`, `Answer:`, `####`, `\\boxed{` or "answer is" counts, else the whole text: the first
    number behind a marker (the last one if an equation follows it), the last number of an unmarked text. Currency
    signs, thousands commas, percent signs and trailing zeros do not matter: `$1,200.00` → `1200`; `0.5` → `1/2`.
    """
    text = unicodedata.normalize("NFKC", solution).replace("\u2212", "-")
    markers = list(_MARKER.finditer(text))
    tail = text[markers[-1].end() :] if markers else text
    line = tail.strip().partition("\n")[0] if markers else tail
    numbers = _NUMBER.findall(line.rpartition("=")[2]) or _NUMBER.findall(line)
    if not numbers:
        return None
    return _normal_number(numbers[0] if markers else numbers[-1])


def _normal_number(text: str) -> str:
    digits = re.sub(r"[\s,$€£+]", "", text)
    if len(digits) > _MAX_DIGITS:
        return digits
    try:
        return str(Fraction(digits))
    except (ValueError, ZeroDivisionError):
        return digits


def stated_answer(example: ICMExample) -> tuple[str, str] | None:
    """(problem, normalised final answer) of an example, or None if it states no answer. See `MathConsistencyRule`."""
    relations = example.relations
    if relations.group is not None:
        return None if relations.answer is None else (relations.group, relations.answer)
    problem, marker, solution = example.input.partition("\nClaim:")
    if not marker:
        problem, marker, solution = example.input.rpartition("=")
    answer = final_answer(solution) if marker else None
    return None if answer is None else (normalised_text(problem), answer)


def normalised_text(text: str) -> str:
    """Unicode form NFKC, case-folded, white space collapsed, lines without full stops or quotes at their ends."""
    lines = unicodedata.normalize("NFKC", text).casefold().splitlines()
    return " ".join(" ".join(line.strip(" .,;\"'") for line in lines).split())
