"""`icm doctor`."""

import argparse

from icm.commands import parser as parsing
from icm.text import say


def add_command(subparsers: parsing.Subparsers) -> None:
    """Add `icm doctor`."""
    parsing.add_command(subparsers, "doctor", doctor, "check the installation and say what to do", "  icm doctor")


def doctor(arguments: argparse.Namespace) -> int:
    """Print the findings. Exit code 2 if something will fail."""
    from icm.commands.diagnosis import diagnose

    problems = 0
    for finding in diagnose():
        say(finding)
        problems += finding.state == "problem"
    say(f"{problems} problems" if problems else "ready")
    return 2 if problems else 0
