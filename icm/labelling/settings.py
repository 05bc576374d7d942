"""Settings: defaults < preset < settings file < environment < command line, one check for all of them."""

import difflib
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import get_type_hints

import yaml

from icm.config import SearchConfig
from icm.errors import ConfigError
from icm.files import read_log
from icm.labelling.options import (
    HIDDEN,
    Option,
    Settings,
    checked,
    describe,
    from_words,
    holds_mapping,
    list_member,
    nearest,
    options,
)
from icm.results.units import RUN
from icm.secrets import KEY_ENDING
from icm.yaml_files import mapping, read_mapping

PRESETS = ("paper", "codelion", "fork")
ENVIRONMENT_PREFIX = "ICM_"
# Read elsewhere (icm.models, icm.http); not options.
_OTHER_VARIABLES = ("ICM_CACHE", KEY_ENDING)

# Section of a file → parts of `Settings` whose options stand there: the parts' own names, and those of older files.
SECTIONS: Mapping[str, tuple[str, ...]] = {part: (part,) for part in get_type_hints(Settings)} | {
    "data_params": ("data",),
    "search_params": ("search",),
    "model_params": ("engine", "generation"),
    "system_params": ("engine", "output", "search"),
    "model": ("engine",),
}


def resolve_settings(
    given: Mapping[str, object],
    *,
    preset: str | None = None,
    settings_file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    resumed: str | Path | None = None,
) -> Settings:
    """Merge all sources of settings, the later ones winning.

    Args:
        given: option name → value of the command line, only what was written there.
        preset: one of `PRESETS`.
        settings_file: JSON or YAML with the sections `data`, `search`, `engine`, `generation` and `output`.
        environ: variables `ICM_<OPTION>`; None reads the process's own.
        resumed: trace of the run that goes on: its settings stand for what nothing else says.

    Raises:
        ConfigError: an unknown key (with the nearest known one) or a value of the wrong type or out of range.
    """
    sources: list[Mapping[str, object]] = [] if resumed is None else [trace_values(Path(resumed))]
    if preset is not None:
        sources.append(preset_values(preset))
    if settings_file is not None:
        sources.append(file_values(settings_file))
    sources.append(environment_values(os.environ if environ is None else environ))
    named = {name: _known(name, "command line") for name in given}
    sources.append({name: checked(option.kind, given[name], option.flag) for name, option in named.items()})
    values: dict[str, object] = {}
    for source in sources:
        if "cooling_rate" in source:  # beta under another name, see `build`
            values.pop("beta", None)
        values |= source
    return build(values)


def build(values: Mapping[str, object]) -> Settings:
    """Settings from checked values by option name; defaults for the rest."""
    if "cooling_rate" in values and values.get("schedule", SearchConfig.schedule) == "log":
        # What codelion/icm calls its cooling rate, and the fork its decay, is beta of this schedule.
        values = {"beta": values["cooling_rate"], **values}
    kinds = get_type_hints(Settings)
    arguments: dict[str, dict[str, object]] = {part: {} for part in kinds}
    for name, value in values.items():
        for part, field in options()[name].places:
            arguments[part][field] = value
    return Settings(**{part: kind(**arguments[part]) for part, kind in kinds.items()})


def preset_values(name: str) -> dict[str, object]:
    """The documented values of one source by option name."""
    if name not in PRESETS:
        raise ConfigError(f"--preset: found {name!r}{nearest(name, PRESETS)}")
    return file_values(Path(__file__).with_name("presets") / f"{name}.yaml")


def file_values(path: str | Path) -> dict[str, object]:
    """The values of a settings file by option name."""
    return section_values(read_mapping(path, "--settings takes a JSON or YAML file"), str(path))


def trace_values(trace: Path) -> dict[str, object]:
    """The settings of the run that left a trace, by option name; none where it does not say them.

    Raises:
        ConfigError: a setting that is none, or a wrong value.
        DataError: the first line is broken.
    """
    _, first = next(iter(read_log(trace)), (0, {}))
    run = first.get(RUN) if first.get("type") == "icm_trace" else None
    if not isinstance(run, dict):
        return {}
    sections = {part: mapping(content, f"{trace}: {part}") for part, content in run.items()}
    shown = {part: {k: v for k, v in given.items() if (part, k) not in HIDDEN} for part, given in sections.items()}
    values = section_values(shown, str(trace)) | {"output_dir": str(trace.parent)}
    # A file does not say which code is run: modules of your own are named anew.
    own = {name for name in ("task_type", "rules") if re.search("[.:]", str(values.get(name)))}
    return {name: value for name, value in values.items() if name not in own}


def section_values(content: Mapping[str, object], where: str) -> dict[str, object]:
    """The values in the sections of a file by option name.

    Raises:
        ConfigError: an unknown section or key, a wrong value, or two values for one setting.
    """
    values: dict[str, object] = {}
    for section, entries in content.items():
        if section not in SECTIONS:
            place = options().get(section)
            fix = f"; put it under {place.part}" if place else nearest(section, SECTIONS)
            raise ConfigError(f"{where}: unknown key {section!r}{fix}")
        for key, entry in mapping(entries, f"{where}: {section}").items():
            option = _option_in(section, key, where)
            value = checked(option.kind, entry, f"{where}: {section}.{key}")
            if values.setdefault(option.name, value) != value:
                raise ConfigError(f"{where}: {section}.{key}: found {value!r}, but {values[option.name]!r} before it")
    return values


def _option_in(section: str, key: str, where: str) -> Option:
    """The option that a section calls `key`: its name, or the field's."""
    known: dict[str, Option] = {}
    for option in options().values():
        names = {name for part, field in option.places if part in SECTIONS[section] for name in (field, option.name)}
        known |= dict.fromkeys(names, option)
    if key in known:
        return known[key]
    if key in options():
        raise ConfigError(f"{where}: {section}: {key!r} belongs under {options()[key].part}")
    raise ConfigError(f"{where}: {section}: unknown key {key!r}{nearest(key, known)}")


def environment_values(environ: Mapping[str, str]) -> dict[str, object]:
    """The values of `ICM_<OPTION>` variables by option name; empty variables count as unset."""
    values: dict[str, object] = {}
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.endswith(_OTHER_VARIABLES) or not environ[variable]:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        # Other programs may own ICM_ variables: only what looks like a misspelt option is refused.
        if name in options() or difflib.get_close_matches(name, options()):
            kind = _known(name, f"environment variable {variable}").kind
            values[name] = checked(kind, _from_text(kind, environ[variable], variable), variable)
    return values


def _from_text(kind: object, text: str, origin: str) -> object:
    """Lists and mappings stand in variables as on a command line."""
    if not holds_mapping(kind) and list_member(kind) is None:
        return text
    text = text.strip()
    try:
        words = [text] if text[:1] in ("[", "{") else shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: found {text!r} ({error}), expected {describe(kind)}") from None
    return from_words(kind, words, origin)


def _known(name: str, where: str) -> Option:
    """The option of that name. Raises ConfigError with the nearest known name."""
    if name not in options():
        raise ConfigError(f"{where}: unknown key {name!r}{nearest(name, options())}")
    return options()[name]


def settings_yaml(settings: Settings) -> str:
    """All settings as a file that `resolve_settings` reads back to the same."""
    sections: dict[str, dict[str, object]] = {}
    for option in options().values():
        part, field = option.places[0]
        value = getattr(getattr(settings, part), field)
        sections.setdefault(part, {})[field] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
