"""`icm ask` and `icm review`: labels that somebody should look at, as a table to fill in and as a page."""

import argparse
import csv
import io
from pathlib import Path

from icm.commands import parser as parsing
from icm.errors import ConfigError
from icm.text import say

ASK_EXAMPLES = """\
  icm ask icm_results/reviews.jsonl --count 16 --output ask.csv
  icm run --dataset reviews --max-examples 64 --trusted ask.csv      once the column `label` is filled"""
REVIEW_EXAMPLES = """\
  icm review icm_results/reviews.jsonl --output review.html
  icm run --dataset reviews --max-examples 64 --trusted reviews.trusted.jsonl --start icm_results/reviews.jsonl"""


def add_commands(subparsers: parsing.Subparsers) -> None:
    """Add both commands."""
    asking = parsing.add_command(subparsers, "ask", ask, "list the examples whose labels would help most", ASK_EXAMPLES)
    asking.add_argument("result", metavar="RESULT", help="label file")
    asking.add_argument("--count", type=int, default=16, metavar="N", help="examples (default: %(default)s)")
    ways = (
        "uncertainty: the labels that the labeler is least sure of; influence: those that it is surest of, the core of "
        "what it found, which tell whether that is meant; random (default: %(default)s); no two nearly the same"
    )
    asking.add_argument("--by", choices=("uncertainty", "influence", "random"), default="uncertainty", help=ways)
    asking.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="table with a column `label` to fill in, and the labels given before: .csv or .jsonl",
    )
    review_parser = parsing.add_command(
        subparsers, "review", review, "write a page on which labels are confirmed or changed by eye", REVIEW_EXAMPLES
    )
    review_parser.add_argument("result", metavar="RESULT", help="label file")
    review_parser.add_argument(
        "--count",
        type=int,
        default=40,
        metavar="N",
        help="labels: half drawn at random, which the page's estimate of accuracy rests on, half the least certain "
        "(default: %(default)s)",
    )
    review_parser.add_argument("--output", required=True, metavar="FILE", help="page, .html; needs no server")
    for name, parser in (("ask", asking), ("review", review_parser)):
        parser.usage = f"icm {name} RESULT --output FILE [options]"
        parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")


def ask(arguments: argparse.Namespace) -> int:
    """Write the questions as a table."""
    from icm.files import atomic_write, write_jsonl
    from icm.results.asking import COLUMNS, question_rows, questions
    from icm.results.format import read_result

    path = Path(arguments.output)
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ConfigError(f"--output {path}: expected a file that ends in .csv or .jsonl")
    result = read_result(arguments.result)
    if path.exists():
        raise ConfigError(f"--output {path}: exists already, and may hold labels; give another name")
    found = questions(result, arguments.count, arguments.by, _seed(arguments))
    rows = question_rows(found, result)
    if path.suffix.lower() == ".jsonl":
        write_jsonl(path, rows)
    else:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(path, "wb") as handle:
            handle.write(table.getvalue().encode())
    few = (
        " (all others are nearly the same texts)"
        if len(found) < min(arguments.count, sum(not item.trusted for item in result.labeled_examples))
        else ""
    )
    given = f", behind them the {len(rows) - len(found)} given before" if len(rows) > len(found) else ""
    say(f"{len(found)} examples{few} in {path}{given}; fill the column 'label', then: icm run … --trusted {path}")
    return 0


def review(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from icm.results.format import read_result
    from icm.results.review import write_review

    count = write_review(arguments.output, read_result(arguments.result), arguments.count, _seed(arguments))
    say(f"{count} labels to look at in {arguments.output}; open it in a browser")
    return 0


def _seed(arguments: argparse.Namespace) -> int:
    if arguments.seed < 0:
        raise ConfigError(f"--seed: found {arguments.seed}, expected a number of at least 0")
    return int(arguments.seed)
