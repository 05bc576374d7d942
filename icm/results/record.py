"""What the first line of a result file says about the run, beside task, score and label space.

Every field is optional: earlier versions and other programs say less. What is not known here is kept in `other`, so
that a file that is read and written again loses nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from icm.errors import DataError
from icm.files import dump_json
from icm.results.fields import (
    count_field,
    counts_field,
    flag_field,
    number_field,
    numbers_field,
    object_field,
    shown,
    text_field,
)
from icm.tasks.source import DataSource, written

JSONObject = Mapping[str, object]
"""Read where it is used, unlike `icm.files.JsonObject`."""


@dataclass(frozen=True)
class ModelRecord:
    """The model that labelled: hub name, local folder or `embedded`, and how it was run."""

    name: str | None = None
    revision: str | None = None
    adapter: str | None = None
    engine: str | None = None
    device: str | None = None
    dtype: str | None = None
    other: JSONObject = field(default_factory=dict)


@dataclass(frozen=True)
class DataRecord:
    """Where the examples come from, the content hash of those that were labelled, and the data set's short name."""

    source: DataSource | None = None
    fingerprint: str | None = None
    name: str | None = None
    other: JSONObject = field(default_factory=dict)


@dataclass(frozen=True)
class PromptRecord:
    """The template that the prompts were rendered with; the verbalisers stand in the result's label space."""

    template: str | None = None
    other: JSONObject = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """How labels came about. The fields stand in the order in which they are written.

    Attributes:
        settings: all settings of the run, as written.
        model, data, prompt: see there.
        versions: package → version.
        git: revision of the code.
        seed: of the run.
        peak_memory_gib: largest resident memory.
        created: when the run began, ISO 8601.
        algorithm: the labeler.
        iterations: decisions of all searches.
        batches: number of examples of each batch that shared a context.
        collapsed: whether (nearly) all labels are the same.
        usage: prompts, tokens and seconds.
        other: what else the line says.
    """

    settings: JSONObject = field(default_factory=dict)
    model: ModelRecord = ModelRecord()
    data: DataRecord = DataRecord()
    prompt: PromptRecord = PromptRecord()
    versions: JSONObject = field(default_factory=dict)
    git: JSONObject = field(default_factory=dict)
    seed: int | None = None
    peak_memory_gib: float | None = None
    created: str | None = None
    algorithm: str | None = None
    iterations: int | None = None
    batches: Sequence[int] | None = None
    collapsed: bool | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    other: JSONObject = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """Name of the model that labelled; `unknown` if the line does not say."""
        return self.model.name or "unknown"

    @property
    def template(self) -> str | None:
        """Template that the prompts were rendered with; files of earlier versions say it with the data. None is not
        known: the task's own of that time."""
        data, source = self.settings.get("data"), self.data.source
        named = data.get("template") if isinstance(data, dict) else None
        return self.prompt.template or (source and source.template) or (named if isinstance(named, str) else None)

    @property
    def search_settings(self) -> JSONObject:
        """The settings of the search alone: those of data, engine and output can hold local paths."""
        found = self.settings.get("search")
        return found if isinstance(found, dict) else {}

    def as_row(self) -> dict[str, object]:
        """The fields as they are written; what is not known is left out."""
        default = RunRecord()
        known = [f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]
        row = {name: getattr(self, name) for name in known if name != "other"}
        parts = {name: _part_row(row[name]) for name in ("model", "data", "prompt") if name in row}
        return row | parts | dict(self.other)


Part = ModelRecord | DataRecord | PromptRecord


def _part_row(part: Part) -> JSONObject:
    row = asdict(part, dict_factory=written)
    return {name: value for name, value in row.items() if name != "other"} | dict(part.other)


_CHECKS: Mapping[str, Callable[[object, str], Any]] = {
    "settings": object_field,
    "versions": object_field,
    "git": object_field,
    "seed": count_field,
    "peak_memory_gib": number_field,
    "created": text_field,
    "algorithm": text_field,
    "iterations": count_field,
    "batches": counts_field,
    "collapsed": flag_field,
    "usage": numbers_field,
}


def read_record(row: JSONObject, where: str = "record") -> RunRecord:
    """The record in the fields of a first line; a null counts as absent where the field is known.

    Args:
        row: without the fields of the result itself (task, score, …).
        where: file and line, for messages.

    Raises:
        DataError: names file, line and field.
    """
    known = {f.name for f in fields(RunRecord)}
    given = {key: value for key, value in row.items() if value is not None or key not in known}
    plain = {key: check(given.pop(key), f"{where}: field {key!r}") for key, check in _CHECKS.items() if key in given}
    model = given.pop("model", {})
    if isinstance(model, str):  # as files have it that were converted from codelion/icm
        model = {"name": model}
    return RunRecord(
        **plain,
        model=ModelRecord(**_part(model, ModelRecord, f"{where}: field 'model'")),
        data=DataRecord(**_part(given.pop("data", {}), DataRecord, f"{where}: field 'data'")),
        prompt=PromptRecord(**_part(given.pop("prompt", {}), PromptRecord, f"{where}: field 'prompt'")),
        other=given,
    )


def _part(value: object, kind: type[Part], where: str) -> dict[str, Any]:
    """Arguments of a part: a source and texts; the rest is kept as it is."""
    rest = dict(object_field(value, where))
    names = {f.name for f in fields(kind)} - {"other"}
    found = {name: rest.pop(name) for name in names & rest.keys()}
    given = ((name, entry, f"{where[:-1]}.{name}'") for name, entry in found.items() if entry is not None)
    checked = {name: (read_source if name == "source" else text_field)(entry, at) for name, entry, at in given}
    return {**checked, "other": rest}


_SOURCE = TypeAdapter(DataSource)


def read_source(value: object, where: str) -> DataSource:
    """A data source from a mapping. Raises DataError: `where`, then the field."""
    values = object_field(value, where, [f.name for f in fields(DataSource)])
    try:
        return _SOURCE.validate_json(dump_json(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}, {place!r}: found {shown(first['input'])}, {first['msg']}") from None
