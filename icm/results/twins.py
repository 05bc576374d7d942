"""The same examples with other labels, the examples that a labeler is surest of, and the guard that no example of
theirs is in the evaluation."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from icm.config import LabelSource
from icm.errors import DataError
from icm.examples import GoldLabels, ICMExample, LabelSpace
from icm.results.format import ICMResult
from icm.results.origin import labelled_source

# Streams of randomness that the search, which draws from (seed, iteration), never uses.
_WITHOUT_GOLD = "leave out what needs gold (gold, perturbed, surface, majority)"
_RANDOM, _PERTURB = 2**40 + 1, 2**40 + 2


def twin(
    result: ICMResult,
    source: LabelSource,
    seed: int,
    gold: Mapping[str, str] | None = None,
    file: str = "the label file",
    otherwise: str = _WITHOUT_GOLD,
) -> ICMResult:
    """The result with the labels of `source`; everything else, log-odds included, stays as it was.

    Args:
        result: the labels found.
        source: whose labels; `perturbed` is gold with as many errors as the result has, but in no particular way.
        seed: of random labels and errors.
        gold: example id → gold; None loads it, if it is needed, from the source that the result names.
        file: name of the result's file, for messages.
        otherwise: what to do where gold is missing, for messages.

    Raises:
        DataError: gold labels are wanted and missing.
    """
    if source == "labels":
        return result
    if source == "random":
        drawn = result.label_space.random_labels(len(result.labeled_examples), np.random.default_rng([seed, _RANDOM]))
        return _relabelled(result, [drawn[place] for place in range(len(drawn))])
    labels = need_gold(result, load_gold(result, file) if gold is None else gold, file, otherwise)
    if source == "perturbed":
        errors = sum(item.label != right for item, right in zip(result.labeled_examples, labels, strict=True))
        labels = _perturbed(labels, errors, result.label_space, seed)
    return _relabelled(result, labels)


def surest(result: ICMResult, share: float, file: str = "the label file") -> ICMResult:
    """The result with this share of the examples of each label, those with the largest log-odds; at least one of each,
    and all whose labels are trusted.

    Which examples stay depends on the labels found alone, so that twins have the same ones. All of them do where no
    label has log-odds (random labels, files of other programs).

    Raises:
        DataError: some labels have log-odds and others none.
    """
    items = result.labeled_examples
    kept = {place for place, item in enumerate(items) if item.trusted}
    scored = sum(item.log_odds is not None for item in items)
    if share == 1 or not scored:
        return result
    if scored < len(items):
        raise DataError(
            f"{file}: surest {share:g} needs log-odds of every label, which it lacks; train on all (surest 1)"
        )
    for label in result.label_space.labels:
        places = [place for place, item in enumerate(items) if item.label == label]
        places.sort(key=lambda place: -(items[place].log_odds or 0.0))
        kept |= {*places[: max(1, round(share * len(places)))]}
    return replace(result, labeled_examples=[items[place] for place in sorted(kept)])


def _relabelled(result: ICMResult, labels: Sequence[str]) -> ICMResult:
    items = [replace(item, label=label) for item, label in zip(result.labeled_examples, labels, strict=True)]
    return replace(result, labeled_examples=items)


def _perturbed(gold: Sequence[str], errors: int, space: LabelSpace, seed: int) -> list[str]:
    """Gold with `errors` labels, drawn at random, changed to another label."""
    rng = np.random.default_rng([seed, _PERTURB])
    labels = list(gold)
    for place in rng.choice(len(labels), size=errors, replace=False):
        labels[place] = str(rng.choice([label for label in space.labels if label != labels[place]]))
    return labels


def load_gold(result: ICMResult, file: str = "the label file") -> GoldLabels:
    """Gold of the data that the result names as its source.

    Raises:
        ICMError: it names none, or the data cannot be loaded.
    """
    source = labelled_source(result)
    if source is None:
        raise DataError(
            f"{file}: does not say where its examples come from, so their gold labels are not known; add it to the "
            'first line ("data": {"source": {"dataset": …}}), or use the labels found or random ones'
        )
    # Imported here: hub and Parquet data need `datasets`, which takes seconds to load.
    from icm.tasks import load_task

    data = load_task(source)
    refuse_other_reading(result, data.dataset, file)
    return data.gold


def refuse_other_reading(result: ICMResult, data: Iterable[ICMExample], file: str) -> None:
    """Refuse labels of other examples than the data hold: they were read otherwise then, or are others now.

    Raises:
        DataError: none of the labelled examples is among the data.
    """
    labelled = result.labeled_examples
    if labelled and not {example.id for example in data} & result.labels.keys():
        raise DataError(
            f"{file}: none of its {len(labelled)} examples is in its data as they are read now, the first is "
            f"{labelled[0].example.input[:60]!r}; the data have changed, or another version read them otherwise: label "
            "them anew"
        )


def need_gold(result: ICMResult, gold: Mapping[str, str], file: str, otherwise: str = _WITHOUT_GOLD) -> list[str]:
    """Gold of each example of the result. Raises DataError if one has none."""
    missing = [item.example for item in result.labeled_examples if item.example.id not in gold]
    if missing:
        raise DataError(
            f"{file}: no gold label for {len(missing)} of {len(result.labeled_examples)} examples in their data, the "
            f"first is {missing[0].input[:60]!r}; {otherwise}"
        )
    return [gold[item.example.id] for item in result.labeled_examples]


def refuse_overlap(labelled: Collection[ICMExample], held_out: Collection[ICMExample], file: str) -> None:
    """Train and test share no question: refuse labels of questions, or of texts, that are held out.

    Raises:
        DataError: names the file, how many of its examples are held out, and one of them.
    """
    keys = {example.group for example in held_out} | {example.id for example in held_out}
    shared = [example for example in labelled if {example.group, example.id} & keys]
    if shared:
        raise DataError(
            f"{file}: {len(shared)} of {len(labelled)} labelled examples belong to questions that are "
            f"also in the held-out set, for example {shared[0].input[:80]!r}; take these rows out of the held-out "
            "file, or label and evaluate with one and the same --holdout"
        )
