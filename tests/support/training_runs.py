"""The real training command on a tiny model, in a process of its own or in this one."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.run import main

ROOT = Path(__file__).parents[2]

TINY = {
    "config": "configs/train/sft_lora.yaml",
    "total_batch_size": 8,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 3,
    "learning_rate": 0.01,
    "dtype": "float32",
    "bf16": "false",
    "save_steps": 3,
    "max_grad_norm": 1.0,
}


def words(labels: Path, output: Path, **settings: Any) -> list[str]:
    """Arguments of the training command."""
    own = {**TINY, "labels": labels, "output_dir": output, **settings}
    return ["--config", str(own.pop("config")), *(f"--{k}={v}" for k, v in own.items())]


def command(labels: Path, output: Path, accelerate: Sequence[str] | None = None) -> list[str]:
    """The training command; with `accelerate` through `accelerate launch` and these arguments."""
    launcher = [] if accelerate is None else ["-m", "accelerate.commands.launch", *accelerate]
    return [sys.executable, *launcher, "train/run.py", *words(labels, output)]


def train_here(labels: Path, output: Path, **settings: Any) -> int:
    """Run the command in this process, which has imported what takes it seconds; returns the exit code."""
    with contextlib.chdir(ROOT):
        return main(words(labels, output, **settings))


def environment(**extra: str) -> dict[str, str]:
    """One thread a process: sums come in the same order in every run. GPUs are hidden."""
    own = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own, **extra}


def train(
    labels: Path,
    output: Path,
    accelerate: Sequence[str] | None = None,
    check: bool = True,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run the training command to its end, with these environment variables besides."""
    done = subprocess.run(
        command(labels, output, accelerate),
        cwd=ROOT,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
    )
    assert not check or done.returncode == 0, done.stderr[-4000:]
    return done


def weights(folder: Path) -> dict[str, Any]:
    """Tensors of a folder's adapter."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")
