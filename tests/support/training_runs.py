"""The real training command on a tiny model."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def command(labels: Path, output: Path, accelerate: Sequence[str] | None = None, **settings: Any) -> list[str]:
    """The training command; with `accelerate` through `accelerate launch` and these arguments."""
    own = {**TINY, "labels": labels, "output_dir": output, **settings}
    python = Path(sys.executable)
    launcher = [str(python)] if accelerate is None else [str(python), "-m", "accelerate.commands.launch", *accelerate]
    return [*launcher, "train/run.py", "--config", str(own.pop("config")), *(f"--{k}={v}" for k, v in own.items())]


def environment(**extra: str) -> dict[str, str]:
    """One thread a process: sums come in the same order in every run."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **extra}


def train(
    labels: Path,
    output: Path,
    accelerate: Sequence[str] | None = None,
    check: bool = True,
    variables: Mapping[str, str] | None = None,
    **settings: Any,
) -> "subprocess.CompletedProcess[str]":
    """Run the training command to its end, with these environment variables besides."""
    done = subprocess.run(
        command(labels, output, accelerate, **settings),
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
