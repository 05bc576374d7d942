"""Raw records from local files, local `datasets` folders and the hub."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from icm.errors import ConfigError, DataError, PrerequisiteError
from icm.files import read_text
from icm.tasks.base import HubData, Record
from icm.tasks.columns import plain
from icm.tasks.formats import SUFFIXES, UNREAD, dataset_rows, file_records, first_line, format_of, records
from icm.tasks.shapes import SPLIT_NAMES
from icm.tasks.source import DataSource
from icm.yaml_files import parse_yaml

_SAVED = ("dataset_dict.json", "state.json")
"""Files by which `datasets.save_to_disk` is known."""

_log = logging.getLogger(__name__)


def is_local(dataset: str) -> bool:
    """Whether a data set name means something on this disk, present or not, rather than a hub name."""
    return (
        Path(dataset).exists()
        or dataset.startswith(("/", "./", "../", "~"))
        or format_of(dataset) in (*SUFFIXES, *UNREAD)
    )


def read_records(source: DataSource, hub: HubData) -> list[Record]:
    """All records of the source; `hub` says which configuration and split of a hub data set to take.

    Raises:
        DataError: missing or empty file, or a record that cannot be read; names the file and the line.
        ConfigError: a split of a file that has none.
        PrerequisiteError: the hub cannot be reached, or has no such data set, configuration or split.
    """
    path = Path(source.dataset).expanduser()
    if not is_local(source.dataset):
        found = _hub_records(hub, source)
    elif path.is_dir():
        saved = any((path / name).exists() for name in _SAVED)
        found = _saved_records(path, source) if saved else _folder_records(path, source)
    else:
        found = records_of_split(file_records(path, source.bad_records), source)
    if not found:
        raise DataError(f"{source.dataset}: no records; expected at least one")
    return found


def split_of(source: DataSource, train: str = "train", test: str = "test") -> str:
    """The named split that a source means; a holdout is always cut from the training split."""
    return source.split or (train if source.part == "train" or source.holdout else test)


def records_of_split(found: list[Record], source: DataSource, unnamed: str = "train") -> list[Record]:
    """The records of the source's split, by their field `split`; those without one are of the split `unnamed`."""
    if not found:
        return found
    splits = {str(record.fields.get("split", unnamed)) for record in found}
    wanted = _chosen(splits, source, source.dataset)
    return [record for record in found if str(record.fields.get("split", unnamed)) == wanted]


def is_whole_file(source: DataSource) -> bool:
    """Whether the source is a file whose records do not say which split they are of. Errors are those of
    `read_records`."""
    path = Path(source.dataset).expanduser()
    return path.is_file() and not any("split" in found.fields for found in file_records(path, source.bad_records))


def has_column(source: DataSource, name: str) -> bool:
    """Whether the source is a file whose records have this column, as `text_field` finds it (`plain`). Errors are those
    of `read_records`."""
    path = Path(source.dataset).expanduser()
    if not path.is_file():
        return False
    columns = {column for found in file_records(path, source.bad_records) for column in found.fields}
    return plain(name) in map(plain, columns)


def refuse_named_split(source: DataSource) -> None:
    """Refuse any split but `train` of data that has no named ones."""
    if split_of(source) != "train":
        raise _no_split({"train"}, source, source.dataset)


def _chosen(splits: Collection[str], source: DataSource, where: str) -> str:
    """The name that the data give to the source's split. The only split of data is also what a training part, or a
    holdout, is cut from."""
    wanted = split_of(source)
    alike = [name for name in splits if _usual(name) == _usual(wanted)]
    if wanted in splits or len(alike) == 1:
        return wanted if wanted in splits else alike[0]
    if len(splits) == 1 and source.split is None and (source.holdout or source.part == "train"):
        return next(iter(splits))
    raise _no_split(splits, source, where)


def _usual(split: str) -> str:
    return SPLIT_NAMES.get(split.lower(), split.lower())


def _no_split(splits: Iterable[str], source: DataSource, where: str) -> ConfigError:
    or_holdout = "" if source.holdout else ", or a holdout (share of the questions that is kept for testing)"
    return ConfigError(
        f"split: found {split_of(source)!r}, expected one of {sorted(splits)} in {where}; give the split{or_holdout}"
    )


