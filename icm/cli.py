"""The `icm` command. Heavy libraries are imported by the commands that need them, so that help is instant."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from icm.commands import add_commands
from icm.commands.parser import canonical_arguments
from icm.doors import door
from icm.errors import ConfigError
from icm.labelling.arguments import CommandParser, refuse_rest
from icm.labelling.options import nearest
from icm.secrets import load_secrets


def make_parser() -> tuple[CommandParser, list[str]]:
    """The parser of the whole command, and the names of the sub-commands."""
    import shtab

    parser = CommandParser(
        prog="icm",
        description="Internal Coherence Maximization: label data with a model's own coherence, without supervision.",
        epilog="""\
examples:
  icm doctor                                        check the installation
  icm run                                           label built-in reviews with the built-in model
  icm run --model M --dataset truthful_qa --dry-run print what a run would cost
  icm export --input-path R.jsonl --output-path sft.jsonl --format sft

`icm COMMAND --help` shows a command's options. Settings also come from ICM_<OPTION> variables, from .env and SECRETS
in the current folder, and for `icm run` from --settings FILE and --preset NAME.""",
    )
    shtab.add_argument_to(parser, ["--print-completion"], help="print a completion script (bash, zsh, …)")
    parser._actions[-1].metavar = "SHELL"
    return parser, add_commands(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C, 143 after SIGTERM."""
    return door("icm: error", lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    load_secrets(Path.cwd())
    parser, commands = make_parser()
    if not argv:
        parser.print_help()
        return 0
    if not argv[0].startswith("-") and argv[0] not in commands:
        raise ConfigError(f"unknown command {argv[0]!r}{nearest(argv[0], commands)}")
    arguments, rest = parser.parse_known_args(canonical_arguments(argv), argparse.Namespace(argv=argv))
    refuse_rest(rest, arguments.parser)
    code: int = arguments.command(arguments)
    return code
