"""Command lines from options: one spelling, one way to write lists and switches, one line for a mistake."""

import argparse
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, get_args

from icm.errors import ConfigError
from icm.labelling.options import Option, from_words, holds_mapping, list_member, nearest


class CommandParser(argparse.ArgumentParser):
    """argparse with one-line errors (`ConfigError`), exact option names and examples that keep their lines."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(formatter_class=_formatter, allow_abbrev=False, **arguments)

    def _parse_optional(self, arg_string: str) -> Any:
        """Options begin with two dashes and a letter; `-=` is a label without a name, of the option before it."""
        is_option = re.match("--[a-zA-Z]|-h$|--$", arg_string)
        return super()._parse_optional(arg_string) if is_option else None

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _formatter(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size().columns, 120)
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=width)


def respelt(argv: Sequence[str], synonyms: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Every option spelt in the one way a parser knows: dashes for underscores, our names for the synonyms."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [*(_respelt(word, synonyms) for word in argv[:end]), *argv[end:]]


def _respelt(word: str, synonyms: Mapping[str, str]) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    return synonyms.get(name, name) + equals + value


def switched(argv: Sequence[str], options: Iterable[Option]) -> list[str]:
    """`--flag true` and `--flag=false`, as evaluations once had it, in the one way: `--flag` and `--no-flag`."""
    flags = {option.flag for option in options if option.kind is bool}
    words: list[str] = []
    for word in argv:
        name, _, value = word.partition("=")
        if words and words[-1] in flags and word in ("true", "false"):
            name, value = words.pop(), word
        if name in flags and value in ("true", "false"):
            word = name if value == "true" else name.replace("--", "--no-", 1)
        words.append(word)
    return words


def refuse_rest(rest: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Raise ConfigError for what a parser left over, with the nearest option."""
    if rest and not rest[0].startswith("-"):
        raise ConfigError(f"unexpected argument {rest[0]!r}; options start with --")
    if rest:
        name = rest[0].partition("=")[0]
        known = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
        raise ConfigError(f"unknown option {name}{nearest(name, known)} (see {parser.prog} --help)")


def add_options(group: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Add options under their names. Only what is given is in the parser's result."""
    for option in options:
        group.add_argument(option.flag, dest=option.name, default=argparse.SUPPRESS, **_appearance(option))


def _appearance(option: Option) -> dict[str, Any]:
    value = " ".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
    default = "" if value in (None, "") else f" (default: {value})"
    shown = {"help": (option.help + default).replace("%", "%%")}
    if option.kind is bool:
        return shown | {"action": argparse.BooleanOptionalAction}
    if option.choices:
        return shown | {"choices": option.choices}
    name = option.name.rpartition(".")[2].upper()
    if holds_mapping(option.kind):
        return shown | {"action": _Words, "const": option.kind, "nargs": "+", "metavar": "LABEL=TEXT"}
    if list_member(option.kind) is not None:
        return shown | {"action": _Words, "const": option.kind, "nargs": "+", "metavar": name.removesuffix("S")}
    kinds = get_args(option.kind) or (option.kind,)
    return shown | {"metavar": "N" if int in kinds else "X" if float in kinds else name.rpartition("_")[2]}


class _Words(argparse.Action):
    """Words → a list or mapping, see `from_words`; `const` is its type. What is given again is added."""

    def __call__(self, parser: object, namespace: object, words: object, option_string: str | None = None) -> None:
        assert isinstance(words, list)  # nargs is +
        found, before = from_words(self.const, words, f"argument {option_string}"), getattr(namespace, self.dest, None)
        if isinstance(before, dict) and isinstance(found, dict):
            found = before | found
        elif isinstance(before, list) and isinstance(found, list):
            found = before + found
        setattr(namespace, self.dest, found)
