"""The sub-commands: one module each, light to import; what is heavy is imported when a command runs."""

from icm.commands import doctor, pipeline, results, review, run, transfer
from icm.labelling.arguments import CommandParser


def add_commands(parser: CommandParser) -> list[str]:
    """Add all sub-commands; returns their names."""
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    run.add_command(subparsers)
    transfer.add_commands(subparsers)
    review.add_commands(subparsers)
    results.add_commands(subparsers)
    pipeline.add_command(subparsers)
    doctor.add_command(subparsers)
    return list(subparsers.choices)
