"""A task, or a rule, of the user's own in the current folder, which the `icm` script does not have on its path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icm.cli import main
from icm.files import write_jsonl

ROOT = Path(__file__).parents[2]
TASK = """
from garden_tasks.words import SHOWN
from icm.tasks.base import Item, Task, signature

def items(record):
    yield Item({"plant": record.text("plant")}, None, group=record.text("plant"))

TASK = Task("plant", items, [signature("plant")], SHOWN)
"""
RULE = """
class NoRule:
    def keys(self, example):
        return []
    def consistent(self, labels):
        return True
"""


def icm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as its script runs it: without the current folder on the path."""
    code = "import sys; from icm.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "garden_tasks"
    package.mkdir()
    (package / "plant.py").write_text(TASK)
    (package / "words.py").write_text('SHOWN = "Plant: {plant}\\nIt is edible:"\n')
    (package / "rules.py").write_text(RULE)
    write_jsonl(tmp_path / "plants.jsonl", [{"plant": name, "box": 1} for name in ("kale", "yew", "leek", "ivy")])
    return tmp_path


def test_packages_of_the_current_folder_are_found(folder: Path) -> None:
    words = ["run", "--algorithm", "random", "--dataset", "plants.jsonl", "--task-type", "garden_tasks.plant"]
    done = icm(folder, *words, "--rules", "garden_tasks.rules:NoRule", "--output-name", "p")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "task                 plant" in lines and "left out             box" in lines
    assert "                     It is edible:<LABEL: ' True' | ' False'>" in lines
    assert '"task": "garden_tasks.plant"' in (folder / "icm_results" / "p.jsonl").read_text().splitlines()[0]


RAISES = {
    "items": """def items(record):
    yield Item({"plant": record.fields["name"]}, None, group="x")

TASK = Task("plant", items, [signature("plant")], SHOWN)
""",
    "question": """def question(record):
    return record.fields["name"], ""

TASK = Task("plant", lambda record: [], [signature("plant")], SHOWN, question=question)
""",
}


@pytest.mark.parametrize("name", RAISES)
def test_what_a_task_of_ones_own_raises_names_the_record(name: str, folder: Path) -> None:
    (folder / "garden_tasks" / "plant.py").write_text(TASK.partition("def items")[0] + RAISES[name])
    done = icm(folder, "run", "--dry-run", "--dataset", "plants.jsonl", "--task-type", "garden_tasks.plant")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "plants.jsonl:1: task plant does not read this record (KeyError: 'name'); its fields are" in done.stderr


def test_folders_of_the_current_folder_hide_no_library_and_are_found_by_no_other_name(folder: Path) -> None:
    """`data`, `yaml`, `logging` here are no modules to anything but a task that is asked for by their name."""
    for name in ("yaml", "json", "wandb", "plants"):
        (folder / name).mkdir()
        (folder / name / "x.py").write_text("raise SystemExit('imported by accident')\n")
    done = icm(folder, "run", "--print-settings", "--task-type", "garden_tasks.plant")
    assert done.returncode == 0 and "garden_tasks.plant" in done.stdout
    code = (
        "from icm.tasks.lookup import find_task; import sys; import importlib.util as u; import yaml\n"
        "find_task('garden_tasks.plant')\n"
        "print(u.find_spec('plants'), len(sys.path) == len(set(sys.path)), yaml.safe_load('1'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.split() == ["None", "True", "1"], found.stderr


def test_a_name_that_is_nowhere_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = ["run", "--dataset", "plants.jsonl", "--task-type"]
    assert main([*words, "garden_task.plant"]) == 2
    told = capsys.readouterr().err
    assert "No module named 'garden_task'" in told and "also in the current folder" in told and len(told) < 450
    assert main([*words, "clasification"]) == 2
    assert "did you mean classification?" in capsys.readouterr().err
