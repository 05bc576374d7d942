"""Small data files of many shapes with the same records."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from icm.examples import TaskData
from icm.tasks import DataSource, load_task

REVIEWS = [
    (f"The {thing} {end}", "positive" if end in ("works well", "is lovely") else "negative")
    for thing in ("lamp", "kettle", "clock")
    for end in ("works well", "is lovely", "broke", "leaks")
]
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]


def table(rows: Sequence[Mapping[str, object]], separator: str = ",", end: str = "\r\n") -> str:
    """Rows as a table with a header, as a spreadsheet writes it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """A file, and the folders it stands in."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def labels_of(data: TaskData) -> dict[str, str | None]:
    """Text → gold of classification data."""
    return {str(example.metadata["text"]): data.gold.get(example.id) for example in data.dataset}


def read(path: Path, **arguments: object) -> dict[str, str | None]:
    """Text → gold of a file."""
    return labels_of(load_task(DataSource(str(path), **arguments)))  # type: ignore[arg-type]
