"""Logical consistency I(D) (arXiv 2506.10139, section 2): the rules.

A rule names keys for each example; only examples that share a key of that rule are compared, so no rule scans all
pairs. Keys come from the relations that the task's data states (question, final answer, inverse pair), never from gold.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from icm.errors import ConfigError
from icm.examples import ICMExample, example_id
from icm.files import import_from_here
from icm.text import final_answer, normalised_text

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


def load_rule(path: str) -> ConsistencyRule:
    """A rule by import path, `package.module:RuleClass`; the class is called without arguments.

    Raises:
        ConfigError: the path has another form, cannot be imported, or does not name a rule.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise ConfigError(
            f"consistency rule {path!r}: expected at-most-one, exactly-one, or an import path like "
            "'package.module:RuleClass'"
        )
    try:
        rule = getattr(import_from_here(module_name), name)()
    except Exception as error:  # somebody else's module: whatever it raises, the user has to mend it there
        raise ConfigError(
            f"consistency rule {path!r}: cannot be loaded ({error}); check PYTHONPATH and the name"
        ) from None
    for method in ("keys", "consistent"):
        if not callable(getattr(rule, method, None)):
            raise ConfigError(f"consistency rule {path!r}: expected a class with the method {method!r}, found none")
    return rule
