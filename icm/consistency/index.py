"""The pairs of one data set that share a rule, and which of them given labels break."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, combinations, product

from icm.consistency.rules import ConsistencyRule, GroupRule, IdenticalTextRule
from icm.examples import ICMDataset, LabelSpace


class LogicalConsistencyChecker:
    """A set of rules.

    Args:
        rules: None leaves them open: a search takes those of the data set's task (`icm.search.checks`), `index`
            identical text alone.
    """

    def __init__(self, rules: Sequence[ConsistencyRule] | None = None) -> None:
        self.rules = None if rules is None else tuple(rules)

    def index(self, dataset: ICMDataset) -> "ConsistencyIndex":
        """The related pairs of a data set under these rules."""
        return ConsistencyIndex(dataset, (IdenticalTextRule(),) if self.rules is None else self.rules)


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
