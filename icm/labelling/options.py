"""Options from data classes: names, types, defaults and help stand once, for `icm run` and `eval/run.py` alike."""

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from pydantic import ConfigDict, TypeAdapter, ValidationError

from icm.config import EngineConfig, GenerationConfig, SearchConfig
from icm.errors import ConfigError
from icm.tasks.source import DataSource
from icm.yaml_files import mapping, parse_yaml

Built = TypeVar("Built")

MOST_NAMES = 25
"""Names that a message lists."""


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
        name: `--name` with dashes on the command line; `data.dataset` where a class holds classes.
        places: where its value goes, each a path of field names: ("data", "dataset").
        kind: Python type.
        default: value without any setting.
        help: what the data class says about it.
    """

    name: str
    places: tuple[tuple[str, ...], ...]
    kind: object
    default: object
    help: str

    @property
    def part(self) -> str:
        """First name of its path: the heading under which the help shows it."""
        return self.places[0][0]

    @property
    def flag(self) -> str:
        """Spelling on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a `Literal`, else nothing."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()


_RENAMED: Mapping[tuple[str, ...], str] = {("data", "size"): "synthetic_size"}
# Which side of the holdout is loaded is a stage's business, not the user's: labelling takes the train side.
HIDDEN = {("data", "part")}


@cache
def options() -> Mapping[str, Option]:
    """The options of `icm run` by name. One that two parts share (`seed`) has two places."""
    found: dict[str, Option] = {}
    for option in class_options(Settings):
        (place,) = option.places
        if place not in HIDDEN:
            name = _RENAMED.get(place, place[-1])
            shared = found[name].places if name in found else ()
            found[name] = replace(option, name=name, places=(*shared, place))
    return types.MappingProxyType(found)


def class_options(kind: type, within: tuple[str, ...] = (), defaults: object = None) -> Iterator[Option]:
    """One option for each field; a data class in a field gives its own. Lists of data classes stand in files only.

    Args:
        within: path of the class in the outermost one.
        defaults: instance that holds the defaults, where they are not the class's own.
    """
    hints = get_type_hints(kind)
    documented = {entry.arg_name: entry.description or "" for entry in parse_docstring(kind.__doc__ or "").params}
    for field in _fields(kind):
        place = (*within, field.name)
        default = _default(field) if defaults is None else getattr(defaults, field.name)
        inner = _class_in(hints[field.name])
        if inner is None:
            text = re.sub(r"\s+", " ", documented.get(field.name, "")).rstrip(".")
            text = text.replace("`", "").replace("*questions*", "questions")
            yield Option(".".join(place), (place,), hints[field.name], default, text)
        elif list_member(hints[field.name]) is None:
            yield from class_options(inner, place, default)


def _fields(kind: type) -> tuple[Field[object], ...]:
    return fields(kind)


def _default(field: "Field[object]") -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _class_in(hint: object) -> type | None:
    """The data class in `X`, `X | None` or `list[X]`."""
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


def list_member(kind: object) -> object | None:
    """Type of the entries of a list or tuple, optional or not; None for other types."""
    members = (kind, *get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((get_args(member)[0] for member in members if get_origin(member) in (list, tuple)), None)


def holds_mapping(kind: object) -> bool:
    """Whether the type is a mapping, optional or not."""
    return any(get_origin(member) in (dict, Mapping) for member in (kind, *get_args(kind)))


def build(kind: type[Built], content: object, where: str, place: str = "", defaults: Built | None = None) -> Built:
    """A data class from a mapping, all that it holds checked key by key.

    Args:
        where: starts messages: a file's name.
        place: of the mapping in the file: "eval.data".
        defaults: instance that holds the defaults, where they are not the class's own.

    Raises:
        ConfigError: names the file and the place, the value, and what is expected; for unknown keys the nearest.
    """
    values, hints = mapping(content, f"{where}: {place}" if place else where), get_type_hints(kind)
    check_keys(values, hints, f"{where}: {place}" if place else where)
    built = {} if defaults is None else dict(vars(defaults))
    for field in _fields(kind):
        at = f"{place}.{field.name}" if place else field.name
        default = _default(field)
        if field.name in values:
            built[field.name] = _built(hints[field.name], values[field.name], where, at, default)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}: {at}: required, but not given")
    return kind(**built)


def _built(hint: object, value: object, where: str, place: str, default: object) -> object:
    inner = _class_in(hint)
    if inner is None or (value is None and type(None) in get_args(hint)):
        return checked(hint, value, f"{where}: {place}")
    if list_member(hint) is None:
        return build(inner, value, where, place, default if isinstance(default, inner) else None)
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {place}: found {value!r}, expected a list")
    return [build(inner, entry, where, f"{place}[{number}]") for number, entry in enumerate(value)]


def check_keys(content: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ConfigError with the nearest known key for one that is not known."""
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, sorted(known))}")


def describe(kind: object) -> str:
    """What a value of a type looks like, for messages: "a whole number"."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(describe(member) for member in get_args(kind))
    if holds_mapping(kind):
        return "a mapping of label to text" if get_args(kind)[1] is str else "a mapping of settings"
    if get_origin(kind) in (list, tuple):
        return f"a list ({describe(list_member(kind))} each)"
    names: dict[object, str] = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return names.get(kind, "null")


def checked(kind: object, value: object, origin: str) -> object:
    """`value` as the type; text is parsed, as the command line and the environment give nothing else.

    Args:
        origin: starts the message: "--alpha", "ICM_ALPHA", "config.json: search.alpha".

    Raises:
        ConfigError: names the origin, the value and what is expected.
    """
    if type(None) in get_args(kind) and value in (None, "null", "none", "None"):
        return None
    member = list_member(kind)
    if member is not None and isinstance(value, list | tuple):
        value = [checked(member, entry, f"{origin}[{place}]") for place, entry in enumerate(value)]
    # pydantic would take true for 1.
    if not isinstance(value, bool) or bool in (kind, *get_args(kind)):
        try:
            return _adapter(kind).validate_python(value)
        except ValidationError:
            pass
    raise ConfigError(f"{origin}: found {value!r}, expected {describe(kind)}")


def from_words(kind: object, words: Sequence[str], origin: str) -> object:
    """A list or mapping from the words `A B` or `LABEL=TEXT LABEL=TEXT`; also from one word of YAML, `[A, B]`."""
    if len(words) == 1 and (words[0][:1], words[0][-1:]) in (("[", "]"), ("{", "}")):
        return parse_yaml(words[0], origin)
    if not holds_mapping(kind):
        return list(words)
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{origin}: found {word!r}, expected LABEL=TEXT")
    return dict(word.split("=", 1) for word in words)


@cache
def _adapter(kind: Any) -> TypeAdapter[object]:
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean X?" for the known name that is most like `name`, or the known names if they are few."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    few = (
        f"; expected one of {', '.join(names)}"
        if len(names) <= MOST_NAMES
        else f", which is like none of the {len(names)}"
    )
    return f"; did you mean {close[0]}?" if close else few
