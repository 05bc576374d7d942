"""Tokens and settings from `.env` and SECRETS are read at every door."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest


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