def _saved_records(path: Path, source: DataSource) -> list[Record]:
    import datasets  # takes seconds, and most runs read a file

    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a folder written by datasets.save_to_disk ({first_line(error)})") from None
    if not isinstance(data, datasets.DatasetDict):
        return records_of_split(records(dataset_rows(data, str(path)), source.bad_records), source)
    split = _chosen(data.keys(), source, str(path))
    return records(dataset_rows(data[split], f"{path}[{split}]"), source.bad_records)


def _folder_records(path: Path, source: DataSource) -> list[Record]:
    """A folder of data files, as a repository of the hub is one: splits by the names of files or in its card."""
    files = _files_by_split(path, source.config)
    if not files:
        others = sorted(file.name for file in path.iterdir())[:3]
        raise DataError(
            f"{path}: not a folder written by datasets.save_to_disk, nor one of {', '.join(SUFFIXES)} files "
            f"(it holds {', '.join(others) or 'nothing'}); put the texts into one CSV or JSON lines file"
        )
    split = _chosen(files, source, str(path))
    found = [record for file in files[split] for record in file_records(Path(file), source.bad_records)]
    return found if len(files) > 1 else records_of_split(found, source, split)


def _files_by_split(path: Path, config: str | None) -> Mapping[str, list[str]]:
    from datasets.data_files import DataFilesDict, get_data_patterns, sanitize_patterns

    base, listed = path, _listed(path, config)
    if listed is None and config is not None:
        base = path / config
        if not base.is_dir():
            raise ConfigError(
                f"config: found {config!r}, but {path} has no such folder, and names none in its README.md"
            )
    try:
        patterns = get_data_patterns(str(base)) if listed is None else sanitize_patterns(listed)
        found = DataFilesDict.from_patterns(patterns, base_path=str(base), allowed_extensions=list(SUFFIXES))
        if not any(found.values()):  # a note with `test` in its name is no split
            found = DataFilesDict.from_patterns({"train": ["**"]}, str(base), allowed_extensions=list(SUFFIXES))
    except (FileNotFoundError, ValueError) as error:
        _log.debug("looking for data files in %s", base, exc_info=True)
        if listed is not None:
            raise DataError(
                f"{path / 'README.md'}: data files that it names are missing ({first_line(error)})"
            ) from None
        return {}
    return {str(split): list(files) for split, files in found.items() if files}


def _listed(path: Path, config: str | None) -> dict[str, object] | list[object] | str | None:
    """The data files that the folder's card names for a configuration; None without a card that does."""
    card = path / "README.md"
    header = re.match(r"\s*---\r?\n(.*?)\r?\n---\s*(\n|$)", read_text(card), re.DOTALL) if card.is_file() else None
    try:
        found = parse_yaml(header[1], f"{card}: its header") if header else None
    except ConfigError as error:
        raise DataError(str(error)) from None
    listed = found.get("configs") if isinstance(found, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    configs = {str(entry.get("config_name")): entry for entry in entries if entry.get("data_files")}
    if not configs:
        return None
    usual = [name for name, entry in configs.items() if name == "default" or entry.get("default")]
    name = config or next(iter(usual or configs if len(configs) == 1 or usual else ()), None)
    if name not in configs:
        raise ConfigError(f"config: found {config!r}, expected one of {sorted(configs)} in {card}; give --config")
    return configs[name]["data_files"]


def _hub_records(hub: HubData, source: DataSource) -> list[Record]:
    import datasets

    where = f"{hub.path}[{hub.split}]"
    try:
        data = datasets.load_dataset(hub.path, name=hub.config, split=hub.split, revision=hub.revision)
    except Exception as error:  # the client lets errors of five libraries through; all mean "not available here"
        _log.debug("loading %s", where, exc_info=True)
        raise PrerequisiteError(
            f"{where}: cannot be loaded from the hub ({type(error).__name__}: {first_line(error)}); check the name, "
            "--config, --split and the connection, or give a local file or folder"
        ) from None
    return records(dataset_rows(data, where), source.bad_records)
