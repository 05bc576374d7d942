"""The command itself: help, spellings, errors in one line, secrets, interruption and resumption."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from icm.cli import main
from icm.commands import run as run_command
from icm.commands.parser import canonical_arguments
from icm.labelling.options import options
from icm.results.units import units_folder

COMMANDS = ("run", "export", "push", "list", "analyze", "clean", "pipeline", "doctor")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Exit code 2 and exactly one line on standard error; returns it."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("icm: error: "), lines
    return lines[0]


def help_text(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def settings_of_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Collects the settings of `icm run` instead of labelling."""
    seen: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_command, "_label", lambda settings, arguments: seen.append(settings))
    return seen


def test_help_fits_one_screen_and_names_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text(capsys)
    assert len(text.splitlines()) <= 30
    assert all(f"\n    {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(capsys, command)
    assert f"examples:\n  icm {command}" in text


def test_run_help_shows_every_option_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_text(capsys, "run").split())
    for option in options().values():
        assert option.flag in text
        if option.default not in (None, ()):
            assert f"(default: {option.default})" in text


def test_help_takes_less_than_a_second_and_imports_no_model_library() -> None:
    code = """
import sys
from icm.cli import make_parser
make_parser()[0].format_help()
print([name for name in ("torch", "transformers", "datasets", "vllm", "trl") if name in sys.modules])
"""
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = os.times()
    assert done.stdout.strip() == "[]"
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert "--max-iterations" in script and "bootstrap" in script and "--keep-latest" in script


def test_spellings_are_the_same(settings_of_runs: list[Any]) -> None:
    for words in ("--max-iterations 7", "--max_iterations 7", "--max_iterations=7", "--K 7", "--K=7"):
        assert main(["run", *words.split()]) == 0
    assert {settings.search.max_iterations for settings in settings_of_runs} == {7}


def test_only_option_names_are_respelt() -> None:
    assert canonical_arguments(["run", "--output_dir", "my_dir", "--template=a_b", "a_b", "-h"]) == [
        "run",
        "--output-dir",
        "my_dir",
        "--template=a_b",
        "a_b",
        "-h",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rnu", ["'rnu'", "did you mean run?"]),
        ("run --alhpa 3", ["--alhpa", "did you mean --alpha?"]),
        ("run --max_itrations=3", ["--max-itrations", "did you mean --max-iterations?"]),
        ("run reviews", ["'reviews'", "start with --"]),
        ("run --alpha much", ["--alpha", "'much'", "number"]),
        ("run --alpha", ["--alpha", "expected one argument"]),
        ("run --engine vlm", ["--engine", "'vlm'", "vllm"]),
        ("run --seed -1", ["seed", "-1", "at least 0"]),
        ("run --preset papr", ["--preset", "'papr'", "paper"]),
        ("run --settings absent.json", ["absent.json", "No such file"]),
        ("run --verbalisers yes", ["--verbalisers", "'yes'", "LABEL=TEXT"]),
        ("run --synthetic math --dataset reviews", ["--synthetic math", "--dataset"]),
        ("run --testbed alpaca", ["alpaca", "--dataset"]),
        ("run --config /etc/hostname", ["--config /etc/hostname", "--settings"]),
        ("run --dataset absent.jsonl", ["absent.jsonl", "no such file"]),
        ("run --dataset reviews --task-type reviws", ["reviws"]),
        ("run --model ./absent/model", ["./absent/model", "no such folder"]),
        ("run --model embedded:llama", ["embedded:llama", "embedded:"]),
        ("run --rules at-most-once", ["at-most-once", "rule"]),
        ("run --rules no.such:Rule", ["no.such:Rule", "cannot be loaded"]),
        ("run --output-name a/b", ["output_name", "a/b"]),
        ("run --output-dir /proc/nowhere", ["/proc", "cannot be written"]),
        ("run --resume absent.trace.jsonl", ["absent.trace.jsonl", "no such file"]),
        ("run --zzqqx 3", ["unknown option --zzqqx, which is like none of the", "(see icm run --help)"]),
        ("run --label-map a= -x --alhpa 3", ["'-x'", "expected LABEL=TEXT"]),
        ("run -alpha 3", ["unknown option -alpha"]),
        ("run --model embeded", ["'embeded'", "did you mean embedded?"]),
        ("run --base-url http://127.0.0.1:9/v1", ["base_url", "give --engine server as well"]),
        (
            "run --engine server --base-url http://127.0.0.1:9/v1 --model m",
            ["server http://127.0.0.1:9/v1: nothing answers there", "start the server, or correct --base-url"],
        ),
        ("export --input-path a --output-path b.parquet --format csv", ["b.parquet", "end it in .csv"]),
        ("export --input-path a --output-path b.csv --format sft", ["b.csv", "end it in .jsonl"]),
        ("run --resume README.md", ["README.md", ".trace.jsonl"]),
        ("run --holdout 1.5", ["holdout", "1.5"]),
        ("run --max-examples 0", ["max_examples", "0"]),
        ("run --base-url http://localhost:1/v1 --engine server --dry-runn", ["--dry-runn", "--dry-run"]),
        ("export --input-path a --output-path b", ["--format"]),
        ("export --input-path absent --output-path b --format csv", ["absent"]),
        ("export --input-path a --output-path b --format xml", ["xml", "csv"]),
        ("export --input-path a --output-path b --format csv --max-pairs 3", ["--max-pairs", "csv", "dpo"]),
        ("export --input-path a --output-path b --format csv --confidence-threshold 2", ["2.0", "below 1"]),
        ("export --input-path a --output-path b --format csv --hf-push", ["--hf-repo-id"]),
        ("export --input-path a --output-path b.doc --format analysis", ["b.doc", ".html"]),
        ("push --input-path absent --hf-repo-id a/b", ["absent", "no such file"]),
        ("list --results-dir absent", ["absent", "no such folder"]),
        ("analyze --result-file absent", ["absent"]),
        ("analyze --output-path report.doc", ["report.doc", ".html"]),
        ("clean --keep-latest few", ["--keep-latest", "few"]),
        ("clean --keep-latest -2", ["keep_latest", "-2"]),
        ("pipeline --config absent.yaml", ["absent.yaml"]),
    ],
)
def test_mistakes_get_one_clear_line(
    line: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    message = fails(capsys, *shlex.split(line))
    assert all(word in message for word in words), message
    assert list(tmp_path.iterdir()) == []


def test_a_hub_model_that_cannot_be_had_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else the client tries for a minute
    message = fails(capsys, "run", "--model", "nobody/no-such-model", "--max-examples", "4")
    assert "nobody/no-such-model" in message and "HF_TOKEN" in message
    assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, settings_of_runs: list[Any]) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("our fault")

    monkeypatch.setattr(run_command, "_label", broken)
    with pytest.raises(RuntimeError, match="our fault"):
        main(["run"])


