"""Tokens and settings from `.env` and SECRETS are read at every door."""

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from icm.errors import ConfigError
from icm.secrets import TOKENS, load_secrets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("icm.cli", ["list"]),
        ("eval.run", ["--shots", "3"]),
        ("train.run", ["--labels", "absent.jsonl"]),
        ("train.iterate", ["--settings", "a", "--train_config", "b", "--output_dir", "c", "--rounds", "2"]),
    ],
)
def test_every_door_reads_secrets_first(
    door: str,
    words: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("SECRETS").write_bytes("HF_TOKEN=ü".encode("latin-1"))
    assert importlib.import_module(door).main(words) == 2
    assert "SECRETS: not UTF-8" in capsys.readouterr().err


FORBIDDEN = {
    **dict.fromkeys(("PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH"), "x"),
    **dict.fromkeys(("HF_ENDPOINT", "HTTPS_PROXY", "all_proxy", "REQUESTS_CA_BUNDLE"), "http://evil.example"),
    **dict.fromkeys(("ICM_BASE_URL", "ICM_base_url", "ICM_Base_Url", "OPENAI_BASE_URL"), "http://evil.example/v1"),
    **dict.fromkeys(("HF_HOME", "TRANSFORMERS_CACHE", "HF_HUB_OFFLINE", "AWS_PROFILE", "hf_token", "icm_seed"), "1"),
    **dict.fromkeys(("ICM_TASK_TYPE", "ICM_Task_Type"), "gift.payload"),
    "ICM_RULES": "payload:Rule",
    "ICM_LOG_FILE": "/home/somebody/.bashrc",
    **dict.fromkeys(("WORLD_SIZE", "RANK", "ACCELERATE_USE_DEEPSPEED", "CUDA_VISIBLE_DEVICES"), "2"),
}
TAKEN = {"ICM_SEED": "5", "ICM_RULES": "at-most-one", "ICM_TASK_TYPE": "auto", "ICM_LAB_ORG_API_KEY": "k"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The environment, empty but for what is needed, and put back when the test ends."""
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ, {"HOME": str(tmp_path)}, clear=True):
        yield os.environ


@pytest.mark.parametrize("form", ["{}={}", "export {}={}", "{} = '{}'", '  {}="{}" # note'])
@pytest.mark.parametrize("file", [".env", "SECRETS"])
def test_files_of_the_folder_set_settings_and_tokens_alone(
    form: str, file: str, environment: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    home = dict(environment)
    Path(file).write_text("\n" + "".join(form.format(*pair) + "\n" for pair in FORBIDDEN.items()))
    load_secrets(Path())
    assert dict(environment) == home
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 7 and all("is not taken from a file of the folder; give --" in line for line in told)
    wanted = dict.fromkeys(TOKENS, "hf_x") | TAKEN
    Path(file).write_text("".join(form.format(*pair) + "\n" for pair in wanted.items()))
    load_secrets(Path())
    assert dict(environment) == home | wanted and capsys.readouterr().err == ""


def test_a_value_of_a_file_is_literal(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another secret does not become a name that is written down, or asked of a hub."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret")
    Path(".env").write_text("ICM_OUTPUT_NAME=x-${AWS_SECRET_ACCESS_KEY}\nICM_MODEL=evil/$HOME\n")
    load_secrets(Path())
    assert environment["ICM_OUTPUT_NAME"] == "x-${AWS_SECRET_ACCESS_KEY}" and environment["ICM_MODEL"] == "evil/$HOME"


def test_the_environment_wins_over_files(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine")
    Path(".env").write_text("HF_TOKEN=theirs\n")
    load_secrets(Path())
    assert environment["HF_TOKEN"] == "mine"


def test_children_run_no_code_of_the_folder(tmp_path: Path) -> None:
    """A `sitecustomize` that a folder's `.env` points to is run by no child."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "sitecustomize.py").write_text("open('PWNED', 'a').write('ran')\n")
    (tmp_path / ".env").write_text(f"PYTHONPATH=x:{ROOT}\n")
    code = (
        f"import subprocess, sys; sys.path.insert(0, {str(ROOT)!r}); from icm.cli import main; main(['list'])\n"
        "subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=bare, check=True)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("content", ["ICM_A=a\0b", "HF_TOKEN=\0", "\0ICM_X=1", "ICM_A=B=1", "'ICM_A=B'=c", "=", "A"])
def test_no_content_of_a_file_is_a_traceback(content: str, environment: Mapping[str, str]) -> None:
    Path(".env").write_text(content)
    with contextlib.suppress(ConfigError):
        load_secrets(Path())
    assert "ICM_X" not in environment
