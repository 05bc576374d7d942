"""The one reader of YAML and JSON mappings: settings, experiments, evaluations, recipes, layouts of machines."""

import reprlib
from collections.abc import Mapping
from pathlib import Path

import yaml

from icm.errors import ConfigError, DataError
from icm.files import read_text

LONGEST = 64 * 2**10
"""Bytes of a settings file; the parser takes seconds for a few times as many."""
MOST_VALUES = 50_000
"""Keys and values of a settings file, those of an alias counted each time that it stands there."""
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
    """What YAML says, in the types that JSON has; JSON is YAML too.

    Raises:
        ConfigError: starts with `where`, and the line if it is known.
    """
    try:
        content: object = yaml.load(text, _Loader)
        _check_text(content)
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        place = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML ({problem[:300]})") from None
    return content


_NOT_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null")}


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that does not let aliases multiply, and takes a date or a key as the text that stands there:
    labels are called yes, no, true and 1."""

    def get_single_node(self) -> yaml.Node | None:
        """See `yaml.SafeLoader`. A few lines of aliases to aliases can stand for more values than any memory holds."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _values(node, {})
            _keys_as_text(node, set())
        return node


_Loader.yaml_constructors = {
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if not (tag or "").endswith((":timestamp", ":binary", ":set", ":omap", ":pairs"))
}
_Loader.yaml_implicit_resolvers = {
    start: [entry for entry in found if not entry[0].endswith(":timestamp")]
    for start, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many keys and values a node stands for."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # what an alias within its own node stands for
        known[id(node)] = 1 + sum(_values(member, known) for member in _members(node))
    if known[id(node)] > MOST_VALUES:
        found = f"it stands for more than {MOST_VALUES:,} values, or for itself"
        raise yaml.constructor.ConstructorError(None, None, found, node.start_mark)
    return known[id(node)]


def _keys_as_text(node: yaml.Node, known: set[int]) -> None:
    if isinstance(node, yaml.ScalarNode) or id(node) in known:
        return
    known.add(id(node))
    if isinstance(node, yaml.MappingNode):
        node.value = [(_as_text(key), value) for key, value in node.value]
    for member in _members(node):
        _keys_as_text(member, known)


def _members(node: yaml.Node) -> list[yaml.Node]:
    """Keys and values of a mapping, or what a sequence holds."""
    return [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value


def _as_text(key: yaml.Node) -> yaml.Node:
    """Another node: an alias of a key may be a value elsewhere."""
    if isinstance(key, yaml.ScalarNode) and key.tag in _NOT_TEXT:
        return yaml.ScalarNode(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, key.value, key.start_mark, key.end_mark)
    return key


def _check_text(value: object) -> None:
    """Raise ValueError for text that no file, name or prompt can hold."""
    if isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{reprlib.repr(value)} holds a zero byte or half a character")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for member in value if isinstance(value, list) else ():
        _check_text(member)


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
        return read_text(path, LONGEST)
    except DataError as error:
        raise ConfigError(f"{error}; {advice}") from None
