"""The options of `icm run`, generated from the settings' data classes: names, types, defaults and help stand once."""

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from pydantic import ConfigDict, TypeAdapter, ValidationError

from icm.config import EngineConfig, GenerationConfig, SearchConfig
from icm.errors import ConfigError
from icm.tasks.source import DataSource


@dataclass(frozen=True)
class OutputConfig:
    """Where a run writes, and how much it says.

    Attributes:
        output_dir: folder of result files.
        output_name: name of the result file without `.jsonl`; None is `<task>_<model>_<timestamp>`.
        log_level: `DEBUG` includes what the libraries say.
        log_file: file to which log messages are appended as well.
    """

    output_dir: str = "icm_results"
    output_name: str | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_file: str | None = None


@dataclass(frozen=True)
class Settings:
    """All settings of a labelling run, resolved.

    Attributes:
        data: which records, as which task.
        search: the labeler.
        engine: the model and what it runs on.
        generation: sampling of candidate solutions.
        output: files and messages.
    """

    data: DataSource
    search: SearchConfig
    engine: EngineConfig
    generation: GenerationConfig
    output: OutputConfig


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: with underscores, as in settings files; `--name` with dashes on the command line, `ICM_NAME` in the
            environment.
        places: (part of `Settings`, field) that take its value.
        section: section of a settings file.
        kind: Python type.
        default: value without any setting.
        help: what the data class says about it.
    """

    name: str
    places: tuple[tuple[str, str], ...]
    section: str
    kind: Any
    default: Any
    help: str

    @property
    def part(self) -> str:
        """Part of `Settings` under whose heading the help shows it."""
        return self.places[0][0]

    @property
    def flag(self) -> str:
        """Spelling on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a `Literal`, else nothing."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()


_SECTIONS = {
    "data": "data_params",
    "search": "search_params",
    "engine": "system_params",
    "generation": "model_params",
    "output": "system_params",
}
_MODEL_FIELDS = {"model", "revision", "adapter", "dtype", "max_model_len"}
_RENAMED = {("data", "size"): "synthetic_size"}
# Which side of the holdout is loaded is a stage's business, not the user's: labelling takes the train side.
_HIDDEN = {("data", "part")}


@cache
def options() -> Mapping[str, Option]:
    """All options by name. An option that two parts share (`seed`) has two places."""
    found: dict[str, Option] = {}
    for part, kind in get_type_hints(Settings).items():
        for option in _part_options(part, kind):
            shared = found.get(option.name)
            places = (shared.places if shared else ()) + option.places
            section = "system_params" if shared else option.section
            found[option.name] = Option(option.name, places, section, option.kind, option.default, option.help)
    return types.MappingProxyType(found)


def _part_options(part: str, kind: type) -> Iterable[Option]:
    documented = {entry.arg_name: entry.description or "" for entry in parse_docstring(kind.__doc__ or "").params}
    for field in fields(kind):
        if (part, field.name) in _HIDDEN:
            continue
        name = _RENAMED.get((part, field.name), field.name)
        section = "model_params" if part == "engine" and field.name in _MODEL_FIELDS else _SECTIONS[part]
        text = (
            re.sub(r"\s+", " ", documented.get(field.name, ""))
            .replace("`", "")
            .replace("*questions*", "questions")
            .rstrip(".")
        )
        yield Option(name, ((part, field.name),), section, field.type, _default(field), text)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def describe(kind: Any) -> str:
    """What a value of a type looks like, for messages: "a whole number"."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe(member) for member in get_args(kind))
    if get_origin(kind) is dict:
        return "a mapping of label to text"
    if get_origin(kind) is tuple:
        return "a list of texts"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
    return names[kind]


def checked(option: Option, value: Any, origin: str) -> Any:
    """`value` as the option's type; text is parsed, as the command line and the environment give nothing else.

    Args:
        origin: starts the message: "--alpha", "ICM_ALPHA", "config.json: search_params.alpha".

    Raises:
        ConfigError: names the origin, the value and what is expected.
    """
    optional = type(None) in get_args(option.kind)
    if optional and value in ("null", "none", "None"):
        return None
    # pydantic would take true for 1.
    if not (isinstance(value, bool) and option.kind is not bool):
        try:
            return _adapter(option.kind).validate_python(value)
        except ValidationError:
            pass
    raise ConfigError(f"{origin}: found {value!r}, expected {describe(option.kind)}")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" for the known name that is most like `name`, or the known names if none is."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(names)}"
