"""The labels of a training run and its twins: same recipe, other labels."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

from icm.config import LabelSource
from icm.errors import ConfigError, DataError
from icm.examples import TaskData
from icm.labelling.options import nearest
from icm.markdown import public_name
from icm.results.format import ICMResult
from icm.tasks.source import DataSource

# Robust DPO divides by 1 - 2p: at one half a label says nothing.
MAX_FLIP_PROBABILITY = 0.49


def twin(result: ICMResult, source: LabelSource, seed: int) -> ICMResult:
    """The result with the labels of `source`; everything else, log-odds included, stays as it was.

    Raises:
        DataError: gold labels are wanted and missing.
    """
    if source == "labels":
        return result
    labels = _gold(result) if source == "gold" else _balanced(result, seed)
    items = [replace(item, label=label) for item, label in zip(result.labeled_examples, labels, strict=True)]
    return replace(result, labeled_examples=items)


def _balanced(result: ICMResult, seed: int) -> list[str]:
    names = result.label_space.labels
    labels = [names[place % len(names)] for place in range(len(result.labeled_examples))]
    random.Random(f"random labels {seed}").shuffle(labels)
    return labels


def _gold(result: ICMResult) -> list[str]:
    source = labelled_source(result)
    if source is None:
        raise DataError(
            "label_source gold: the label file does not say where its examples come from (metadata data.source); "
            "label them with `icm run`"
        )
    gold = _load(source).gold
    missing = [item.example for item in result.labeled_examples if item.example.id not in gold]
    if missing:
        raise DataError(
            f"label_source gold: {source.dataset} has no gold label for {len(missing)} of "
            f"{len(result.labeled_examples)} examples, the first is {missing[0].input[:60]!r}"
        )
    return [gold[item.example.id] for item in result.labeled_examples]


def labelled_source(result: ICMResult) -> DataSource | None:
    """Where the labelled examples come from, if the file says so."""
    values = (result.metadata.get("data") or {}).get("source")
    return parse_source(values, "metadata data.source") if values else None


def parse_source(values: Any, where: str) -> DataSource:
    """A `DataSource` from a mapping. Raises ConfigError naming an unknown field."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: found {values!r}, expected a mapping with the fields of a data source")
    known = DataSource.__dataclass_fields__
    for name in values:
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}{nearest(str(name), known)}")
    return DataSource(**values)


def _load(source: DataSource) -> TaskData:
    # Imported here: hub and Parquet data need `datasets`, which takes seconds to load.
    from icm.tasks import load_task

    return load_task(source)


@dataclass(frozen=True)
class OverlapCheck:
    """What the data guard compared.

    Attributes:
        evaluation: the evaluation's data source; None if none is known.
        questions: number of its questions.
    """

    evaluation: DataSource | None
    questions: int = 0

    def __str__(self) -> str:
        if self.evaluation is None:
            return "not checked (set eval_source to the evaluation's data)"
        name = public_name(self.evaluation.dataset)
        return f"none with the {self.questions} questions of {name} ({self.evaluation.part})"


def check_overlap(result: ICMResult, evaluation: DataSource | None) -> OverlapCheck:
    """Refuse label files that share a question with the evaluation: train and test share no question.

    Without `evaluation` the held-out part of the labelled source is taken, where it has one.

    Raises:
        DataError: a question is in both.
    """
    labelled = labelled_source(result)
    if evaluation is None and labelled is not None and labelled.holdout > 0:
        evaluation = replace(labelled.whole, part="test")
    if evaluation is None:
        return OverlapCheck(None)
    dataset = _load(evaluation).dataset
    held_out = {example.group for example in dataset} | {example.id for example in dataset}
    shared = [item.example for item in result.labeled_examples if {item.example.group, item.example.id} & held_out]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(result.labeled_examples)} labelled examples belong to questions of the evaluation "
            f"({evaluation.dataset}, {evaluation.part}), the first is {shared[0].input[:60]!r}; label the train part"
        )
    return OverlapCheck(evaluation, len({example.group for example in dataset}))


def flip_probability(result: ICMResult) -> float:
    """Probability that a label is wrong by the labels' own confidence: mean of 1 - sigmoid(log-odds).

    Taken from the labeler's log-odds for every twin, so that twins differ in the labels alone. At most
    `MAX_FLIP_PROBABILITY`.

    Raises:
        DataError: no label has log-odds.
    """
    odds = [item.log_odds for item in result.labeled_examples if item.log_odds is not None]
    if not odds:
        raise DataError(
            "loss_type robust: no label has log-odds to take the flip probability from; set label_smoothing"
        )
    return min(MAX_FLIP_PROBABILITY, sum(map(_wrong, odds)) / len(odds))


def _wrong(log_odds: float) -> float:
    """1 - sigmoid(x) without overflow."""
    return exp(-log_odds) / (1 + exp(-log_odds)) if log_odds > 0 else 1 / (1 + exp(log_odds))


def label_balance(result: ICMResult) -> dict[str, int]:
    """Label → number of examples."""
    labels: Sequence[str] = [item.label for item in result.labeled_examples]
    return {name: labels.count(name) for name in result.label_space.labels}
