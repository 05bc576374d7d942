"""How many ranks were asked for, and whether they are there."""

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import psutil

from icm.errors import ConfigError

_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """This process's rank, known before torch is imported."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Launch:
    """What `accelerate launch` was asked for.

    Attributes:
        processes: ranks; None if neither the command line nor a configuration file says it.
        gpu: a configuration file asks for GPUs (`use_cpu: false`).
    """

    processes: int | None = None
    gpu: bool = False


@cache
def accelerate_launch() -> Launch:
    """The command line of the `accelerate launch` that started this process; nothing asked for without one.

    The launcher sets WORLD_SIZE where it starts several ranks. `accelerate launch --cpu --num_processes 2` starts
    one and sets nothing, so its own command line has to be read.
    """
    words = launch_words()
    return Launch() if words is None else parse_launch(words)


def launch_words() -> Sequence[str] | None:
    """The arguments of the `accelerate launch` that started this process, or None."""
    found = (launcher_words(process) for process in psutil.Process().parents())
    return next((words for words in found if words is not None), None)


def requested_processes() -> int:
    """Ranks that the launcher was asked for."""
    return max(accelerate_launch().processes or 1, started_processes())


def started_processes() -> int:
    """Ranks that the launcher says it has started, by the variables that accelerate reads."""
    return max(int(os.environ.get(name, "1")) for name in _WORLD_SIZES)


def show_one_gpu() -> None:
    """Let a process that is to train alone see one GPU: TRL spreads the model over all that it sees.

    Call it before torch asks for GPUs.
    """
    if requested_processes() == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def launcher_words(process: psutil.Process) -> Sequence[str] | None:
    """The arguments behind `accelerate launch` in a process's command line, or None."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    for place, word in enumerate(words[:4]):
        if Path(word).name == "accelerate" and words[place + 1 : place + 2] == ["launch"]:
            return words[place + 2 :]
        if word == "accelerate.commands.launch" or Path(word).name == "accelerate-launch":
            return words[place + 1 :]
    return None


def parse_launch(words: Sequence[str]) -> Launch:
    """Read the arguments by accelerate's own rules: the command line, else the configuration file."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    arguments, _ = launch_command_parser().parse_known_args(list(words))
    file = arguments.config_file
    if file is None and not arguments.cpu and Path(default_config_file).is_file():
        file = default_config_file
    config = load_config_from_file(file) if file is not None else None
    processes = arguments.num_processes or (config.num_processes if config is not None else None)
    gpu = config is not None and not config.use_cpu and not arguments.cpu
    return Launch(None if processes in (None, -1) else int(processes), gpu)


def check_gpu(available: bool) -> None:
    """Raise ConfigError if the accelerate configuration is for GPUs and there is none.

    DS_ACCELERATOR=cpu says that DeepSpeed is meant to run on the CPU.
    """
    if accelerate_launch().gpu and not available and os.environ.get("DS_ACCELERATOR") != "cpu":
        raise ConfigError(
            "the accelerate configuration is for GPUs (use_cpu: false), and this machine has none; "
            "use --config_file configs/accelerate/cpu.yaml"
        )


def check_world_size(found: int) -> None:
    """Raise ConfigError if the ranks that started, or that found each other, are not the ranks asked for."""
    asked = requested_processes()
    if found != asked:
        raise ConfigError(
            f"{asked} processes were asked for, but {found} took part in training; on CPUs use "
            "--config_file configs/accelerate/cpu_2.yaml (`accelerate launch --cpu --num_processes N` runs one)"
        )


def leave(code: int) -> NoReturn:
    """End this process with the exit code.

    One rank of several does so without tearing the interpreter down. DeepSpeed keeps its process groups to the very
    end, and a thread of gloo that lets go of a tensor meanwhile aborts the rank, which has written everything by then
    (pytorch/pytorch#179291).
    """
    if started_processes() > 1:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody may be left to read it
                stream.flush()
        os._exit(code)
    sys.exit(code)
