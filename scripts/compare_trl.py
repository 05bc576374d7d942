"""Time and memory of train/run.py against `trl sft` with the same rows, recipe and number of steps.

    python scripts/compare_trl.py --labels RESULT.jsonl --config configs/train/demo_sft.yaml --work DIR

The same recipe goes to both (TRL skips the keys it does not know). TRL appends an end token to each label.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from icm.files import write_jsonl
from icm.models import resolve_model
from icm.results.format import read_result
from icm.results.training_rows import sft_rows
from icm.secrets import load_secrets
from icm.yaml_files import read_mapping

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Cost:
    """Of one process: wall-clock and CPU seconds in all, largest resident memory in GiB, optimiser steps."""

    seconds: float
    cpu_seconds: float
    memory_gib: float
    steps: int


def main(words: Sequence[str]) -> int:
    """Run both and print their costs as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="new folder for both runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings for both")
    arguments = parser.parse_args(words)
    load_secrets(Path.cwd())
    common = [f"--{setting}" for setting in arguments.set]
    ours, theirs = arguments.work / "icm", arguments.work / "trl"
    costs = {
        "trl": measure(
            trl_command(arguments.labels, arguments.config, theirs, arguments.work / "data"), common, theirs
        ),
        "icm": measure(icm_command(arguments.labels, arguments.config, ours), common, ours),
    }
    overhead = costs["icm"].cpu_seconds / costs["trl"].cpu_seconds - 1
    found = {name: asdict(cost) for name, cost in costs.items()} | {"cpu_overhead": round(overhead, 3)}
    print(json.dumps(found, indent=2))
    return 0


def icm_command(labels: Path, config: Path, output: Path) -> list[str]:
    """Our run."""
    words = ["--config", str(config), "--labels", str(labels), "--output_dir", str(output)]
    return [sys.executable, "train/run.py", *words]


def trl_command(labels: Path, config: Path, output: Path, data: Path) -> list[str]:
    """TRL's own script on the same rows, with as many of them in a step."""
    result = read_result(labels)
    write_jsonl(data / "train.jsonl", sft_rows(result).rows)
    recipe = read_mapping(config)
    written = data / "recipe.yaml"  # TRL's own script does not know `extends`
    written.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    steps = int(str(recipe["total_batch_size"])) // int(str(recipe["per_device_train_batch_size"]))
    model = resolve_model(result.record.model_name)
    words = ["--config", str(written), "--dataset_name", str(data), "--model_name_or_path", model, "--use_cpu"]
    words += ["--gradient_accumulation_steps", str(steps), "--output_dir", str(output)]
    return [sys.executable, "-m", "trl.scripts.sft", *words]


def measure(command: Sequence[str], common: Sequence[str], output: Path) -> Cost:
    """Run a command to its end. CPU seconds stay comparable on a machine that does other things too."""
    start = time.monotonic()
    process = subprocess.Popen([*command, *common], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[1:3]} failed")
    seconds = time.monotonic() - start
    # Every checkpoint's name is its step, and the last step is always saved.
    steps = max(int(path.name.split("-")[1]) for path in output.glob("checkpoint-*"))
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(round(seconds, 1), round(cpu, 1), round(usage.ru_maxrss / 2**20, 2), steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