def test_secrets_files_are_read_and_the_environment_wins(
    settings_of_runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ICM_MODEL", "ICM_SEED", "ICM_ALPHA"):
        # So that what main() loads into the environment is taken out again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    Path(".env").write_text("ICM_SEED=5\nICM_ALPHA=2\n")
    Path("SECRETS").write_text("ICM_MODEL=./local\nICM_ALPHA=3\n")
    monkeypatch.setenv("ICM_SEED", "9")
    assert main(["run"]) == 0
    (settings,) = settings_of_runs
    assert (settings.engine.model, settings.search.seed, settings.search.alpha) == ("./local", 9, 2.0)


def test_a_secrets_file_in_another_encoding_is_named(
    settings_of_runs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("SECRETS").write_bytes("HF_TOKEN=ü".encode("latin-1"))
    assert "SECRETS: not UTF-8" in fails(capsys, "run")


def test_log_handlers_are_taken_off_again(settings_of_runs: list[Any], tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    assert main(["run", "--log-file", str(tmp_path / "logs" / "run.log")]) == 0
    assert logging.getLogger().handlers == before
    assert (tmp_path / "logs" / "run.log").is_file()


def test_each_message_is_printed_once_and_logged(
    settings_of_runs: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def speak(*arguments: object) -> None:
        noisy = logging.getLogger("noisy_library")
        printing = logging.StreamHandler(sys.stderr)
        noisy.addHandler(printing)
        noisy.warning("printed by the library")
        noisy.removeHandler(printing)
        logging.getLogger("silent_library").warning("printed by icm")
        logging.getLogger("silent_library").info("detail of a library")
        logging.getLogger("icm.search.algorithm").info("progress of icm")
        logging.getLogger("icm.search.algorithm").debug("detail of icm")

    monkeypatch.setattr(run_command, "_label", speak)
    assert main(["run", "--log-file", str(tmp_path / "run.log")]) == 0
    printed, logged = capsys.readouterr().err, (tmp_path / "run.log").read_text()
    for text in ("printed by the library", "printed by icm", "progress of icm"):
        assert (printed.count(text), logged.count(text)) == (1, 1), text
    assert "detail" not in printed + logged
    assert main(["run", "--log-level", "DEBUG"]) == 0
    assert "detail of a library" in (printed := capsys.readouterr().err) and "detail of icm" in printed


def test_printed_settings_can_be_given_back(settings_of_runs: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "codelion", "--rules", "at-most-one", "--verbalisers", "A= a", "B= b", "--seed", "3"]
    assert main(["run", *words, "--print-settings"]) == 0
    assert settings_of_runs == []
    Path("mine.yaml").write_text(capsys.readouterr().out)
    assert main(["run", *words]) == main(["run", "--settings", "mine.yaml"]) == 0
    assert settings_of_runs[0] == settings_of_runs[1]


@pytest.mark.parametrize("words", [["at-most-one", "exactly-one"], ["[at-most-one, exactly-one]"]])
def test_lists_are_words(words: list[str], settings_of_runs: list[Any]) -> None:
    assert main(["run", "--rules", *words]) == 0
    assert settings_of_runs[0].search.rules == ("at-most-one", "exactly-one")


def test_mappings_add_up_and_take_labels_that_begin_with_dashes(settings_of_runs: list[Any]) -> None:
    assert main(["run", "--label-map", "nan=", "-=", "--=no", "--label-map=-1=", "--label-map", "N/A=", "nan=x"]) == 0
    assert main(["run", "--ignore-fields", "a", "--ignore-fields", "b", "-c"]) == 0
    mapped, ignored = settings_of_runs
    assert mapped.data.label_map == {"nan": "x", "-": "", "--": "no", "-1": "", "N/A": ""}
    assert ignored.data.ignore_fields == ["a", "b", "-c"]


@pytest.mark.parametrize("name", ["data.csv", "data.json", "data.jsonl", "data.tsv"])
@pytest.mark.parametrize("words", ["export --format csv --output-path out.csv --input-path", "analyze --result-file"])
def test_data_are_not_labels_and_the_message_says_how_to_label_them(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = {".csv": "text,label\na,b\n", ".json": '[\n{"text": "a"}]', ".tsv": "text\tlabel\n"}
    Path(name).write_text(text.get(Path(name).suffix, '{"text": "a", "tone": "b"}\n'))
    assert f"label it first: icm run --dataset {name}" in fails(capsys, *words.split(), name)


def test_an_existing_name_offers_to_resume_only_what_is_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "icm_results").mkdir()
    (tmp_path / "icm_results/a.trace.jsonl").touch()
    run = ("run", "--output-name", "a")
    assert "continue it with --resume icm_results/a.trace.jsonl" in fails(capsys, *run)
    (tmp_path / "icm_results/a.jsonl").touch()
    assert "--resume" not in fails(capsys, *run)


REVIEWS = [("a delight", 1), ("what a waste", 0), ("lovely", 1), ("it broke", 0), ("well made", 1), ("never again", 0)]


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    rows = [{"text": text, "label": ("negative", "positive")[label]} for text, label in REVIEWS]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_resume_and_ends_as_an_uninterrupted_one(
    reviews: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = reviews.parent
    monkeypatch.chdir(folder)
    words = ["run", "--dataset", reviews.name, "--max-iterations", "24", "--no-early-stop", "--engine", "transformers"]
    words += ["--initial-examples", "2"]  # the rest is still to be labelled when the interruption comes
    child = subprocess.Popen(
        [sys.executable, "-m", "icm", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    (trace,) = wait_for_decisions(folder, 6)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "Traceback" not in err
    command = err.strip().splitlines()[-1].partition("continue with: ")[2]
    assert shlex.split(command) == ["icm", *words, "--resume", str(trace.relative_to(folder))]
    # What ends by itself runs in this process, where torch is loaded already. The trace alone says all settings.
    resume, quiet = ["run", *shlex.split(command)[-2:]], ("--log-level", "ERROR")
    assert "max_iterations was 24 and is now 25" in fails(capsys, *resume, *quiet, "--max-iterations", "25")
    assert "the data are others: max_examples was None and is now 4" in fails(
        capsys, *resume, *quiet, "--max-examples", "4"
    )
    assert main(resume) == 0
    resumed = folder / capsys.readouterr().out.splitlines()[0]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "what is labelled" in err
    assert "%|" not in err and "\r" not in err  # no bar where there is no terminal
    uninterrupted = folder / out.splitlines()[0]
    assert resumed.read_text().splitlines()[1:] == uninterrupted.read_text().splitlines()[1:]
    metadata = json.loads(resumed.read_text().splitlines()[0])
    assert metadata["iterations"] == 24
    assert metadata["model"]["engine"] == "transformers"
    assert metadata["data"]["source"]["dataset"] == reviews.name
    assert "{text}" in metadata["prompt"]["template"]
    assert "complete" in fails(capsys, *resume)


def wait_for_decisions(folder: Path, count: int) -> list[Path]:
    """The trace, as soon as the file of the first unit holds `count` lines."""
    for _ in range(15_000):
        traces = list(folder.glob("icm_results/*.trace.jsonl"))
        units = [file for trace in traces for file in units_folder(trace).glob("0-0.jsonl")]
        if units and len(units[0].read_text().splitlines()) >= count:
            return traces
        time.sleep(0.02)
    raise AssertionError("no decision was written within five minutes")


@pytest.mark.slow
def test_doctor_finds_nothing_wrong_here_and_shows_no_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsNotARealToken")
    monkeypatch.setenv("TOGETHER_API_KEY", "")
    monkeypatch.setattr("icm.commands.diagnosis.orphans", list)  # tests that run beside this one make some
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok       HF_TOKEN: present" in out and "hf_thisIs" not in out
    assert "note     TOGETHER_API_KEY: not set" in out
    assert out.endswith("ready\n")
