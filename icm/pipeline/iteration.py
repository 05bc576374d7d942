"""Iterative labelling: the rounds, each by a model that was fine-tuned on labels of earlier ones, and their one file.

For data larger than one context (arXiv 2506.10139, section on larger data sets). The rounds of an experiment are stages
like others; this command stands between them:

    python -m icm.pipeline.iteration LABELS.jsonl … --output MERGED.jsonl [--without J/N]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icm.config import Algorithm
from icm.doors import door
from icm.errors import DataError
from icm.pipeline.experiment import LabelStage
from icm.results.format import ICMResult, LabeledExample, read_result, write_result
from icm.results.origin import user_task
from icm.results.record import RunRecord
from icm.tasks import load_task
from icm.tasks.source import DataSource


@dataclass(frozen=True)
class Round:
    """One labelling of several.

    Attributes:
        name: in file names.
        slice: of the data (see `DataSource`); None is all of it.
        learnt: rounds on whose labels the model is fine-tuned, without those of the slice; none for the base model.
        algorithm: labeler; None for that of the experiment.
    """

    name: str
    slice: str | None
    learnt: tuple[str, ...] = ()
    algorithm: Algorithm | None = None


def rounds_of(label: LabelStage) -> list[Round]:
    """The rounds in order. `grow`: each part by a model that has learnt the parts before it. `kfold`: everything by the
    base model, then each fold by a model that has learnt the labels of the others. `self-training`: everything by the
    base model, then everything again by what a model that has learnt the labels before answers when asked plainly."""
    if label.scheme == "self-training":
        later = (Round(f"round{n}", None, (f"round{n - 1}",), "zero-shot") for n in range(2, label.rounds + 1))
        return [Round("round1", None), *later]
    slices = [f"{number}/{label.rounds}" for number in range(1, label.rounds + 1)]
    if label.scheme == "kfold":
        return [Round("base", None), *(Round(f"fold{n}", part, ("base",)) for n, part in enumerate(slices, 1))]
    names = tuple(f"round{number}" for number in range(1, label.rounds + 1))
    return [Round(name, part, names[:place]) for place, (name, part) in enumerate(zip(names, slices, strict=True))]


def merge(files: Sequence[Path], without: str | None = None, task_type: str | None = None) -> ICMResult:
    """The labels of several files of one data set as one result.

    Args:
        files: label files that share no example.
        without: slice of the data whose examples are left out.
        task_type: see `ICMResult`.

    Raises:
        DataError: the files are not of one data set, share an example, or hold none outside `without`.
    """
    results = [read_result(path, task_type) for path in files]
    source = _source(files[0], results[0])
    items: dict[str, LabeledExample] = {}
    for path, result in zip(files, results, strict=True):
        if _source(path, result) != source:
            raise DataError(f"{path}: labels other data than {files[0]}; merge label files of one data set")
        for item in result.labeled_examples:
            if items.setdefault(item.example.id, item) is not item:
                raise DataError(f"{path}: {item.example.input[-60:]!r} is in an earlier file too; leave one out")
    left_out = set[str]()
    if without:
        part = replace(source, slice=without, task_type=user_task(source, results[0]))
        left_out = {example.id for example in load_task(part).dataset}
    kept = [items[key] for key in sorted(items) if key not in left_out]
    if not kept:
        raise DataError(f"--without {without}: {', '.join(map(str, files))} hold no other example")
    return _described(replace(results[0], labeled_examples=kept, score=None), source, files)


def _source(path: Path, result: ICMResult) -> DataSource:
    """The data set that a file labels a slice of."""
    source = result.record.data.source
    if source is None:
        raise DataError(f"{path}:1: field 'data.source' is missing; label the data anew with `icm run`")
    return replace(source, slice=None)


def _described(merged: ICMResult, source: DataSource, files: Sequence[Path]) -> ICMResult:
    """The result with a first line of its own: that of the first file, without what holds for this file alone."""
    first = merged.record
    record = RunRecord(
        settings=first.settings,
        model=first.model if len(files) == 1 else replace(first.model, adapter=None),
        data=replace(first.data, source=source, fingerprint=merged.dataset.fingerprint),
        prompt=first.prompt,
        versions=first.versions,
        git=first.git,
        seed=first.seed,
        created=first.created,
        algorithm=first.algorithm,
        other={"merged": [path.name for path in files]},
    )
    return replace(merged, record=record)


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m icm.pipeline.iteration", description="Merge label files.")
    parser.add_argument("files", type=Path, nargs="+", metavar="LABELS", help="label files that share no example")
    parser.add_argument("--output", type=Path, required=True, help="label file to write")
    parser.add_argument("--without", metavar="J/N", help="leave out the examples of this slice of the data")
    parser.add_argument("--task-type", metavar="MODULE", help="module of your own task, where the files name one")
    arguments = parser.parse_args(words)
    return door(
        "error", lambda: write_result(arguments.output, merge(arguments.files, arguments.without, arguments.task_type))
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
