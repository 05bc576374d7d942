"""Demonstrations and their labels: the same examples for every many-shot condition, only the labels differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from icm.config import LabelSource
from icm.errors import ConfigError, ICMError
from icm.examples import GoldLabels, ICMExample, LabelSpace, TaskData
from icm.results.format import ICMResult
from icm.results.origin import labelled_source
from icm.results.twins import refuse_other_reading, twin
from icm.tasks import load_task
from icm.tasks.source import DataSource

# Streams of randomness that the search, which draws from (seed, iteration), never uses.
_CHOICE, _ORDER = 2**40, 2**40 + 3

Demonstrations = tuple[tuple[ICMExample, str], ...]


@dataclass(frozen=True)
class LabelFile:
    """A label file with the gold labels of the data it was made from.

    Attributes:
        path: as given.
        result: what the file holds.
        gold: example id → gold, of the whole part of the data that the labelled examples were drawn from.
        training: the examples of that part that have gold.
    """

    path: str
    result: ICMResult
    gold: GoldLabels
    training: tuple[ICMExample, ...]

    @property
    def labels(self) -> Mapping[str, str]:
        """Example id → the file's label."""
        return self.result.labels


def with_gold(path: str, result: ICMResult, held_out: DataSource) -> LabelFile:
    """A label file's content with the gold of its data.

    Gold comes through the source that the file records. A file of codelion/icm records none: its gold, if any, is that
    of the training part of the held-out data's source.

    Raises:
        ICMError: its data cannot be loaded.
    """
    source = labelled_source(result, held_out.dataset)
    task = _training_part(held_out) if source is None else load_task(source.whole)
    if task is None:
        return LabelFile(path, result, GoldLabels({}), ())
    if source is not None:
        refuse_other_reading(result, task.dataset, path)
    return LabelFile(path, result, task.gold, tuple(e for e in task.dataset if e.id in task.gold))


def _training_part(held_out: DataSource) -> TaskData | None:
    """The training part of the held-out data's source, None where there is none to load (a test file alone, say)."""
    try:
        return load_task(replace(held_out.whole, part="train"))
    except ICMError:
        return None


def choose(files: Sequence[LabelFile], shots: int, seed: int) -> tuple[ICMExample, ...]:
    """Up to `shots` examples that every label file labels, drawn with `seed`.

    Raises:
        ConfigError: the files have no example in common.
    """
    common = set.intersection(*(set(file.labels) for file in files))
    if not common:
        raise ConfigError(f"{', '.join(file.path for file in files)}: no example in common; label the same data")
    pool = {item.example.id: item.example for item in files[0].result.labeled_examples}
    order = np.random.default_rng([seed, _CHOICE]).permutation(sorted(common))
    return tuple(pool[key] for key in order[:shots])


def labels_for(
    source: LabelSource, examples: Sequence[ICMExample], file: LabelFile, label_space: LabelSpace, seed: int
) -> Demonstrations:
    """Label the examples by `source`."""
    found = {item.example.id: item for item in file.result.labeled_examples}
    chosen = replace(file.result, labeled_examples=[found[e.id] for e in examples], label_space=label_space)
    labelled = twin(chosen, source, seed, file.gold, file.path).labeled_examples
    return tuple((example, item.label) for example, item in zip(examples, labelled, strict=True))


def ordered(demonstrations: Demonstrations, seed: int, order: int) -> Demonstrations:
    """The demonstrations in the `order`-th random order, one that no search has used."""
    positions = np.random.default_rng([seed, _ORDER, order]).permutation(len(demonstrations))
    return tuple(demonstrations[k] for k in positions)
