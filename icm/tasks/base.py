"""What a task is: how one raw record becomes claims to judge, and what the search may know about them."""

import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from icm.consistency import ConsistencyRule
from icm.errors import ConfigError, DataError
from icm.examples import LabelSpace
from icm.tasks.source import DataSource

CLAIM_TEMPLATE = "Question: {question}\nClaim: {claim}\nI think this Claim is"


_TRUTH = {
    **dict.fromkeys(("true", "1", "1.0", "yes"), "True"),
    **dict.fromkeys(("false", "0", "0.0", "no"), "False"),
}


@dataclass(frozen=True)
class Record:
    """One raw record and where it stands.

    Attributes:
        where: file and line, or data set and row; starts every message about the record.
        fields: name → value, as read.
    """

    where: str
    fields: Mapping[str, Any]

    def error(self, name: str, expected: str) -> DataError:
        """The error for a field whose value cannot be used."""
        if name not in self.fields:
            return DataError(
                f"{self.where}: field {name!r} is missing; expected {expected}; found {sorted(self.fields)}"
            )
        found = repr(self.fields[name])
        return DataError(f"{self.where}: field {name!r}: found {found[:80]}, expected {expected}")

    def text(self, *names: str) -> str:
        """The first of the named fields that is present, as non-empty text without white space at the ends."""
        name = next((name for name in names if name in self.fields), names[0])
        value = self.fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "text that is not empty")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise self.error(name, "valid Unicode (no lone surrogates)")
        return value.strip()

    def texts(self, name: str) -> list[str]:
        """A list of non-empty texts."""
        values = self.fields.get(name)
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise self.error(name, "a list of texts")
        return [Record(self.where, {f"{name}[{i}]": value}).text(f"{name}[{i}]") for i, value in enumerate(values)]

    def optional_text(self, name: str) -> str | None:
        """The field as `text` reads it, or None where it is absent or empty."""
        return None if self.fields.get(name) in (None, "") else self.text(name)

    def label(self, name: str) -> str:
        """A label's name. Numbers and booleans are named as they are written (`0`, `True`)."""
        value = self.fields.get(name)
        if isinstance(value, bool | int):
            return str(value)
        return self.text(name)

    def truth(self, *names: str) -> str | None:
        """The first of the named fields that is present as "True" or "False" (yes and no, 1 and 0); None if empty."""
        name = next((name for name in names if self.fields.get(name) is not None), names[0])
        value = self.fields.get(name)
        if value is None or value == "":
            return None
        label = _TRUTH.get(str(value).strip().lower())
        if label is None:
            raise self.error(name, "a label True or False (1 or 0)")
        return label


@dataclass(frozen=True)
class Item:
    """One claim of a record.

    Attributes:
        fields: what the prompt template may name; becomes the example's metadata.
        gold: gold label, or None where the record has none.
        group: text of the question (or pair, or item) it belongs to; compared after normalisation.
        answer: normalised final answer, for tasks whose claims state one.
        inverse: `fields` of the claim that says the opposite.
        prompt, completion: the claim as an answer to the question, for preference pairs (`metadata["prompt"]`,
            `metadata["completion"]`; the completion starts with its own space). None where that makes no sense.
        labels: label space that the record itself declares.
    """

    fields: Mapping[str, str]
    gold: str | None
    group: str
    answer: str | None = None
    inverse: Mapping[str, str] | None = None
    prompt: str | None = None
    completion: str | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HubData:
    """Where a data set stands on the hub. `split` belongs to `part: train`, `test_split` to `part: test`."""

    path: str
    config: str | None = None
    split: str = "train"
    test_split: str = "test"
    revision: str | None = None


@dataclass(frozen=True)
class Task:
    """A task type. One module in `icm/tasks/builtin/` (or anywhere, named by its import path) holds one as `TASK`.

    Attributes:
        name: task type, also the module's name.
        items: record → its claims. Gold goes to `Item.gold` and nowhere else.
        signatures: field sets; a record with all fields of one of them can be this task (`auto` takes the largest).
        template: prompt up to where the label goes, `{field}` for a field of `Item.fields`; or a function of the
            label space that returns one.
        gold_fields: record fields that a user's template may not name, because they hold or reveal gold.
        label_space: fixed labels; None takes them from the data (sorted) or from the user's verbalisers.
        rules: default consistency rules beside identical text.
        hub: hub data sets that this task reads, with their configuration and splits.
        question: for records without claims: the (question, prompt) from which a model writes candidate claims,
            or None where claims are given. `items` finds what it wrote in the field `generated`.
        records: for data that is built in: source → records.
    """

    name: str
    items: Callable[[Record], Iterable[Item]]
    signatures: Sequence[frozenset[str]]
    template: str | Callable[[LabelSpace], str] = CLAIM_TEMPLATE
    gold_fields: frozenset[str] = frozenset()
    label_space: LabelSpace | None = field(default_factory=LabelSpace)
    rules: Sequence[ConsistencyRule] = ()
    hub: Sequence[HubData] = ()
    question: Callable[[Record], tuple[str, str] | None] | None = None
    records: Callable[[DataSource], Iterable[Record]] | None = None

    def matches(self, fields: Iterable[str]) -> int:
        """Size of the largest signature that the fields contain; 0 if none."""
        present = set(fields)
        return max((len(signature) for signature in self.signatures if signature <= present), default=0)


def signature(*names: str) -> frozenset[str]:
    """Fields by which `auto` knows a record."""
    return frozenset(names)


def candidates(record: Record) -> list[str]:
    """The distinct answers that a model wrote for the record, each up to where it starts a question of its own."""
    written = (re.split(r"\n\s*(?:Question|Instruction):", text)[0].strip() for text in record.fields["generated"])
    return list(dict.fromkeys(text for text in written if text))


def task_names() -> list[str]:
    """Names of the tasks in this package: the modules that hold a `TASK`."""
    package = importlib.import_module("icm.tasks.builtin")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"icm.tasks.builtin.{name}"), "TASK")]


def find_task(name: str) -> Task:
    """The task of that name, or the `TASK` of the module with that import path (`my_package.my_task`).

    Raises:
        ConfigError: there is no such task.
    """
    module = name if "." in name else f"icm.tasks.builtin.{name}"
    try:
        task = importlib.import_module(module).TASK
    except Exception as error:  # a user's module may raise anything
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"task_type {name!r}: no such task ({reason}); expected auto, one of {', '.join(task_names())}, "
            "or the import path of a module with a TASK"
        ) from None
    if not isinstance(task, Task):
        raise ConfigError(f"task_type {name!r}: {module}.TASK is a {type(task).__name__}, expected icm.tasks.base.Task")
    return task
