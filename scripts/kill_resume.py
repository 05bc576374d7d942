"""Kill a training run with SIGKILL at random moments, continue it, and compare its weights with an undisturbed run.

    python scripts/kill_resume.py --kills 10 --work DIR -- --config configs/train/demo_sft.yaml --labels RESULT.jsonl

Everything behind `--` goes to train/run.py. Each trial kills a fresh run once and lets it finish; exit code 1 if any
weights differ by a single bit.
"""

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from icm.files import file_sha256

ROOT = Path(__file__).parents[1]


def main(words: Sequence[str]) -> int:
    """Run all trials; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("training", nargs="+", help="settings of train/run.py, behind --")
    arguments = parser.parse_args(words)
    whole = arguments.work / "whole"
    start = time.monotonic()
    run(whole, arguments.training)
    seconds = time.monotonic() - start
    moments = random.Random(arguments.seed)
    same = [
        trial(arguments.work / f"trial_{n}", arguments.training, moments.uniform(0.05, 0.98) * seconds, whole)
        for n in range(arguments.kills)
    ]
    print(f"{sum(same)} of {len(same)} resumed runs ended with the weights of the undisturbed run")
    return 0 if all(same) else 1


def trial(folder: Path, training: Sequence[str], moment: float, whole: Path) -> bool:
    """Kill a run after `moment` seconds, continue it, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    killed = kill_after(moment, command(folder, training))
    found = sorted(path.name for path in folder.glob("checkpoint-*"))
    run(folder, training)
    same = weights_hash(folder) == weights_hash(whole)
    print(
        f"killed after {moment:5.1f} s ({'running' if killed else 'done'}, {found}): {'same' if same else 'DIFFERENT'}"
    )
    return same


def command(folder: Path, training: Sequence[str]) -> list[str]:
    """The training command."""
    return [sys.executable, "train/run.py", *training, "--output_dir", str(folder.absolute())]


def run(folder: Path, training: Sequence[str]) -> None:
    """Train to the end."""
    subprocess.run(command(folder, training), cwd=ROOT, check=True, capture_output=True)


def kill_after(seconds: float, words: Sequence[str]) -> bool:
    """Start a command and kill it; returns whether it was still running."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def weights_hash(folder: Path) -> list[str]:
    """SHA-256 of every safetensors file of a finished run."""
    return [file_sha256(path) for path in sorted(folder.glob("*.safetensors"))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
