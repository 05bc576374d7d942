"""`icm run`: everything is checked, then a model is loaded, then data are labelled."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from icm.commands import parser as parsing
from icm.commands.log import logging_to
from icm.config import WorkersConfig
from icm.errors import ConfigError
from icm.labelling.arguments import CommandParser, add_options
from icm.labelling.options import Settings, build, class_options, options
from icm.labelling.settings import PRESETS, resolve_settings, settings_yaml
from icm.results.format import ICMResult, LabeledExample
from icm.results.record import RunRecord
from icm.results.trust import Trust, judged
from icm.text import say

TESTBEDS = {
    "truthfulQA": {"dataset": "truthful_qa", "task_type": "truthfulqa"},
    "gsm8k": {"dataset": "gsm8k", "task_type": "gsm8k"},
    "alpaca": {"task_type": "comparison"},
}
SCHEDULERS = {"log": "log", "exp": "geometric"}

EXAMPLES = """\
  icm run --model google/gemma-3-1b-it --dataset truthful_qa --task-type truthfulqa --max-examples 100
  icm run --dataset reviews.jsonl --task-type classification --max-examples 64 --device cpu
  icm run --dataset nli.csv --template $'{premise}\\n{hypothesis}\\nRelation:' --label-field gold --group-field premise
  icm run --synthetic math --synthetic-size 50 --max-iterations 200
  icm run --model meta-llama/Llama-3.1-70B --preset fork --tensor-parallel-size 4
  icm run --model meta-llama/Llama-3.1-8B --dataset claims.jsonl --workers auto
  icm run --preset paper --print-settings > mine.yaml
  icm run --settings mine.yaml --dry-run
  icm run --resume icm_results/reviews_smollm2-135m-instruct_20260102_030405.trace.jsonl

