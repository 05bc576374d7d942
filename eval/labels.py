"""Demonstrations and their labels: the same examples for every many-shot condition, only the labels differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from icm.errors import ConfigError, DataError
from icm.examples import GoldLabels, ICMExample, LabelSpace
from icm.results.format import ICMResult, data_source, read_result
from icm.tasks import load_task

# Streams of randomness that the search, which draws from (seed, iteration), never uses.
_CHOICE, _RANDOM, _PERTURB, _ORDER = 2**40, 2**40 + 1, 2**40 + 2, 2**40 + 3

Demonstrations = tuple[tuple[ICMExample, str], ...]


@dataclass(frozen=True)
class LabelFile:
    """A label file with the gold labels of the data it was made from.

    Attributes:
        path: as given.
        result: what the file holds.
        labels: example id → the file's label.
        gold: example id → gold, of the whole part of the data that the labelled examples were drawn from.
        training: the examples of that part that have gold.
    """

    path: str
    result: ICMResult
    labels: Mapping[str, str]
    gold: GoldLabels
    training: tuple[ICMExample, ...]

    def need_gold(self, ids: Sequence[str]) -> list[str]:
        """Gold of the examples. Raises DataError if one has none."""
        missing = [key for key in ids if key not in self.gold]
        if missing:
            raise DataError(
                f"{self.path}: {len(missing)} of {len(ids)} examples have no gold label in the data the file names; "
                "leave out the conditions that need gold (golden, perturbed, surface, majority)"
            )
        return [self.gold[key] for key in ids]


def load_label_file(path: str, label_space: LabelSpace) -> LabelFile:
    """Read a label file, and the gold of its data through the source it records.

    Raises:
        DataError: not a label file, other labels than the held-out data, or no recorded source.
    """
    result = read_result(path)
    if set(result.label_space.labels) != set(label_space.labels):
        raise DataError(
            f"{path}: labels {list(result.label_space.labels)}, but the held-out data has {list(label_space.labels)}; "
            "evaluate on data of the same task"
        )
    source = data_source(result)
    if source is None:
        raise DataError(f"{path}:1: field 'data.source' is missing; label the data anew with `icm run`")
    task = load_task(source.whole)
    labels = {item.example.id: item.label for item in result.labeled_examples}
    return LabelFile(path, result, labels, task.gold, tuple(e for e in task.dataset if e.id in task.gold))


def refuse_overlap(file: LabelFile, held_out: Sequence[ICMExample]) -> None:
    """Refuse training examples that share a question with the held-out set.

    Raises:
        DataError: names the file, how many questions overlap, and one of them.
    """
    trained = {item.example.group: item.example for item in file.result.labeled_examples}
    trained_ids = set(file.labels)
    shared = {e.group for e in held_out if e.group in trained or e.id in trained_ids}
    if shared:
        example = next(e for e in held_out if e.group in shared)
        raise DataError(
            f"{file.path}: {len(shared)} question(s) are also in the held-out set, for example "
            f"{example.input[:80]!r}; evaluate on part: test with the holdout that the labels were made with"
        )


def choose(files: Sequence[LabelFile], shots: int, seed: int) -> tuple[ICMExample, ...]:
    """Up to `shots` examples that every label file labels, drawn with `seed`.

    Raises:
        ConfigError: the files have no example in common.
    """
    common = set(files[0].labels).intersection(*(file.labels for file in files[1:]))
    if not common:
        raise ConfigError(f"{', '.join(file.path for file in files)}: no example in common; label the same data")
    pool = {item.example.id: item.example for item in files[0].result.labeled_examples}
    order = np.random.default_rng([seed, _CHOICE]).permutation(sorted(common))
    return tuple(pool[key] for key in order[:shots])


def random_labels(count: int, label_space: LabelSpace, seed: int) -> list[str]:
    """Each label equally often, in random order."""
    drawn = label_space.random_labels(count, np.random.default_rng([seed, _RANDOM]))
    return [drawn[place] for place in range(count)]


def perturbed_labels(gold: Sequence[str], errors: int, label_space: LabelSpace, seed: int) -> list[str]:
    """Gold with `errors` labels, drawn at random, changed to another label: as accurate as the search's, but
    wrong in no particular way."""
    rng = np.random.default_rng([seed, _PERTURB])
    labels = list(gold)
    for position in rng.choice(len(labels), size=errors, replace=False):
        labels[position] = str(rng.choice([label for label in label_space.labels if label != labels[position]]))
    return labels


def labels_for(
    source: str, examples: Sequence[ICMExample], file: LabelFile, label_space: LabelSpace, seed: int
) -> Demonstrations:
    """Label the examples by `source` (see `icm.config.LabelSource`)."""
    ids = [example.id for example in examples]
    if source == "labels":
        labels = [file.labels[key] for key in ids]
    elif source == "random":
        labels = random_labels(len(ids), label_space, seed)
    else:
        labels = file.need_gold(ids)
    if source == "perturbed":
        errors = sum(file.labels[key] != gold for key, gold in zip(ids, labels, strict=True))
        labels = perturbed_labels(labels, errors, label_space, seed)
    return tuple(zip(examples, labels, strict=True))


def ordered(demonstrations: Demonstrations, seed: int, order: int) -> Demonstrations:
    """The demonstrations in the `order`-th random order, one that no search has used."""
    positions = np.random.default_rng([seed, _ORDER, order]).permutation(len(demonstrations))
    return tuple(demonstrations[k] for k in positions)
