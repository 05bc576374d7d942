"""What is read as what stands before everything else: in a dry run on stdout, in a run in its log."""

import logging
from pathlib import Path
from typing import NoReturn

import pytest

from icm.cli import main
from icm.config import EngineConfig
from icm.errors import ConfigError
from icm.files import write_jsonl
from icm.labelling import run as labelling_run

ROWS = [{"tweet": f"day {i}", "mood": "happy" if i % 2 else "sad", "id": i} for i in range(8)]
OWN = ("--template", "Tweet: {tweet} Mood:", "--label-field", "mood", "--algorithm", "random")
LINES = [
    "task                 classification (by the fields; --task-type names another)",
    "fields used          tweet",
    "as gold              mood",
    "left out             id",
    "labels               8 examples: 4 happy, 4 sad, 0 unlabelled",
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    write_jsonl(tmp_path / "tweets.jsonl", ROWS)
    return str(tmp_path / "tweets.jsonl")


def test_a_dry_run_prints_what_is_read_as_what(file: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run", "--dataset", file, *OWN, "--model", str(tiny_model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == LINES
    assert lines[5].startswith("a prompt             Tweet: day ")
    assert lines[5].endswith(" Mood:<LABEL: ' happy' | ' sad'>") and lines[6].startswith("examples  ")


def test_a_run_logs_what_is_read_as_what_before_a_model_loads(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(config: EngineConfig) -> NoReturn:
        raise ConfigError("the model was about to be loaded")

    caplog.set_level(logging.INFO, "icm")
    monkeypatch.setattr(labelling_run, "create_engine", no_engine)
    assert main(["run", "--dataset", file, *OWN, "--output-dir", str(tmp_path / "out")]) == 2
    (message,) = [record.message for record in caplog.records if record.message.startswith("what is labelled:")]
    assert message.splitlines()[1:6] == LINES


def test_the_testbed_of_pairs_reads_the_papers_files(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"question": "Name a bird.", "choice": "A wren.", "choice_2": "No.", "label": True, "consistency_id": 3}
    write_jsonl(tmp_path / "alpaca.jsonl", [pair])
    words = ["run", "--testbed", "alpaca", "--dataset", str(tmp_path / "alpaca.jsonl"), "--algorithm", "random"]
    assert main([*words, "--dry-run", "--model", str(tiny_model)]) == 0
    out = capsys.readouterr().out
    assert "task                 comparison\n" in out and "fields used          question, choice, choice_2\n" in out
    assert "Response A: " in out and "Response B: " in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--label-map", "happy"], "argument --label-map: found 'happy', expected LABEL=TEXT"),
        (["--ignore-fields", "tweeet"], "ignore_fields: found 'tweeet', expected one of the fields ['tweet', 'mood', "),
        (["--group-field", "user"], "group_field: found 'user', expected one of the fields ['tweet', 'mood', 'id']"),
    ],
)
def test_options_of_columns_that_do_not_fit_are_one_line(
    words: list[str], expected: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--dataset", file, *OWN, *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("icm: error")]
    assert expected in line
