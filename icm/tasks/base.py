"""What a task is: how one raw record becomes claims to judge, and what the search may know about them."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from icm.consistency import ConsistencyRule
from icm.errors import DataError, ICMError
from icm.examples import LabelSpace
from icm.tasks.record import Record
from icm.tasks.source import DataSource

__all__ = ["CLAIM_TEMPLATE", "NEXT_QUESTION", "HubData", "Item", "Record", "Task", "candidates", "signature"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

NEXT_QUESTION = ("\nQuestion:", "\nInstruction:")
"""Base models go on with a question of their own: what they write for one ends there."""

CLAIM_TEMPLATE = "Question: {question}\nClaim: {claim}\nI think this Claim is"


@dataclass(frozen=True, slots=True)
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
        signatures: sets of fields by which `auto` knows a record. It takes the task with the largest set that the
            record has.
        template: prompt up to where the label goes, `{field}` for a field of `Item.fields`; or a function of the
            label space that returns one.
        gold_fields: record fields that a user's template may not name, because they hold or reveal gold.
        label_space: fixed labels; None takes them from the data (sorted) or from the user's verbalisers.
        rules: default consistency rules beside identical text.
        hub: hub data sets that this task reads, with their configuration and splits.
        question: for records without claims: the (question, prompt) from which a model writes candidate claims,
            or None where claims are given. `items` finds what it wrote in the field `generated`.
        stated: the final answer that a written claim states, or None: of claims with the same one the first is kept.
        records: for data that is built in: source → records.
        leaves_out: record fields that published data of the task have, and that its prompt does without.
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
    stated: Callable[[str], str | None] | None = None
    records: Callable[[DataSource], Iterable[Record]] | None = None
    leaves_out: frozenset[str] = frozenset()

    def matches(self, fields: Iterable[str]) -> int:
        """Size of the largest signature that the fields contain; 0 if none."""
        present = set(fields)
        return max((len(signature) for signature in self.signatures if signature <= present), default=0)

    def claims(self, record: Record) -> list[Item]:
        """What `items` makes of a record. Raises DataError for whatever it raises."""
        return self._read(record, lambda record: list(self.items(record)))

    def asked(self, record: Record) -> tuple[str, str] | None:
        """What `question` makes of a record; None without one. Raises DataError for whatever it raises."""
        return self._read(record, self.question) if self.question else None

    def _read(self, record: Record, reader: Callable[[Record], T]) -> T:
        try:
            return reader(record)
        except ICMError:
            raise
        except Exception as error:  # a task of the user's own may raise anything
            _log.debug("%s: task %s", record.where, self.name, exc_info=True)
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DataError(
                f"{record.where}: task {self.name} does not read this record ({said}); its fields are "
                f"{sorted(map(str, record.fields))}; mend the record, or the task"
            ) from None


def signature(*names: str) -> frozenset[str]:
    """Fields by which `auto` knows a record."""
    return frozenset(names)


def candidates(record: Record) -> list[str]:
    """The distinct answers that a model wrote for the record.

    Base models go on with a question of their own, so each answer ends where such a one starts.
    """
    written = (re.split(r"\n\s*(?:Question|Instruction):", str(text))[0].strip() for text in record.values("generated"))
    return list(dict.fromkeys(text for text in written if text))
