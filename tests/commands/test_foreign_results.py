"""Somebody's result file at every door that reads one: no code that it names is run, no command reaches the terminal,
no mark-up a page or card, and no prompt the server that it names."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fake_hub import FakeHub

from eval.run import main as evaluate
from icm.cli import main
from icm.files import write_jsonl
from icm.pipeline.iteration import main as merge
from train.run import main as train

PAYLOAD = "from pathlib import Path\nPath('PWNED').write_text('code ran')\n"
TASK = """
from icm.tasks.base import Item, Task, signature

def items(record):
    yield Item({"text": record.text("text")}, record.truth("fits"), group=record.text("text"))

TASK = Task("own", items, [signature("text")], "Text: {text}\\nIt fits:", gold_fields=frozenset({"fits"}))
"""
RECIPE = str(Path(__file__).parents[2] / "configs" / "train" / "demo_sft.yaml")
ESCAPES = "\x1b]8;;http://evil\x1b\\\x1b[2J\r\x07\x9b31m\u202eevil\u2066"
MARKUP = "<img src=x onerror=alert(1)> [click](http://evil) ![pixel](http://evil/p.png) `x`\n---\nlicense: mit"

Make = Callable[..., Path]


@pytest.fixture
def gift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A folder with two modules and a result file that names its data, and what else `header` says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gift").mkdir()
    (tmp_path / "gift" / "payload.py").write_text(PAYLOAD + TASK)
    (tmp_path / "gift" / "sub").mkdir()
    (tmp_path / "gift" / "sub" / "deep.py").write_text(PAYLOAD)
    for module in [name for name in sys.modules if name.partition(".")[0] == "gift"]:
        monkeypatch.delitem(sys.modules, module)
    rows: list[dict[str, Any]] = [{"text": f"text {number}", "fits": number % 2 == 0} for number in range(8)]
    write_jsonl("x.jsonl", rows)

    def make(task_type: str = "gift.payload", **header: Any) -> Path:
        source = {"dataset": str(tmp_path / "x.jsonl"), "task_type": task_type, "template": "Text: {text}\nIt fits:"}
        first = {"task": task_type, "score": None, "data": {"source": source}, **header}
        space = {"labels": ["False", "True"], "verbalisers": [" False", " True"]}
        first = {"type": "icm_metadata", "examples": 8, "label_space": space, **first}
        items = [
            {
                "type": "icm_example",
                "input": f"Text: {row['text']}\nIt fits:",
                "label": "True",
            }
            for row in rows
        ]
        path = tmp_path / "icm_results" / "r.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_jsonl(path, [first, *items])
        return path

    return make


def pwned() -> bool:
    found = Path("PWNED")
    ran = found.exists()
    found.unlink(missing_ok=True)
    return ran


TRAIN = ["--config", RECIPE, "--model_name_or_path", "embedded", "--output_dir", "o", "--label_source", "gold"]
DOORS: dict[str, tuple[Callable[[list[str]], int], list[str], str]] = {
    "list": (main, ["list"], ""),
    "analyze": (main, ["analyze"], "--task-type"),
    "analyze one": (main, ["analyze", "--result-file", "r"], "--task-type"),
    "report": (main, ["analyze", "--output-path", "a.html"], "--task-type"),
    "export": (main, ["export", "--input-path", "R", "--output-path", "a.md", "--format", "analysis"], "--task-type"),
    "export sft": (main, ["export", "--input-path", "R", "--output-path", "a.jsonl", "--format", "sft"], ""),
    "push": (main, ["push", "--input-path", "R", "--hf-repo-id", "me/x"], "--task-type"),
    "train gold": (train, [*TRAIN, "--labels", "R"], "--task_type"),
    "merge": (merge, ["R", "--output", "m.jsonl", "--without", "1/2"], "--task-type"),
    "eval": (evaluate, ["--labels", "R", "--engine.model", "./no-model"], "--data.task_type"),
    "eval other data": (evaluate, ["--labels", "R", "--data.dataset", "y.jsonl"], "--data.task_type"),
}
"""Door, words (R: the result file) and the option by which the user names the module."""


def through(door: str, path: Path, *more: str) -> int:
    run, words, _ = DOORS[door]
    return run([*(str(path) if word == "R" else word for word in words), *more])


@pytest.mark.parametrize("door", DOORS)
def test_no_module_that_a_file_names_is_imported(
    door: str, gift: Make, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl("y.jsonl", [{"text": f"other {number}", "label": "True"} for number in range(4)])
    for name in ("gift.payload", "gift.sub.deep", "unittest.__main__", "os.path", ".gift.payload", "gift..payload"):
        code = through(door, gift(name))
        said = capsys.readouterr()
        assert not pwned() and code in (0, 2), name
        told = said.out + said.err + (Path("a.md").read_text(encoding="utf-8") if door == "export" else "")
        if DOORS[door][2] and door != "push":  # a card does not say why there is no gold
            assert DOORS[door][2] in told and repr(name) in told.replace("\\", "")
        Path("m.jsonl").unlink(missing_ok=True)
    assert all(b"accuracy is not known" in files["README.md"] for files in hub.files.values())


@pytest.mark.parametrize("door", [door for door, (_, _, option) in DOORS.items() if option])
def test_a_module_that_the_user_names_is_the_user_s_own(
    door: str, gift: Make, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl("y.jsonl", [{"text": f"other {number}", "fits": True} for number in range(4)])
    through(door, gift(), DOORS[door][2], "gift.payload")
    said = capsys.readouterr()
    assert pwned() and "does not decide" not in said.out + said.err
    assert all(b"4 of 8 labels" in files["README.md"] for files in hub.files.values())


def test_a_file_does_not_say_where_prompts_go(gift: Make, capsys: pytest.CaptureFixture[str]) -> None:
    engine = {"engine": "server", "base_url": "https://collector.example/v1"}
    path = gift("classification", model={"name": "m"}, settings={"engine": engine})
    assert evaluate(["--labels", str(path), "--data.dataset", "x.jsonl", "--data.holdout", "0.5"]) == 2
    assert "--engine.base_url https://collector.example/v1" in capsys.readouterr().err


def unsafe(text: str) -> list[str]:
    """What a terminal obeys, reads the other way round, or takes for the start of a line."""
    return re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", text)


@pytest.mark.parametrize("door", DOORS)
def test_no_command_reaches_the_terminal(
    door: str, gift: Make, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl("y.jsonl", [{"text": ESCAPES, "label": "True"}])
    nasty = {"task": ESCAPES, "model": {"name": ESCAPES}, "algorithm": ESCAPES, "settings": {ESCAPES: ESCAPES}}
    space = {"labels": [ESCAPES, "True"], "verbalisers": [" False", " True"]}
    for header in (nasty, {"label_space": space}, {"created": ESCAPES, "score": ESCAPES}, {"examples": ESCAPES}):
        through(door, gift(f"gift{ESCAPES}.payload", **header))
        said = capsys.readouterr()
        assert not unsafe(said.out + said.err)
    path = gift().rename(gift().with_name(f"{ESCAPES.replace('/', '')}.jsonl"))
    path.write_text("{\n")
    through(door, path)
    said = capsys.readouterr()
    assert not unsafe(said.out + said.err)


def test_a_name_begins_no_line_of_its_own(gift: Make, capsys: pytest.CaptureFixture[str]) -> None:
    gift("classification", task="x\naccuracy     100.0% of 8 labels", algorithm="y\nicm: error: z")
    assert main(["list"]) == main(["analyze"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith(("icm:", "accuracy     1"))]


def test_mark_up_is_text_on_cards_and_pages(gift: Make, hub: FakeHub) -> None:
    path = gift(
        "classification",
        task=MARKUP,
        model={"name": MARKUP, "revision": MARKUP, "adapter": MARKUP},
        algorithm=MARKUP,
        created=MARKUP,
        label_space={"labels": [MARKUP, "True"], "verbalisers": [" a", " b"]},
        settings={"search": {"algorithm": MARKUP, "rules": ["```", "\n```\n<b>"]}},
    )
    assert through("push", path) == 0
    _, header, body = hub.files["datasets/me/x"]["README.md"].decode().split("---\n", 2)
    assert "license: unknown" in header and "\nlicense: mit" not in header
    body = re.sub(r"```json\n.*?\n```\n", "", body, flags=re.DOTALL)
    assert "<img" not in body and "<b>" not in body and "](http" not in body.replace("\\](", "")
    for report in ("a.html", "a.md"):
        assert main(["analyze", "--output-path", report]) == 0
        text = Path(report).read_text(encoding="utf-8")
        assert "<img src=x" not in text
    assert "](http" not in Path("a.md").read_text(encoding="utf-8").replace("\\](", "")


def test_the_settings_of_a_card_stay_in_their_fence(gift: Make, hub: FakeHub) -> None:
    assert through("push", gift("classification", settings={"search": {"rules": ["\n```\n<b>"]}})) == 0
    fence = hub.files["datasets/me/x"]["README.md"].decode().partition("```json\n")[2].partition("\n```\n")[0]
    assert json.loads(fence) == {"rules": ["\n```\n<b>"]}
