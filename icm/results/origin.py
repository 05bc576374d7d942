"""Where labelled examples come from, and how they were asked: the label file decides both for every later stage."""

import filecmp
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path

from icm.errors import DataError
from icm.results.format import ICMResult, is_result
from icm.tasks.lookup import task_names
from icm.tasks.reading import is_local, is_whole_file
from icm.tasks.source import DataSource

# What `datasets` leaves in a folder; a folder without has its name by chance.
_DATA_FOLDER = ("dataset_dict.json", "state.json", "*.parquet", "*/*.parquet")
_FOLDERS_UP = 3

# Which of the records are loaded; all else of a source says what the records mean.
_PART = {"split", "holdout", "part"}
_WHICH = _PART | {"dataset", "max_examples", "seed", "size", "slice"}


def labelled_source(result: ICMResult, given: str | None = None) -> DataSource | None:
    """The source of the labelled examples, wherever it lies now, with the task and the template that made them.

    Ids are hashes of rendered prompts: under another template the source would hold none of the examples. What task
    `auto` takes records for can change from one version to the next.

    Args:
        result: labels.
        given: where the user says that the data lies; taken if it has the name that the result names.

    Returns:
        None if the result does not say where its examples come from.

    Raises:
        DataError: the source is a relative path, and there is no such file here or beside the result's file; or see
            `user_task`.
    """
    source = result.record.data.source
    if source is None:
        return None
    found = source.task_type == "auto" and result.task in task_names() and not _built_in(source)
    task = result.task if found else user_task(source, result)
    found_source = located(source.without_labels, result, given)
    return replace(found_source, template=result.record.template, task_type=task)


def user_task(source: DataSource, result: ICMResult) -> str:
    """The task type of a result's source, if reading the data with it runs no code but ours and the user's.

    A module that the file names is somebody's, until the user names it too.

    Raises:
        DataError: only the file names it.
    """
    name, own = source.task_type, result.task_type
    if result.file is None or "." not in name:
        return name
    if own is not None:
        return own
    raise DataError(
        f"{result.file}: its data are read by the module {name!r}, and a file does not decide which code runs; if you "
        f"trust the module, name it: --task-type {name} (train/run.py: --task_type, eval/run.py: --data.task_type)"
    )


def other_part(source: DataSource) -> DataSource:
    """What a labelled source leaves for evaluation, whole: the other side of its holdout, or the test split."""
    return replace(source.whole, part="test", split=source.split if source.holdout else None)


def other_source(given: DataSource, names: Collection[str]) -> DataSource:
    """An evaluation's data that nothing else names: a file without splits is taken whole. `names` are as in
    `held_out_source`."""
    whole = "dataset" in names and not _PART & {*names} and is_whole_file(given)
    return replace(given, split="train") if whole else given


def held_out_source(result: ICMResult, given: DataSource, names: Collection[str]) -> DataSource:
    """The source of an evaluation: `given`, and in the fields that it does not name the other part of what is labelled.

    Another data set is what it says it is (`other_source`). The labelled one, wherever it lies now, has its records
    read as they were; which of them is what it says, or if it says nothing of that, the other side of the holdout.

    Args:
        result: labels.
        given: settings of the evaluation.
        names: the fields that were set there.
    """
    recorded, named = result.record.data.source, "dataset" in names
    if recorded is None or (named and not same_data(given.dataset, recorded.dataset)):
        return other_source(given, names)
    source = labelled_source(result, given.dataset if named else None)
    assert source is not None  # it is where the recorded one lies
    taken = {entry.name for entry in fields(DataSource)}
    if named and (not source.holdout or _PART & {*names}):
        taken -= _WHICH
    other = other_part(source)
    return replace(given, **{name: getattr(other, name) for name in taken.difference(names)})


def same_data(given: str, recorded: str) -> bool:
    """Whether a path may be that of the recorded data: it has their name and, where both are files, content. Names
    that are no paths here, as the hub has them, are compared whole."""
    one, other = Path(given).expanduser(), Path(recorded).expanduser()
    if not one.exists() and not other.exists():
        return given == recorded
    return one.name == other.name and not (
        one.is_file() and other.is_file() and not filecmp.cmp(one, other, shallow=False)
    )


def located(source: DataSource, result: ICMResult, given: str | None = None) -> DataSource:
    """The source with paths that exist: a relative one that does not is looked for beside the result's file and in
    the two folders above. Arguments and errors are those of `labelled_source`."""
    if source.claims is not None and not Path(source.claims).expanduser().is_file():
        source = replace(source, claims=_claims_beside(Path(source.claims), result) or source.claims)
    path = Path(source.dataset)
    here = path.exists() and not is_result(path)
    if _built_in(source) or path.is_absolute() or source.dataset.startswith("~") or here:
        return source
    folders = _folders(result)
    said = [Path(given)] if given and Path(given).name == path.name else []
    for place in (*said, *(folder / path for folder in folders)):
        if _holds_data(place):
            return replace(source, dataset=str(place))
    if not is_local(source.dataset):
        return source
    file = result.file or "the label file"
    raise DataError(
        f"{file}: names its data as {source.dataset!r}, relative to where `icm run` ran; it is neither in {Path.cwd()} "
        f"nor beside the label file; run from that folder, or put the data beside {file} (an evaluation can also be "
        f"told with --data.dataset FOLDER/{path.name})"
    )


def _built_in(source: DataSource) -> bool:
    return source.dataset.partition(":")[0] in task_names()


def _folders(result: ICMResult) -> Sequence[Path]:
    return Path(result.file).absolute().parents[:_FOLDERS_UP] if result.file else ()


def _claims_beside(path: Path, result: ICMResult) -> str | None:
    """A file of claims, which its name tells from all others, where `icm run` keeps it: in a folder beside the label
    file, wherever both have been moved to."""
    beside = Path(*path.parts[-2:])
    places = (place for folder in _folders(result) for place in (folder / path, folder / beside))
    return next((str(place) for place in places if place.is_file()), None)


def _holds_data(path: Path) -> bool:
    if path.is_file():
        return not is_result(path)
    return any(next(path.glob(name), None) for name in _DATA_FOLDER)
