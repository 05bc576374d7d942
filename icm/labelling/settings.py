"""Settings: defaults < preset < settings file < environment < command line, one check for all of them."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from icm.config import SearchConfig
from icm.errors import ConfigError
from icm.labelling.options import Option, Settings, checked, nearest, options

PRESETS = ("paper", "codelion", "fork")
ENVIRONMENT_PREFIX = "ICM_"
# Read elsewhere (icm.models), or for child processes; not options.
_OTHER_VARIABLES = {"ICM_CACHE"}


def resolve_settings(
    given: Mapping[str, Any],
    *,
    preset: str | None = None,
    settings_file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge all sources of settings, the later ones winning.

    Args:
        given: option name → value of the command line, only what was written there.
        preset: one of `PRESETS`.
        settings_file: JSON or YAML with the sections `search_params`, `model_params`, `system_params`, `data_params`.
        environ: variables `ICM_<OPTION>`; None reads the process's own.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of the wrong type or out of range.
    """
    sources: list[Mapping[str, Any]] = []
    if preset is not None:
        sources.append(preset_values(preset))
    if settings_file is not None:
        sources.append(file_values(settings_file))
    sources.append(environment_values(os.environ if environ is None else environ))
    named = {name: known_option(name, "command line") for name in given}
    sources.append({name: checked(option, given[name], option.flag) for name, option in named.items()})
    values: dict[str, Any] = {}
    for source in sources:
        if "cooling_rate" in source:  # beta under another name, see `build`
            values.pop("beta", None)
        values |= source
    return build(values)


def build(values: Mapping[str, Any]) -> Settings:
    """Settings from checked values by option name; defaults for the rest."""
    if "cooling_rate" in values and values.get("schedule", SearchConfig.schedule) == "log":
        # What codelion/icm calls its cooling rate, and the fork its decay, is beta of this schedule.
        values = {"beta": values["cooling_rate"], **values}
    arguments: dict[str, dict[str, Any]] = {part: {} for part in get_type_hints(Settings)}
    for name, value in values.items():
        for part, field in options()[name].places:
            arguments[part][field] = value
    parts = {part: kind(**arguments[part]) for part, kind in get_type_hints(Settings).items()}
    return Settings(**parts)


def preset_values(name: str) -> dict[str, Any]:
    """The documented values of one source by option name."""
    if name not in PRESETS:
        raise ConfigError(f"--preset: found {name!r}{nearest(name, PRESETS)}")
    text = files("icm.labelling").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    return _parsed(text, f"preset {name}")


def file_values(path: str | Path) -> dict[str, Any]:
    """The values of a settings file by option name."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"--settings {path}: {error.strerror}; give a JSON or YAML file") from None
    return _parsed(text, str(path))


def environment_values(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values of `ICM_<OPTION>` variables by option name; empty variables count as unset."""
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _OTHER_VARIABLES or not environ[variable]:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        # Other programs may own ICM_ variables: only what looks like a misspelt option is refused.
        if name in options() or difflib.get_close_matches(name, options()):
            option = known_option(name, f"environment variable {variable}")
            values[name] = checked(option, _from_text(option, environ[variable], variable), variable)
    return values


def _from_text(option: Option, text: str, origin: str) -> Any:
    """Mappings and lists stand in variables as JSON."""
    if "dict" in str(option.kind) or "tuple" in str(option.kind):
        return _load_yaml(text, origin)
    return text


def _parsed(text: str, where: str) -> dict[str, Any]:
    content = _load_yaml(text, where)
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected a mapping of sections, found {type(content).__name__}")
    return dict(_sectioned(content, where))


def _load_yaml(text: str, where: str) -> Any:
    """JSON is YAML too, so one loader reads both."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"{place}: not valid JSON or YAML ({getattr(error, 'problem', None) or error})") from None


def _sectioned(content: Mapping[Any, Any], where: str) -> Iterator[tuple[str, Any]]:
    sections = sorted({option.section for option in options().values()})
    for section, entries in content.items():
        if section not in sections:
            place = options().get(str(section))
            fix = f"; put it under {place.section}" if place else nearest(str(section), sections)
            raise ConfigError(f"{where}: unknown key {section!r}{fix}")
        if not isinstance(entries, dict):
            raise ConfigError(f"{where}: {section}: found {entries!r}, expected a mapping")
        for name, value in entries.items():
            option = known_option(str(name), f"{where}: {section}", section)
            yield option.name, checked(option, value, f"{where}: {section}.{name}")


def known_option(name: str, where: str, section: str | None = None) -> Option:
    """The option of that name. Raises ConfigError with the nearest known name, or the section it belongs to."""
    option = options().get(name)
    if option is None:
        known = [other for other, entry in options().items() if section in (None, entry.section)]
        raise ConfigError(f"{where}: unknown key {name!r}{nearest(name, known)}")
    if section is not None and option.section != section:
        raise ConfigError(f"{where}: {name!r} belongs under {option.section}")
    return option


def resolved(settings: Settings) -> dict[str, Any]:
    """All settings as plain data for the result's first line."""
    return asdict(settings)
