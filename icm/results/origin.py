"""Where labelled examples come from, and how they were asked: the label file decides both for every later stage."""

from dataclasses import replace
from pathlib import Path

from icm.errors import DataError
from icm.results.format import ICMResult
from icm.tasks.lookup import task_names
from icm.tasks.reading import is_local
from icm.tasks.source import DataSource

# What `datasets` leaves in a folder; a folder without has its name by chance.
_DATA_FOLDER = ("dataset_dict.json", "state.json", "*.parquet", "*/*.parquet")
_FOLDERS_UP = 3


def labelled_source(result: ICMResult, given: str | None = None) -> DataSource | None:
    """The source of the labelled examples, wherever it lies now, with the template that they were rendered with.

    Ids are hashes of rendered prompts: under another template the source would hold none of the examples.

    Args:
        result: labels.
        given: where the user says that the data lies; taken if it has the name that the result names.

    Returns:
        None if the result does not say where its examples come from.

    Raises:
        DataError: the source is a relative path, and there is no such file here or beside the result's file.
    """
    source = result.record.data.source
    return source and replace(located(source, result, given), template=result.record.template)


def located(source: DataSource, result: ICMResult, given: str | None = None) -> DataSource:
    """The source with a path that exists: a relative one that does not is looked for beside the result's file and in
    the two folders above. Arguments and errors are those of `labelled_source`."""
    path = Path(source.dataset)
    built_in = source.dataset.partition(":")[0] in task_names()
    if built_in or path.is_absolute() or source.dataset.startswith("~") or path.exists():
        return source
    folders = Path(result.file).absolute().parents[:_FOLDERS_UP] if result.file else ()
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


def _holds_data(path: Path) -> bool:
    return path.is_file() or any(next(path.glob(name), None) for name in _DATA_FOLDER)
