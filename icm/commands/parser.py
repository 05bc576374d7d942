"""Argument parsing that all commands share: spellings, one-line errors, options generated from the settings."""

import argparse
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args, get_origin

from icm.errors import ConfigError
from icm.labelling.options import Option, options

# The vLLM fork's names that are another option's name and nothing else.
FORK_NAMES = {
    "--K": "--max-iterations",
    "--initial-T": "--initial-temperature",
    "--final-T": "--final-temperature",
    "--num-seed": "--initial-examples",
    "--decay": "--cooling-rate",
}

Command = Callable[[argparse.Namespace], int]
Subparsers = Any  # argparse._SubParsersAction, which is private


class CommandParser(argparse.ArgumentParser):
    """argparse with one-line errors (`ConfigError`), exact option names and examples that keep their lines."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(formatter_class=_formatter, allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def _formatter(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size().columns, 120)
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=width)


def add_command(subparsers: Subparsers, name: str, command: Command, summary: str, examples: str) -> CommandParser:
    """Add a sub-command whose help ends with examples."""
    parser: CommandParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        usage=f"icm {name} [options]",
        epilog=f"examples:\n{examples}",
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


def canonical_arguments(argv: Sequence[str]) -> list[str]:
    """Every option spelt in the one way the parser knows: dashes for underscores, our names for the fork's."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [*map(_canonical, argv[:end]), *argv[end:]]


def _canonical(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    name = name.replace("_", "-")
    return FORK_NAMES.get(name, name) + equals + value


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """All long options of a parser."""
    return [text for action in parser._actions for text in action.option_strings if text.startswith("--")]


def add_options(group: Any, parts: Sequence[str], names: Sequence[str] = ()) -> None:
    """Add the options of some parts of `Settings` (all, or the named ones). Only what is given is in the result."""
    for option in options().values():
        if option.part in parts and (not names or option.name in names):
            group.add_argument(option.flag, dest=option.name, default=argparse.SUPPRESS, **_appearance(option))


def _appearance(option: Option) -> dict[str, Any]:
    default = "" if option.default in (None, ()) else f" (default: {option.default})"
    text = (option.help + default).replace("%", "%%")
    if option.kind is bool:
        return {"action": argparse.BooleanOptionalAction, "help": text}
    if option.choices:
        return {"choices": option.choices, "help": text}
    if "dict" in str(option.kind):
        return {"action": _Pairs, "nargs": "+", "metavar": "LABEL=TEXT", "help": text}
    if get_origin(option.kind) is tuple:
        return {"nargs": "+", "metavar": "RULE", "help": text}
    return {"metavar": _metavar(option), "help": text}


def _metavar(option: Option) -> str:
    kinds = get_args(option.kind) or (option.kind,)
    return "N" if int in kinds else "X" if float in kinds else option.name.rpartition("_")[2].upper()


class _Pairs(argparse.Action):
    """`LABEL=TEXT LABEL=TEXT` → a mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for value in values:
            if "=" not in value:
                parser.error(f"argument {option_string}: found {value!r}, expected LABEL=TEXT")
        setattr(namespace, self.dest, dict(value.split("=", 1) for value in values))


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings options that stood on the command line."""
    return {name: value for name, value in vars(arguments).items() if name in options()}
