"""Every accelerate configuration is loaded and validated by accelerate itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from support.training_runs import ROOT

from icm.errors import ConfigError
from train.world import (
    Launch,
    check_gpu,
    check_world_size,
    launcher_words,
    parse_launch,
    requested_processes,
    show_one_gpu,
)

CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
# name → (distributed type, processes, machines)
LAYOUTS = {
    "cpu": ("NO", 1, 1),
    "cpu_2": ("MULTI_GPU", 2, 1),
    "single_gpu": ("NO", 1, 1),
    "multi_gpu": ("MULTI_GPU", 4, 1),
    "multi_node": ("MULTI_GPU", 8, 2),
    "fsdp2": ("FSDP", 4, 1),
    "zero2": ("DEEPSPEED", 4, 1),
    "zero3": ("DEEPSPEED", 4, 1),
    "zero3_multi_node": ("DEEPSPEED", 16, 2),
    "zero2_cpu": ("DEEPSPEED", 2, 1),
    "zero3_cpu": ("DEEPSPEED", 2, 1),
}


def validated(path: Path, *words: str) -> Any:
    arguments = launch_command_parser().parse_args(["--config_file", str(path), *words, "train/run.py"])
    return _validate_launch_command(arguments)[0]


def test_every_configuration_is_named_here() -> None:
    assert {path.stem for path in CONFIGS} == set(LAYOUTS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_accepts(path: Path) -> None:
    config = load_config_from_file(str(path))
    kind, processes, machines = LAYOUTS[path.stem]
    assert (config.distributed_type.value, config.num_processes, config.num_machines) == (kind, processes, machines)
    arguments = validated(path)
    assert bool(arguments.multi_gpu) == (kind == "MULTI_GPU")
    assert bool(arguments.use_deepspeed) == (kind == "DEEPSPEED")
    assert bool(arguments.use_fsdp) == (kind == "FSDP")
    assert config.use_cpu == path.stem.startswith("cpu")


@pytest.mark.parametrize("name", ["multi_gpu", "multi_node", "fsdp2", "cpu_2"])
def test_launch_environment(name: str) -> None:
    arguments = validated(ROOT / "configs" / "accelerate" / f"{name}.yaml", "--main_process_port", "0")
    variables = prepare_multi_gpu_env(arguments)
    kind, processes, machines = LAYOUTS[name]
    assert arguments.nproc_per_node == str(processes // machines)
    assert variables.get("ACCELERATE_USE_FSDP", "false") == str(kind == "FSDP").lower()
    assert variables.get("FSDP_VERSION", "2") == "2"


def test_simple_launch_uses_the_cpu() -> None:
    _, variables = prepare_simple_launcher_cmd_env(validated(ROOT / "configs" / "accelerate" / "cpu.yaml"))
    assert variables["ACCELERATE_USE_CPU"] == "True"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_stage(stage: int) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra [deepspeed]")
    for name in (f"zero{stage}", f"zero{stage}_cpu"):
        arguments = validated(ROOT / "configs" / "accelerate" / f"{name}.yaml")
        assert arguments.zero_stage == stage and arguments.gradient_accumulation_steps == "auto"


class Launcher:
    """A process with a given command line."""

    def __init__(self, *words: str) -> None:
        self._words = list(words)

    def cmdline(self) -> list[str]:
        """The words."""
        return self._words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("accelerate", "launch", "--cpu", "--num_processes", "2", "run.py", "--num_processes", "9"), Launch(2, False)),
        (("python", "/venv/bin/accelerate", "launch", "--config_file", "{cpu_2}", "run.py"), Launch(2, False)),
        (("python", "-m", "accelerate.commands.launch", "--config_file={zero3}", "run.py", "--x"), Launch(4, True)),
        (
            ("python", "accelerate-launch", "--num_processes=3", "--config_file", "{fsdp2}", "x.py"),
            Launch(3, True),
        ),
    ],
)
def test_the_launcher_says_what_was_asked_for(words: tuple[str, ...], expected: Launch) -> None:
    paths = {path.stem: str(path) for path in CONFIGS}
    found = launcher_words(Launcher(*(word.format(**paths) for word in words)))
    assert found is not None and parse_launch(found) == expected


@pytest.mark.parametrize("words", [("bash",), ("python", "train/run.py", "launch"), ("accelerate", "config"), ()])
def test_other_parents_say_nothing(words: tuple[str, ...]) -> None:
    assert launcher_words(Launcher(*words)) is None


def test_missing_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert requested_processes() == 2
    check_world_size(2)
    with pytest.raises(ConfigError, match="2 processes were asked for, but 1 took part"):
        check_world_size(1)


def test_gpu_configurations_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr("train.world.accelerate_launch", lambda: Launch(4, True))
    check_gpu(available=True)
    with pytest.raises(ConfigError, match="this machine has none"):
        check_gpu(available=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    check_gpu(available=False)


@pytest.mark.parametrize(
    ("ranks", "visible", "shown"),
    [("1", None, "0"), ("1", "2,3", "2"), ("1", "", ""), ("2", "2,3", "2,3"), ("2", None, None)],
)
def test_one_process_sees_one_gpu(
    ranks: str, visible: str | None, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", ranks)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    show_one_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == shown


@pytest.mark.parametrize(("ranks", "code"), [(2, 3), (1, -signal.SIGABRT)])
def test_a_rank_of_several_is_not_aborted_after_its_work(ranks: int, code: int) -> None:
    """What a thread of gloo does now and then, an object that aborts while the interpreter is torn down does always."""
    program = (
        "import atexit, os\nfrom train.world import leave\n"
        "class Group:\n    def __del__(self, abort=os.abort): abort()\n"
        "group = Group()\natexit.register(print, 'handler')\nprint('written')\nleave(3)"
    )
    variables = {**os.environ, "WORLD_SIZE": str(ranks)}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (code, "written\nhandler\n")
