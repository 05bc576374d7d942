"""The commands in README and in the comments of configs/ are accepted by their doors, and fit together."""

import csv
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.experiment import Experiment
from eval.settings import EvalConfig, parse_settings
from icm.cli import main, make_parser
from icm.commands import run as run_command
from icm.commands.parser import canonical_arguments
from icm.errors import DataError
from icm.labelling.options import Settings
from icm.pipeline.experiment import read_experiment
from icm.results.format import ICMResult, LabeledExample, write_result
from icm.results.record import DataRecord, RunRecord
from icm.tasks import load_task
from icm.tasks.source import DataSource
from icm.yaml_files import read_mapping
from train.arguments import batch_split, read_settings

ROOT = Path(__file__).parents[1]


def commands_in(lines: Sequence[str]) -> Iterator[list[str]]:
    """Words of each command; a backslash at the end of a line joins it to the next."""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def readme_blocks(language: str) -> list[str]:
    text = "".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/data.md", "configs/README.md")
    )
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.S)


def readme_commands() -> list[list[str]]:
    return [words for block in readme_blocks("bash") for words in commands_in(block.splitlines())]


def config_commands() -> list[list[str]]:
    """Commands in comments stand indented."""
    found = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        lines = [line[3:] for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"#  +\S", line)]
        found += list(commands_in(lines))
    return found


COMMANDS = [*readme_commands(), *config_commands()]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in commands are relative to the repository, in which the files lie whose content stands in the text."""
    home = tmp_path / "home"
    home.mkdir()
    for entry in ROOT.iterdir():
        (home / entry.name).symlink_to(entry)
    for block in readme_blocks("yaml"):
        if named := re.match(r"# (\w+\.yaml)", block):
            (home / named[1]).unlink(missing_ok=True)  # a file of the user's own, under the same name
            (home / named[1]).write_text(block, encoding="utf-8")
    monkeypatch.chdir(home)


def test_commands_are_found() -> None:
    doors = {words[1] if words[0] == "python" else words[0] for words in COMMANDS}
    assert {"icm", "accelerate", "eval/run.py", "scripts/demo.sh", "scripts/test.sh"} <= doors
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "icm":
        accept_icm(words[1:], monkeypatch)
    elif words[:2] == ["accelerate", "launch"]:
        accept_training(words[2:], monkeypatch)
    elif words[:2] == ["python", "eval/run.py"]:
        assert parse_settings(words[2:]).conditions
    else:
        script = words[1] if words[0] == "python" else words[0]
        assert script.startswith(("scripts/", "train/")) and (ROOT / script).is_file(), script


def accept_icm(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "run":
        assert labelling(words, monkeypatch)
        return
    arguments = make_parser()[0].parse_args(canonical_arguments(words))
    if words[0] == "pipeline":
        assert read_experiment(arguments.config).label.seeds


def labelling(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that an `icm run` would label with."""
    seen: list[Settings] = []
    for name in ("_label", "_print_plan"):
        monkeypatch.setattr(run_command, name, lambda settings, *rest: seen.append(settings))
    assert main(words) == 0
    return seen[0]


def accept_training(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    place = words.index("train/run.py")
    launch = dict(zip(words[:place:2], words[1:place:2], strict=True))
    layout = read_mapping(launch["--config_file"])
    monkeypatch.setenv("WORLD_SIZE", launch.get("--num_processes", str(layout["num_processes"])))
    settings = read_settings(words[place + 1 :])
    assert settings.label_arguments().labels and all(batch_split(settings).values())


def truthfulqa(words: list[str], door: list[str]) -> bool:
    return words[: len(door)] == door and any("truthful" in word.lower() for word in words)


LABELLINGS = [words for words in COMMANDS if truthfulqa(words, ["icm", "run"])]
EVALUATIONS = [words for words in COMMANDS if truthfulqa(words, ["python", "eval/run.py"])]


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file like TruthfulQA.csv."""
    path = tmp_path_factory.mktemp("data") / "TruthfulQA.csv"
    names = ["Question", "Best Answer", "Correct Answers", "Incorrect Answers"]
    with path.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(names)
        rows.writerows([f"Why is {n} so?", f"Because of {n}", f"{n} is; It is {n}", f"No {n}; {n}?"] for n in range(40))
    return path


def label_file(source: DataSource, path: Path) -> str:
    """What a labelling of `source` writes."""
    task = load_task(source)
    items = [LabeledExample(example, "True", 1.0) for example in task.dataset]
    record = RunRecord(data=DataRecord(source, task.dataset.fingerprint))
    write_result(path, ICMResult(items, None, task.dataset.label_space, task.dataset.task, record))
    return str(path)


def checked(evaluation: EvalConfig, claims: Path, labels: str) -> dict[str, Any]:
    """Label files of an evaluation on `claims`, after the check for shared questions."""
    data = replace(evaluation.data, dataset=str(claims))
    return dict(Experiment(replace(evaluation, data=data, labels=[labels])).label_files)


@pytest.mark.parametrize("words", LABELLINGS, ids=" ".join)
def test_labels_of_truthfulqa_are_accepted_by_its_evaluations(
    words: list[str], claims: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = labelling(words[1:], monkeypatch).data
    labels = label_file(replace(source, dataset=str(claims)), tmp_path / "labels.jsonl")
    assert len(EVALUATIONS) >= 2
    for evaluation in (parse_settings(command[2:]) for command in EVALUATIONS):
        assert (source.holdout, source.part) == (evaluation.data.holdout, "train")
        assert evaluation.data.part == "test"
        assert checked(evaluation, claims, labels)[labels].labels
    wrong = label_file(replace(source, dataset=str(claims), holdout=0.3), tmp_path / "wrong.jsonl")
    with pytest.raises(DataError, match="also in the held-out set"):
        checked(parse_settings(EVALUATIONS[0][2:]), claims, wrong)


def test_truthfulqa_has_one_holdout_in_experiments_and_evaluations() -> None:
    paths = [path for path in (ROOT / "configs").rglob("*.yaml") if "truthfulqa" in path.name]
    contents: dict[str, dict[str, Any]] = {str(path): read_mapping(path) for path in paths}
    holdouts = {path: content["data"]["holdout"] for path, content in contents.items()}
    assert len(holdouts) >= 4 and set(holdouts.values()) == {0.5}


def test_conditions_have_the_same_names_everywhere() -> None:
    shots = [f"Many-shot {labels}" for labels in ("Random", "Perturbed", "Bootstrap", "ICM", "Golden")]
    tuned = [f"Fine-tuned {labels}" for labels in ("Random", "Bootstrap", "ICM", "Golden")]
    tuned += [f"{method} {labels}" for method in ("DPO", "SFT") for labels in ("Random", "ICM", "Golden")]
    base = ["Majority", "Surface cues"]
    base += [f"Zero-shot {model}" for model in ("Labeler", "Base", "Base with preamble", "Chat")]
    for path in [*(ROOT / "configs/eval").glob("*.yaml"), *(ROOT / "configs/experiments").glob("*.yaml")]:
        content: dict[str, Any] = read_mapping(path)
        conditions = content["conditions"] if "conditions" in content else content["eval"]["conditions"]
        names = [condition["name"] for condition in conditions]
        assert names == [name for name in [*base, *shots, *tuned] if name in names], path