settings: defaults < --preset < --settings FILE < ICM_<OPTION> variables < command line. FILE is JSON or YAML with the
sections data, search, engine, generation and output; --print-settings writes one, and `extends: OTHER` in it names a
file to go on from. Dashes and underscores are the same; the vLLM fork's --K, --num_seed, --initial_T, --final_T and
--decay are --max-iterations, --initial-examples, --initial-temperature, --final-temperature and --cooling-rate."""


def add_command(subparsers: parsing.Subparsers) -> None:
    """Add `icm run`."""
    parser = parsing.add_command(subparsers, "run", run, "label a data set", EXAMPLES)
    run_group = parser.add_argument_group("run")
    run_group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what is read as what, one prompt, tokens, memory and time; label nothing",
    )
    run_group.add_argument(
        "--resume", metavar="TRACE", type=Path, help="continue an interrupted run, with its settings, from its trace"
    )
    run_group.add_argument("--preset", choices=PRESETS, help="documented values of the paper, codelion/icm, vLLM fork")
    run_group.add_argument("--settings", metavar="FILE", type=Path, help="settings file (JSON or YAML)")
    run_group.add_argument("--print-settings", action="store_true", help="print all settings as a file for --settings")
    add_workers(run_group)
    data = _add_part(parser, "data", "data")
    data.add_argument(
        "--synthetic", choices=("math", "comparison", "problems"), help="short for --dataset synthetic:KIND"
    )
    data.add_argument("--testbed", choices=tuple(TESTBEDS), help="the fork's name of data set and task type")
    search = _add_part(parser, "search", "search")
    search.add_argument("--scheduler", choices=tuple(SCHEDULERS), help="the fork's name of the schedule")
    _add_part(parser, "engine", "engine")
    _add_part(parser, "generation", "generation (where the model writes the claims)")
    _add_part(parser, "output", "output")


def add_workers(group: argparse._ActionsContainer) -> None:
    """Add the options of `WorkersConfig`, which are no settings: they decide nothing of a result."""
    for option in class_options(WorkersConfig):
        add_options(group, [option])


def given_workers(arguments: argparse.Namespace) -> WorkersConfig:
    """What they say."""
    names = {option.name for option in class_options(WorkersConfig)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return build(WorkersConfig, given, "command line")


def _add_part(parser: CommandParser, part: str, title: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(title)
    add_options(group, [option for option in options().values() if option.part == part])
    return group


def run(arguments: argparse.Namespace) -> int:
    """Label a data set, or print the plan of doing so."""
    given = {**_synonyms(arguments), **parsing.given_settings(arguments)}
    settings = resolve_settings(
        given, preset=arguments.preset, settings_file=arguments.settings, resumed=arguments.resume
    )
    if arguments.print_settings:
        sys.stdout.write(settings_yaml(settings))  # a file of the user's own, to be read again
        return 0
    with logging_to(settings.output):
        if arguments.dry_run:
            _print_plan(settings, given_workers(arguments))
        else:
            _label(settings, arguments)
    return 0


def _print_plan(settings: Settings, workers: WorkersConfig) -> None:
    from icm.labelling.forecast import plan_run

    say(plan_run(settings, lambda data: say(data.account), None if workers.here else workers))


def _label(settings: Settings, arguments: argparse.Namespace) -> None:
    # Imported here: torch takes seconds, and help must not.
    from transformers.utils.logging import disable_progress_bar

    from icm.commands.progress import progress_bar
    from icm.labelling.run import Interrupted, label
    from icm.results.format import read_result

    workers = given_workers(arguments)
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        with progress_bar(settings.search) as on_progress:
            path = label(settings, arguments.resume, on_progress, workers)
    except Interrupted as interrupt:
        command = shlex.join(["icm", *_without_resume(arguments.argv), "--resume", str(interrupt.trace)])
        raise KeyboardInterrupt(f"interrupted; continue with: {command}") from None
    say(path)
    say(_summary(read_result(path)))


def _summary(result: ICMResult) -> str:
    counts = result.label_counts
    balance = ", ".join(f"{count} {label}" for label, count in counts.items())
    score = "no utility" if result.score is None else f"utility {result.score:.4f}"
    trust = judged(result)
    given = [item for item in result.labeled_examples if item.trusted]
    known = f", {len(given)} of them given" if given else ""
    lines = [f"{len(result.labeled_examples)} examples: {balance}{known}; {score}"]
    if trust:
        lines += [str(trust), _advice(result, trust, given)]
    return "\n".join([*lines, _cost(result.record)])


def _advice(result: ICMResult, trust: Trust, given: Sequence[LabeledExample]) -> str:
    """What to look at, or to do, before training."""
    file = shlex.quote(str(result.file))
    page = f"icm review {file} --count 20 --output review.html"
    if given:
        right = sum((item.log_odds or 0.0) > 0 for item in given)
        return (
            f"of the {len(given)} given labels the model tells {right} from all others; neither that nor the verdict "
            f"says well how many found ones are right: read some before you train on them ({page})"
        )
    if trust.verdict == "coherent" and not trust.cue.flagged:
        return f"this does not say that they mean what you mean: read some before you train on them ({page})"
    return f"before you train, a few labels of yours may help (icm ask {file} --by influence --output ask.csv)"


def _cost(record: RunRecord) -> str:
    usage = record.usage
    computed, plain, repeated = (usage[name] for name in ("computed_tokens", "plain_tokens", "unchanged_tokens"))
    cost = f"{computed:,} tokens computed in {usage['seconds']:.0f} s, peak memory {record.peak_memory_gib} GiB"
    if plain:
        cost += f"; {computed / plain:.3f} of plain order"
    if repeated:
        cost += f", {computed / (plain + repeated):.3f} of Algorithm 1 as printed (it sweeps unchanged labels again)"
    return cost


def _synonyms(arguments: argparse.Namespace) -> dict[str, object]:
    """Settings that were given under another name, which an option of our own overrides."""
    found: dict[str, object] = dict(TESTBEDS.get(arguments.testbed, {}))
    if Path(getattr(arguments, "config", "")).is_file():
        raise ConfigError(f"--config {arguments.config}: names a data set's configuration; a file goes to --settings")
    if arguments.synthetic is not None:
        if hasattr(arguments, "dataset"):
            raise ConfigError(f"--synthetic {arguments.synthetic}: --dataset is given as well; leave one out")
        found["dataset"] = f"synthetic:{arguments.synthetic}"
    if arguments.testbed == "alpaca" and not hasattr(arguments, "dataset"):
        raise ConfigError("--testbed alpaca: its data are not a public data set; give a file of pairs with --dataset")
    if arguments.scheduler is not None:
        found["schedule"] = SCHEDULERS[arguments.scheduler]
    return found


def _without_resume(argv: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in argv:
        if not skip and not argument.startswith("--resume"):
            kept.append(argument)
        skip = argument == "--resume"
    return kept
