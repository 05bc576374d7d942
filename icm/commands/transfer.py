"""`icm export` and `icm push`: results into files for training, and files onto the Hugging Face Hub."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icm.commands import parser as parsing
from icm.errors import ConfigError
from icm.text import say

if TYPE_CHECKING:
    from icm.publish.exporters import Export, ICMExporter

EXPORT_EXAMPLES = """\
  icm export --input-path results.jsonl --output-path dpo_data.jsonl --format dpo --create-pairs
  icm export --input-path results.jsonl --output-path sft.jsonl --format sft --confidence-threshold 0.7
  icm export --input-path results.jsonl --output-path table.csv --format csv --hf-push --hf-repo-id me/labels
  icm export --input-path results.jsonl --output-path analysis.html --format analysis --include-examples"""
PUSH_EXAMPLES = """\
  icm push --input-path truthfulqa_dpo.jsonl --hf-repo-id your-username/icm-truthfulqa-dataset
  icm push --input-path outputs/adapter --hf-repo-id your-username/icm-truthfulqa-lora --private"""

# format → options that shape it.
OPTIONS = {
    "json": ("include_stats", "confidence_threshold"),
    "csv": ("confidence_threshold",),
    "sft": ("conversational", "confidence_threshold"),
    "dpo": ("create_pairs", "max_pairs", "seed", "conversational", "confidence_threshold"),
    "analysis": ("include_examples",),
}

# format → endings of what it writes, the usual one first; reports check their own.
ENDINGS = {"json": (".json",), "csv": (".csv",), **dict.fromkeys(("sft", "dpo"), (".jsonl", ".ndjson", ".json"))}


def add_commands(subparsers: parsing.Subparsers) -> None:
    """Add both commands."""
    _add_export(subparsers)
    parser = parsing.add_command(subparsers, "push", push, "publish a file or an adapter on the hub", PUSH_EXAMPLES)
    parser.add_argument(
        "--input-path", metavar="PATH", required=True, help="file (of a result its examples go up), or adapter folder"
    )
    parser.add_argument("--hf-repo-id", metavar="OWNER/NAME", required=True, help="repository; made if absent")
    parser.add_argument("--file-name", metavar="NAME", help="name of the file in the repository")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parsing.add_task_type(parser)


def _add_export(subparsers: parsing.Subparsers) -> None:
    summary = "write a result as training data or report"
    parser = parsing.add_command(subparsers, "export", export, summary, EXPORT_EXAMPLES)
    parser.add_argument("--input-path", metavar="FILE", required=True, help="result file (also one of codelion/icm)")
    output_help = "file to write; a report ends in .json, .html or .md"
    parser.add_argument("--output-path", metavar="FILE", required=True, help=output_help)
    parser.add_argument("--format", choices=tuple(OPTIONS), required=True, help="what to write")
    # What was not given is not in the result: an option of one format may then be refused with the others.
    add = partial(parser.add_argument, default=argparse.SUPPRESS)
    yes_or_no = argparse.BooleanOptionalAction
    add("--confidence-threshold", metavar="P", type=float, help="leave out labels that are less probable than P")
    add("--include-stats", action="store_true", help="json: statistics of the labels")
    add(
        "--create-pairs", action=yes_or_no, help="dpo: pairs of answers, or of labels; default: answers where there are"
    )
    add("--max-pairs", metavar="N", type=int, help="dpo: at most N answer pairs a question, drawn with --seed")
    add("--seed", metavar="N", type=int, help="dpo: of that draw (default: 42)")
    add("--conversational", action="store_true", help="dpo, sft: messages instead of text")
    add("--include-examples", action="store_true", help="analysis: the least and the most confident labels")
    parser.add_argument("--hf-push", action="store_true", help="push the file to the hub as well")
    parser.add_argument("--hf-repo-id", metavar="OWNER/NAME", help="repository for --hf-push")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parsing.add_task_type(parser)


def export(arguments: argparse.Namespace) -> int:
    """Write one file, and push it if asked."""
    chosen = _format_options(arguments)
    _check_ending(arguments)
    if arguments.hf_push != (arguments.hf_repo_id is not None):
        raise ConfigError("--hf-push and --hf-repo-id OWNER/NAME go together; give both or none")
    say(_write(arguments, chosen))
    if arguments.hf_push:
        from icm.publish.hub import push_file
        from icm.results.format import read_result

        result = read_result(arguments.input_path, arguments.task_type)
        say(push_file(arguments.output_path, arguments.hf_repo_id, private=arguments.private, result=result))
    return 0


def _check_ending(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for a file whose name says that it is of another format."""
    from icm.tasks.formats import SUFFIXES, UNREAD

    expected, ending = ENDINGS.get(arguments.format), Path(arguments.output_path).suffix.lower()
    if expected is not None and ending not in expected and ending in (*SUFFIXES, *UNREAD):
        raise ConfigError(
            f"--output-path {arguments.output_path}: --format {arguments.format} writes {expected[0]}, not {ending}; "
            f"end it in {expected[0]}"
        )


def _format_options(arguments: argparse.Namespace) -> dict[str, object]:
    """The format's options that were given. Raises ConfigError for one that would have no effect."""
    known = {option for names in OPTIONS.values() for option in names}
    given = {name: value for name, value in vars(arguments).items() if name in known}
    for name in given:
        if name not in OPTIONS[arguments.format]:
            formats = " or ".join(key for key, names in OPTIONS.items() if name in names)
            raise ConfigError(
                f"--{name.replace('_', '-')} has no effect with --format {arguments.format}, only {formats}"
            )
    return given


def _write(arguments: argparse.Namespace, chosen: dict[str, object]) -> "Export":
    from icm.publish.exporters import ICMExporter
    from icm.results.training_rows import confidence_to_log_odds

    if chosen.pop("confidence_threshold", None) is not None:
        chosen["min_log_odds"] = confidence_to_log_odds(arguments.confidence_threshold)
    if arguments.format in ("json", "analysis"):
        # The exporter's own defaults suit a script; on the command line these are opt-in flags.
        switch = "include_stats" if arguments.format == "json" else "include_examples"
        chosen.setdefault(switch, False)
    if arguments.format == "analysis":
        chosen |= {"public": arguments.hf_push, "task_type": arguments.task_type}
    write = _writer(ICMExporter(), arguments.format)
    return write(arguments.input_path, arguments.output_path, **chosen)


def _writer(exporter: "ICMExporter", form: str) -> "Callable[..., Export]":
    writers: dict[str, Callable[..., Export]] = {
        "json": exporter.export_to_json,
        "csv": exporter.export_to_csv,
        "sft": exporter.export_to_sft_format,
        "dpo": exporter.export_to_dpo_format,
        "analysis": exporter.export_analysis_report,
    }
    return writers[form]


def push(arguments: argparse.Namespace) -> int:
    """Push a file or an adapter folder and print its address."""
    from icm.publish import hub

    names = {"file_name": arguments.file_name, "private": arguments.private, "task_type": arguments.task_type}
    say(hub.push(arguments.input_path, arguments.hf_repo_id, **names))
    return 0
