"""Claims that a model writes, for questions that come without: which are asked, and the file that keeps the answers.

The file holds questions and what was written, a line each, and no gold: whether a claim is right follows from the
record that it is read beside.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icm.errors import ConfigError, DataError
from icm.examples import garbage_collection, rank
from icm.files import fingerprint, write_jsonl
from icm.tasks.base import Record, Task, candidates
from icm.tasks.drawing import group_id, in_part
from icm.tasks.formats import file_records
from icm.tasks.soundness import sound
from icm.tasks.source import DataSource

STAND_IN_CHARACTERS = 180

Generate = Callable[[list[str]], list[str]]
"""Prompts → one sampled continuation each."""

Written = Mapping[str, Sequence[str]]
"""Question → what was written for it."""


@dataclass(frozen=True)
class _Open:
    """A record without claims."""

    record: Record
    question: str
    prompt: str

    def with_claims(self, texts: Sequence[str]) -> Record:
        return replace(self.record, fields={**self.record.fields, "generated": list(texts)})


def stand_ins(prompts: Sequence[str]) -> list[str]:
    """Text in the place of claims, where their number or the questions alone matter."""
    return [f"{'x' * STAND_IN_CHARACTERS} {number}" for number in range(len(prompts))]


def with_claims(
    task: Task, records: Sequence[Record], source: DataSource, generate: Generate | None
) -> tuple[Sequence[Record], Written]:
    """The records, with written claims where the task asks a model for them (`Task.question`), and what was written
    now rather than read from the source's file of claims.

    Raises:
        DataError: claims are missing and there is nobody to write them, or their file cannot be read.
        ConfigError: a setting that does not fit data without claims, or with claims of their own.
    """
    asked = sound([_asked(task, record) for record in records], source.bad_records)
    waiting = {group_id(found[0]): _Open(record, *found) for record, found in asked if found is not None}
    if not waiting:
        if source.claims is not None:
            raise ConfigError(f"claims: found {source.claims!r}, but the records hold their own claims; leave it out")
        return [record for record, _ in asked], {}
    kept = _kept(waiting, source)
    written = {} if kept else _ask(waiting, task, source, generate)
    texts = kept or {group_id(question): found for question, found in written.items()}
    answered = [record for record, found in asked if found is None]
    return answered + [waiting[group].with_claims(found) for group, found in texts.items()], written


def _asked(task: Task, record: Record) -> tuple[Record, tuple[str, str] | None] | DataError:
    try:
        return record, task.asked(record)
    except DataError as error:
        return error


def _kept(waiting: Mapping[str, _Open], source: DataSource) -> Written:
    """Group id → claims from the source's file. None for a test part that the file knows nothing of: it was written for
    the other part of the same data."""
    if source.claims is None:
        return {}
    path = Path(source.claims).expanduser()
    if not path.is_file():
        raise DataError(f"claims {path}: no such file; label the data anew, or give the path of its file of claims")
    rows = {group_id(row.text("question")): _texts(row) for row in file_records(path)}
    found = {group: texts for group, texts in rows.items() if group in waiting and in_part(group, source)}
    if not found and source.part == "train":
        raise DataError(
            f"claims {source.claims}: holds none of the {len(waiting)} questions of {source.dataset} (part "
            f"{source.part}); name the file that was kept for these data, or none to let the model write"
        )
    return found


def _texts(row: Record) -> list[str]:
    """What was written for a question; a model may have written nothing."""
    values = row.values("generated")
    if any(isinstance(value, list | dict) for value in values):
        raise row.error("generated", "a list of texts")
    texts = list(map(str, values))
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        raise row.error("generated", "valid Unicode (no lone surrogates)")
    return texts


def _ask(waiting: Mapping[str, _Open], task: Task, source: DataSource, generate: Generate | None) -> Written:
    if generate is None:
        first = next(iter(waiting.values())).record
        raise DataError(
            f"{first.where}: the record has no claims to judge (task {task.name}); `icm run` lets the model write them "
            "and names their file in its label file: give that file as `claims`, or data with claims"
        )
    if source.slice is not None:  # another model, and each slice has its own, would write other claims to divide
        raise ConfigError(
            f"slice: found {source.slice!r}, but a model writes the claims; write them once (`icm run --algorithm "
            "random`), then give their file as `claims`"
        )
    wanted, count = [waiting[group] for group in _drawn(waiting, source)], source.candidates
    with garbage_collection(on=True):  # it starts an engine, and takes hours
        texts = generate([entry.prompt for entry in wanted for _ in range(count)])
    if len(texts) != len(wanted) * count:
        raise ValueError(f"{len(texts)} claims for {len(wanted)} questions")
    starts = range(0, len(texts), count)
    return {e.question: _distinct(task, e, texts[at : at + count]) for at, e in zip(starts, wanted, strict=True)}


def _distinct(task: Task, entry: _Open, texts: Sequence[str]) -> list[str]:
    """The usable claims: no two alike, nor with the same final answer, where they state one."""
    kept: dict[str, str] = {}
    for text in candidates(entry.with_claims(texts)):
        answer = task.stated and task.stated(text)
        kept.setdefault(text if answer is None else f"#### {answer}", text)
    return list(kept.values())


@dataclass(frozen=True)
class WritingCounts:
    """What came of the claims that a model was asked for.

    Attributes:
        questions: that it was asked.
        candidates: claims asked for, a question.
        distinct: usable claims that differ, in their final answers where they state one.
        without: questions without a usable claim.
    """

    questions: int
    candidates: int
    distinct: int
    without: int

    @classmethod
    def of(cls, written: Written, candidates: int) -> "WritingCounts":
        """Of what was written now."""
        sizes = [len(texts) for texts in written.values()]
        return cls(len(sizes), candidates, sum(sizes), sizes.count(0))

    @property
    def share(self) -> float:
        """Distinct claims among all that were written."""
        return self.distinct / (self.questions * self.candidates)

    def __str__(self) -> str:
        return (
            f"{self.candidates} claims for each of {self.questions:,} questions, {self.share:.0%} of them distinct; "
            f"{self.without} questions without a usable one"
        )


def _drawn(groups: Iterable[str], source: DataSource) -> list[str]:
    """The questions of this part, as many as the draw will need: writing claims costs more than all else here."""
    order = sorted((g for g in groups if in_part(g, source)), key=lambda g: rank(g, source.seed))
    return order[: None if source.max_examples is None else max(1, source.max_examples // source.candidates)]


def keep_claims(folder: Path, written: Written) -> str:
    """Write a source's file of claims into the folder, named by its content; returns its path."""
    rows = [{"question": question, "generated": list(texts)} for question, texts in written.items()]
    path = folder / f"{fingerprint(rows)}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, rows)
    return str(path)
