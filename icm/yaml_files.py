"""The one reader of YAML and JSON mappings: settings, experiments, evaluations, recipes, layouts of machines."""

import reprlib
from collections.abc import Mapping
from pathlib import Path

import yaml

from icm.errors import ConfigError

EXTENDS = "extends"
"""Key that names the file whose settings a file changes; relative to that file."""


def read_mapping(path: str | Path, advice: str = "give a YAML or JSON file") -> dict[str, object]:
    """The mapping in a file, laid over the file that it `extends`.

    Args:
        path: of the file.
        advice: ends the message where there is no such file.

    Raises:
        ConfigError: one line with the file, the line where it is known, and what is wrong.
    """
    content: dict[str, object] = {}
    for _, layer in reversed(_chain(Path(path), advice)):
        content = merged(content, layer)
    return content


def source_files(path: str | Path) -> tuple[Path, ...]:
    """The file and those it extends: all that decides what `read_mapping` returns."""
    return tuple(file for file, _ in _chain(Path(path), "give a YAML or JSON file"))


def merged(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Mappings are merged key by key; lists and values of `over` replace those of `base`."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def mapping(content: object, where: str) -> dict[str, object]:
    """`content` with its keys as text. Raises ConfigError if it is no mapping."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: found {reprlib.repr(content)}, expected a mapping of settings")
    return {str(key): value for key, value in content.items()}


def parse_yaml(text: str, where: str) -> object:
    """What YAML says; JSON is YAML too. Raises ConfigError starting with `where`, and the line if it is known."""
    try:
        content: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        place = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML ({problem})") from None
    return content


def _chain(path: Path, advice: str) -> list[tuple[Path, dict[str, object]]]:
    """The file and its bases, nearest first."""
    layers: list[tuple[Path, dict[str, object]]] = []
    while True:
        layer = mapping(parse_yaml(_text(path, advice), str(path)), str(path))
        base = layer.pop(EXTENDS, None)
        layers.append((path, layer))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise ConfigError(f"{path}: {EXTENDS}: found {base!r}, expected the name of a file beside it")
        named_in, path = path, path.parent / base
        if path.resolve() in {file.resolve() for file, _ in layers}:
            raise ConfigError(f"{named_in}: {EXTENDS}: {base} extends this file in turn; end the circle")
        advice = f"{named_in} extends it; name a file relative to that one"


def _text(path: Path, advice: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise ConfigError(f"{path}: {getattr(error, 'strerror', error)}; {advice}") from None
