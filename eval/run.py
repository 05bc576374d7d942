"""Compare conditions on one held-out set.

    python eval/run.py --labels icm_results/reviews.jsonl
    python eval/run.py --config configs/eval/reviews.yaml --labels icm_results/reviews.jsonl
    python eval/run.py --config configs/eval/reviews.yaml --data.max_examples 100 --seeds 0 1 2 --output_dir out
    python eval/run.py --help

Writes `results.json`, `samples_<condition>.jsonl`, `results.md`, `figure_1.png` and `report.html` to `output_dir`.
A run that was stopped continues where it was; finished conditions are not run again, unless `--rerun "NAME"` asks
for it.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.held_out import read_settings
from icm.doors import door
from icm.secrets import load_secrets
from icm.text import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    again = "; the same command continues where it was"
    return door("error", lambda: _evaluate(sys.argv[1:] if arguments is None else arguments), again)


def _evaluate(arguments: Sequence[str]) -> int:
    load_secrets(Path.cwd())
    settings = read_settings(arguments)
    # Imported here: torch, plots and statistics take seconds that help and a wrong setting should not cost.
    from eval.evaluator import evaluate

    folder = evaluate(settings)
    say(f"written  {folder}/results.json, figure_1.png, report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
