"""`icm pipeline`: label → train → eval from one experiment file."""

import argparse
from pathlib import Path

from icm.commands import parser as parsing
from icm.text import say

EXAMPLES = """\
  icm pipeline --config configs/experiments/demo.yaml
  icm pipeline --config configs/experiments/truthfulqa_llama3.1_8b.yaml --dry-run
  icm pipeline --config configs/experiments/demo.yaml --jobs 2"""


def add_command(subparsers: parsing.Subparsers) -> None:
    """Add `icm pipeline`."""
    summary = "label, train and evaluate from one file"
    parser = parsing.add_command(subparsers, "pipeline", pipeline, summary, EXAMPLES)
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="experiment file (YAML)")
    parser.add_argument("--force", action="store_true", help="redo stages whose settings or inputs have changed")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        help="stages that run at once, each on cards of its own and with a log in OUTPUT_DIR/logs; they change no "
        "result (default: as many as there are CUDA cards for, one without any)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the stages, and what each takes of memory and time; run nothing"
    )


def pipeline(arguments: argparse.Namespace) -> int:
    """Run the experiment, or print what it would do."""
    from icm.commands.log import logging_to
    from icm.labelling.options import OutputConfig
    from icm.pipeline.experiment import read_experiment
    from icm.pipeline.forecast import plan_pipeline
    from icm.pipeline.run import run_pipeline

    config = read_experiment(arguments.config)
    with logging_to(OutputConfig()):
        if arguments.dry_run:
            say(plan_pipeline(config))
        else:
            say(run_pipeline(config, force=arguments.force, jobs=arguments.jobs))
    return 0
