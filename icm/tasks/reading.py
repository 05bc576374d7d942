"""Raw records from local files, local `datasets` folders and the hub."""

import csv
import gzip
import io
import logging
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from icm.errors import ConfigError, DataError, PrerequisiteError
from icm.files import parse_json, parse_jsonl
from icm.tasks.base import HubData, Record
from icm.tasks.source import DataSource

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset

SUFFIXES = (".jsonl", ".json", ".csv")

_log = logging.getLogger(__name__)


def is_local(dataset: str) -> bool:
    """Whether a data set name means something on this disk, present or not, rather than a hub name."""
    return Path(dataset).exists() or dataset.startswith(("/", "./", "../", "~")) or _format(dataset) in SUFFIXES


def read_records(source: DataSource, hub: HubData) -> list[Record]:
    """All records of the source; `hub` says which configuration and split of a hub data set to take.

    Raises:
        DataError: missing or empty file, or a record that cannot be read; names the file and the line.
        ConfigError: a split of a file that has none.
        PrerequisiteError: the hub cannot be reached, or has no such data set, configuration or split.
    """
    path = Path(source.dataset).expanduser()
    if not is_local(source.dataset):
        records = _hub_records(hub)
    elif path.is_dir():
        records = _folder_records(path, source)
    else:
        records = records_of_split(file_records(path), source)
    if not records:
        raise DataError(f"{source.dataset}: no records; expected at least one")
    return records


def _format(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def file_records(path: Path) -> list[Record]:
    """All records of a local file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; check the path (hub names look like 'owner/name')")
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows}
    if _format(path.name) not in readers:
        raise DataError(f"{path}: unknown file type; expected one of {', '.join(SUFFIXES)}, each also with .gz")
    rows = readers[_format(path.name)](_read_bytes(path), str(path))
    return [Record(where, fields) for where, fields in rows]


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _jsonl_rows(data: bytes, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    for number, row in parse_jsonl(io.BytesIO(data), where):
        yield f"{where}:{number}", row


def _json_rows(data: bytes, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    document = parse_json(_decode(data, where), where)
    if isinstance(document, dict):  # BIG-Bench style: one object that holds the list
        document = next((value for value in document.values() if isinstance(value, list)), document)
    if not isinstance(document, list):
        raise DataError(f"{where}: found {type(document).__name__}, expected a list of objects")
    for number, row in enumerate(document, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{where}: record {number}: found {type(row).__name__}, expected an object")
        yield f"{where}: record {number}", row


def _csv_rows(data: bytes, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    reader = csv.DictReader(io.StringIO(_decode(data, where), newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                columns = len(reader.fieldnames or ())
                raise DataError(f"{where}:{reader.line_num}: expected {columns} columns; check quotes and commas")
            yield f"{where}:{reader.line_num}", {name: value for name, value in row.items() if value != ""}
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}: not valid CSV ({error})") from None


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def split_of(source: DataSource, train: str = "train", test: str = "test") -> str:
    """The named split that a source means; a holdout is always cut from the training split."""
    return source.split or (train if source.part == "train" or source.holdout else test)


def records_of_split(records: list[Record], source: DataSource) -> list[Record]:
    """The records of the source's split, by their field `split`. A file without that field is one split, `train`."""
    wanted = split_of(source)
    splits = {str(record.fields["split"]) for record in records if "split" in record.fields} or {"train"}
    if wanted not in splits:
        raise _no_split(wanted, splits, source.dataset)
    return [record for record in records if str(record.fields.get("split", "train")) == wanted]


def refuse_named_split(source: DataSource) -> None:
    """Refuse any split but `train` of data that has no named ones."""
    if split_of(source) != "train":
        raise _no_split(split_of(source), {"train"}, source.dataset)


def _no_split(wanted: str, splits: Iterable[str], where: str) -> ConfigError:
    return ConfigError(
        f"split: found {wanted!r}, expected one of {sorted(splits)} in {where}; give the split, or a holdout "
        "(share of the questions that is kept for testing)"
    )


def _folder_records(path: Path, source: DataSource) -> list[Record]:
    import datasets  # takes seconds, and most runs read a file

    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a folder written by datasets.save_to_disk ({_first_line(error)})") from None
    if not isinstance(data, datasets.DatasetDict):
        return records_of_split(_dataset_records(data, str(path)), source)
    split = split_of(source)
    if split not in data:
        raise _no_split(split, data, str(path))
    return _dataset_records(data[split], f"{path}[{split}]")


def _hub_records(hub: HubData) -> list[Record]:
    import datasets

    where = f"{hub.path}[{hub.split}]"
    try:
        data = datasets.load_dataset(hub.path, name=hub.config, split=hub.split, revision=hub.revision)
    except Exception as error:  # the client lets errors of five libraries through; all mean "not available here"
        _log.debug("loading %s", where, exc_info=True)
        raise PrerequisiteError(
            f"{where}: cannot be loaded from the hub ({type(error).__name__}: {_first_line(error)}); check the name, "
            "--config, --split and the connection, or give a local file or folder"
        ) from None
    return _dataset_records(data, where)


def _dataset_records(data: "Dataset", where: str) -> list[Record]:
    import datasets

    classes = {name: kind for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)}
    return [Record(f"{where}: row {number}", _named(row, classes)) for number, row in enumerate(data)]


def _named(row: dict[str, object], classes: "dict[str, ClassLabel]") -> dict[str, object]:
    """A row without absent values, with class numbers replaced by their names (-1 means unlabelled)."""
    return {
        name: classes[name].int2str(value) if name in classes and isinstance(value, int) and value >= 0 else value
        for name, value in row.items()
        if value is not None and not (name in classes and value == -1)
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
