"""What the sub-commands of `icm` share: how one is added, and the names of its options."""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeAlias

from icm.labelling.arguments import CommandParser, respelt
from icm.labelling.options import options

# The vLLM fork's names that are another option's name and nothing else.
FORK_NAMES = {
    "--K": "--max-iterations",
    "--initial-T": "--initial-temperature",
    "--final-T": "--final-temperature",
    "--num-seed": "--initial-examples",
    "--decay": "--cooling-rate",
}

Command = Callable[[argparse.Namespace], int]
Subparsers: TypeAlias = "argparse._SubParsersAction[CommandParser]"


def add_command(subparsers: Subparsers, name: str, command: Command, summary: str, examples: str) -> CommandParser:
    """Add a sub-command whose help ends with examples."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        usage=f"icm {name} [options]",
        epilog=f"examples:\n{examples}",
    )
    parser.set_defaults(command=command, parser=parser)
    return parser


def add_task_type(parser: CommandParser) -> None:
    """Add the option by which the user stands up for a module that a result file names."""
    trusted = "module of your own task, where the result names one: gold labels are read by its code"
    parser.add_argument("--task-type", metavar="MODULE", help=trusted)


def canonical_arguments(argv: Sequence[str]) -> list[str]:
    """Every option spelt in the one way the parser knows: dashes for underscores, our names for the fork's."""
    return respelt(argv, FORK_NAMES)


def given_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """The settings options that stood on the command line."""
    return {name: value for name, value in vars(arguments).items() if name in options()}
