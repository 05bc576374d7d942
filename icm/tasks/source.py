"""Where data comes from: one serialisable description, shared by label, train and eval."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

from icm.config import GenerationConfig


@dataclass(frozen=True)
class DataSource:
    """Which records to load, as which task, and which part of them.

    Attributes:
        dataset: built-in name (`reviews`), local file (.json, .jsonl, .csv, .tsv, .parquet, each also .gz), folder of
            such files (as `hf download` makes it) or of `datasets.save_to_disk`, hub name, or `synthetic:math`,
            `synthetic:comparison` or `synthetic:problems`.
        task_type: task name, or `auto` to detect it from the records' fields; or the import path of a module with a
            TASK, which may lie in the current folder.
        config: hub data set configuration; None picks the task's own.
        split: split of a data set that has named splits (also files whose records have a field `split`); None picks
            the task's own, else `train` or `test`, whichever `part` says.
        holdout: share of the *questions* (groups) kept for evaluation, chosen by content hash, so that every
            stage agrees without a file. 0 for data sets with their own test split.
        part: which side of the holdout to load; without a holdout, the train or the test split.
        max_examples: at most this many examples, whole groups, drawn with `seed`.
        seed: seed of that draw, and of synthetic generation.
        size: number of items generated for `synthetic:*`.
        template: prompt template with `{field}` placeholders that replaces the task's own; over any columns of
            records that no task knows it makes a classification of them.
        verbalisers: label → text in the prompt, replaces the task's own (leading space included); scored whole.
        slice: `J/N`, the J-th of N parts of nearly equal size that share no question, drawn with `seed` from what the
            other fields leave.
        claims: file of the claims that a model wrote for data without (`icm run` keeps it in `output_dir/generated` and
            names it in the label file): of the questions, those it holds. None lets the model write; so does a file
            that was written for the other part of the holdout.
        bad_records: what becomes of records that cannot be used (malformed, empty, longer than the model's context).
            `auto` leaves them out, counted and named, where at least 99 % are sound, or all but one of at least 4;
            `skip` leaves out any number; `refuse` none.
        text_field: record field that holds the text to classify, where it is not called `text`.
        label_field: record field that holds the gold label, where it is not called `label`.
        group_field: record field whose equal values belong together: they are drawn, held out and sliced as one.
        label_map: names for labels as the records have them; an empty name makes the label count as absent.
        ignore_fields: record fields that are not read.
        trusted: file of labels that you vouch for (JSON lines or CSV, as `icm ask` and `icm review` write it: `id`, the
            whole input, or the data's own fields, and `label`). They are never changed, stand in every context
            beside its found labels, and their questions are among those drawn.
        definitions: examples outside the data that say what the labels mean, at the start of every prompt: a file with
            `text` (up to where the label goes) and `label`, or `builtin` for claims that are True or False.
        start: label file of an earlier run on these data whose labels the search starts from.
        candidates: claims that a model writes for a question of data without.
    """

    dataset: str = "reviews"
    task_type: str = "auto"
    config: str | None = None
    split: str | None = None
    holdout: float = 0.0
    part: Literal["train", "test"] = "train"
    max_examples: int | None = None
    seed: int = 42
    size: int = 100
    template: str | None = None
    verbalisers: dict[str, str] | None = None
    slice: str | None = None
    claims: str | None = None
    bad_records: Literal["auto", "skip", "refuse"] = "auto"
    text_field: str | None = None
    label_field: str | None = None
    group_field: str | None = None
    label_map: dict[str, str] | None = None
    ignore_fields: list[str] | None = None
    trusted: str | None = None
    definitions: str | None = None
    start: str | None = None
    candidates: int = 4

    @property
    def own_task(self) -> str | None:
        """The module of a task of the user's own; None for a task of ours, whose name has no dot."""
        return self.task_type if "." in self.task_type else None

    @property
    def without_labels(self) -> "DataSource":
        """The records alone, for later stages, which have the labels, and how they were asked, in a label file: all
        of them where trusted ones had a say in the draw."""
        return self.whole if self.trusted else replace(self, definitions=None, start=None)

    @property
    def whole(self) -> "DataSource":
        """All records of the same side of the holdout: nothing drawn, nothing sliced, nothing said of labels."""
        return replace(self, max_examples=None, slice=None, trusted=None, definitions=None, start=None)


_NAMES = [field.name for field in fields(DataSource)]
LATER = {entry.name: entry.default for entry in fields(DataSource)[_NAMES.index("slice") :]} | {
    "tokenizer": None,
    **{entry.name: entry.default for entry in fields(GenerationConfig) if "_last_" in entry.name},
}
"""Settings that the first label files do not have, with their defaults."""


def written(fields: Iterable[tuple[str, object]]) -> dict[str, object]:
    """`dict_factory` of `asdict` for settings that are written to files: fields that came later say nothing where they
    are not set, so that files are the bytes they were before there were any."""
    return {name: value for name, value in fields if name not in LATER or value != LATER[name]}


def with_options_of(place: str, advice: str) -> str:
    """Advice that names options of `icm run` on how data are read, with what they are called elsewhere; `--holdout`
    stays, which the labelling alone decides."""

    def renamed(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return place + name if name in _NAMES and name != "holdout" else found[0]

    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", renamed, advice)
