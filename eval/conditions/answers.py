"""What a condition says about every item, kept on disk as it comes, so that a killed run loses a batch at most."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from icm.errors import DataError
from icm.files import JsonObject, append_jsonl, appending, cut_log, fingerprint, read_log


@dataclass(frozen=True)
class Answer:
    """One condition's answer to one item.

    Attributes:
        id: `ICMExample.id`.
        log_probs: natural-log probability of each whole label (from a server, of its beginning), over all texts;
            None if the condition gives a label without probabilities, or failed.
        label: the answer of a condition that gives no probabilities; None otherwise.
        prompt_hash: fingerprint of the prompt.
        error: why there is no answer. Such an item counts as wrong, never as a guess.
    """

    id: str
    log_probs: tuple[float, ...] | None = None
    label: str | None = None
    prompt_hash: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Answers that were computed together.

    Attributes:
        answers: one an item.
        usage: what they cost: counters that add up over batches (prompts, computed_tokens, requests, seconds, …).
        facts: counts that a reader must know (shots used, shots that did not fit, gold labels used).
    """

    answers: tuple[Answer, ...]
    usage: Mapping[str, int | float] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)


_BATCH = TypeAdapter(Batch)


class AnswerFile:
    """Append-only answers of one condition and seed.

    The file's name holds a fingerprint of all that the answers depend on, so answers to other prompts, data or weights
    are never found.
    """

    def __init__(self, folder: Path, name: str, identity: Mapping[str, object]) -> None:
        self.fingerprint = fingerprint(identity)
        self.path = folder / f"{name}-{self.fingerprint}.jsonl"
        self.answers: dict[str, Answer] = {}
        self.usage: dict[str, float] = {}
        self.facts: dict[str, int] = {}
        for number, row in read_log(self.path):
            self._take(_batch(row, f"{self.path}:{number}"))

    def unanswered(self, ids: Iterable[str]) -> list[str]:
        """The ids without an answer, in order. A failed item counts as unanswered until the condition is complete, and
        where all have failed it is not."""
        ids = list(ids)
        if all(key in self.answers for key in ids) and not all(self.answers[key].error for key in ids):
            return []
        return [key for key in ids if key not in self.answers or self.answers[key].error]

    def forget(self) -> None:
        """Run the condition again: drop what is there."""
        self.path.unlink(missing_ok=True)
        self.answers, self.usage, self.facts = {}, {}, {}

    @contextmanager
    def appending(self) -> Iterator["AnswerFile"]:
        """Open for `add`. A torn last line is cut off first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_log(self.path)
        with appending(self.path) as self._handle:
            yield self

    def add(self, batch: Batch) -> None:
        """Keep a batch: one line, so that cost and answers are kept or lost together."""
        append_jsonl(self._handle, asdict(batch))
        self._take(batch)

    def _take(self, batch: Batch) -> None:
        self.answers.update((answer.id, answer) for answer in batch.answers)
        for key, value in batch.usage.items():
            self.usage[key] = self.usage.get(key, 0) + value
        self.facts.update(batch.facts)


def _batch(row: JsonObject, where: str) -> Batch:
    try:
        return _BATCH.validate_python(row)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise DataError(f"{where}: {place}: {error.errors()[0]['msg']}; remove the file to ask again") from None


def prompt_hash(prompt: object) -> str:
    """Fingerprint of a prompt: token ids, or chat messages."""
    return fingerprint(json.loads(json.dumps(prompt)))
