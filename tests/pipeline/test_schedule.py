"""Stages side by side: what may overlap, on which cards, and what is left when one fails or all are stopped."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from icm.config import EngineConfig, WorkersConfig
from icm.errors import ConfigError, ICMError
from icm.pipeline.manifest import read_manifest
from icm.pipeline.resources import ONE, Machine, Processes, of_engines, of_training, this_machine, visible_cards
from icm.pipeline.run import run_stages
from icm.pipeline.schedule import dependencies
from icm.pipeline.stages import Stage

ROOT = Path(__file__).parents[2]
# Says when it began and ended, and what it was given; waits until FILE is there, if one is named.
WORK = """
import os, sys, time
from pathlib import Path
name, folder, wanted, code = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
with (folder / "log").open("a") as log:
    print("+" + name, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), file=log, flush=True)
    print(name, "speaks", flush=True)
    (folder / (name + ".began")).touch()
    while wanted and not (folder / wanted).exists():
        time.sleep(0.01)
    print("-" + name, file=log, flush=True)
code or (folder / name).write_text(name)
sys.exit(code)
"""


def work(folder: Path, name: str, *reads: str, needs: Processes = ONE, waits: str = "", code: int = 0) -> Stage:
    command = (sys.executable, "-c", WORK, name, str(folder), waits, str(code))
    return Stage(name, command, {}, tuple(folder / other for other in reads), (folder / name,), processes=needs)


def run(folder: Path, stages: Sequence[Stage], machine: Machine) -> str:
    output = io.StringIO()
    run_stages(folder, stages, False, Console(file=output, width=200), machine)
    return output.getvalue()


def log(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def test_stages_overlap_unless_one_reads_what_another_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    # `a` and `c` wait for each other, so they overlap; `b` reads what both write.
    stages = [work(tmp_path, "a", waits="c.began"), work(tmp_path, "c", waits="a.began"), work(tmp_path, "b", "a", "c")]
    said = run(tmp_path, stages, Machine(2, cores=8))
    events = [words[0] for words in log(tmp_path)]
    assert {*events[:2]} == {"+a", "+c"} and events[-2:] == ["+b", "-b"]
    assert list(read_manifest(tmp_path)) == ["a", "c", "b"]
    assert all(record.finished for record in read_manifest(tmp_path).values())
    assert "a speaks" not in said and (tmp_path / "logs/a.log").read_text() == "a speaks\n"
    for words in ("1/3 a ", "2/3 c ", f"its output: {tmp_path / 'logs/c.log'}", "OMP_NUM_THREADS=4 ", "c done in "):
        assert words in said
    threads = {words[0]: words[2] for words in log(tmp_path) if words[0].startswith("+")}
    assert threads == {"+a": "4", "+c": "4", "+b": "None"}  # the last one has the machine and the terminal to itself
    assert not (tmp_path / "logs/b.log").exists()
    for name in ("a", "c", "log", "a.began", "c.began"):
        (tmp_path / name).unlink()
    run(tmp_path, stages, Machine(2, cores=8))  # recorded as finished once, and not there
    assert [words[2] for words in log(tmp_path) if words[0] in ("+a", "+c")] == ["4", "4"]
    assert run(tmp_path, stages, Machine(2)).count("finished before") == 3


def test_a_stage_waits_for_files_in_a_folder_that_another_writes(tmp_path: Path) -> None:
    adapter = Stage("adapter", (), {}, (), (tmp_path / "x/results.json",), folder=tmp_path / "x")
    readers = [work(tmp_path, str(number), name) for number, name in enumerate(["x/weights", "x", "xy", "x/../0"])]
    assert dependencies([adapter, *readers]) == {0: set(), 1: {0}, 2: {0}, 3: set(), 4: {1}}


def test_threads_are_shared_unless_the_user_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(2, cores=12)
    asked = [ONE, Processes(2), Processes(None), Processes(40)]
    assert [machine.variables(needs, (), {})["OMP_NUM_THREADS"] for needs in asked] == ["6", "3", "1", "1"]
    assert machine.variables(ONE, (), {"OMP_NUM_THREADS": "5"}) == {}
    assert machine.variables(Processes(2, 1), ("3", "5"), {}) == {"CUDA_VISIBLE_DEVICES": "3,5"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run(tmp_path, [work(tmp_path, "a")], machine)
    assert log(tmp_path)[0][2] == "5"


@pytest.mark.parametrize(
    ("needs", "taken", "cards"),
    [
        (Processes(1, 1), [], ("2",)),
        (Processes(1, 1), ["2", "5"], ("3",)),
        (Processes(2, 2), [], ("2", "3", "5", "7")),
        (Processes(2, 2), ["3"], None),
        (Processes(None, 1), [], ("2", "3", "5", "7")),
        (Processes(None, 1), ["7"], None),
        (Processes(16, 1), [], ("2", "3", "5", "7")),  # it says itself that there are too few
        (ONE, ["2", "3", "5", "7"], ()),
        (Processes(None, 0), [], ()),
    ],
)
def test_cards_are_handed_out_in_order(needs: Processes, taken: Sequence[str], cards: Sequence[str] | None) -> None:
    assert Machine(4, ("2", "3", "5", "7")).share(needs, taken) == cards
    assert Machine(2).share(needs, ()) == ()


def test_no_card_is_given_twice_and_all_are_used(tmp_path: Path) -> None:
    pair, single = Processes(2, 1), Processes(1, 1)
    stages = [
        work(tmp_path, "a", needs=single, waits="c.began"),
        work(tmp_path, "b", needs=pair),  # has no room beside `a`, and `c` has
        work(tmp_path, "c", needs=single, waits="a.began"),
    ]
    run(tmp_path, stages, Machine(3, ("4", "6")))
    given = {words[0]: words[1] for words in log(tmp_path) if words[0].startswith("+")}
    assert given == {"+a": "4", "+c": "6", "+b": "4,6"}
    assert log(tmp_path)[-1] == ["-b"]


def test_what_stages_need(tmp_path: Path) -> None:
    split = EngineConfig(tensor_parallel_size=2, pipeline_parallel_size=2)
    assert of_engines(split, WorkersConfig(3)) == Processes(3, 4)
    assert of_engines(split, WorkersConfig("auto")) == Processes(None, 4)
    assert of_engines(split, WorkersConfig(3, "head:6379")) == Processes(None, 4)
    assert of_engines(EngineConfig(device="cpu"), WorkersConfig(3)) == Processes(3, 0)
    assert of_engines(EngineConfig(engine="server", base_url="http://x/v1"), WorkersConfig()) == ONE
    layouts = {name: of_training(ROOT / f"configs/accelerate/{name}.yaml") for name in ("cpu", "cpu_2", "zero3")}
    assert layouts == {"cpu": ONE, "cpu_2": Processes(2, 0), "zero3": Processes(4, 1)}


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icm.pipeline.resources.listed_gpus", lambda: ("GPU 0",) * 4)
    monkeypatch.setattr("icm.pipeline.resources.gpus", lambda: 2)  # as torch counts what the variable lets it see
    assert visible_cards({}) == ("0", "1") and visible_cards({"CUDA_VISIBLE_DEVICES": "7, GPU-ab,-1,3"}) == (
        "7",
        "GPU-ab",
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    assert this_machine(None).jobs == 2 and this_machine(3).cards == ("5", "6")
    assert this_machine(1) == Machine()
    monkeypatch.setattr("icm.pipeline.resources.gpus", lambda: 0)
    assert this_machine(None) == Machine() and this_machine(2).jobs == 2
    with pytest.raises(ConfigError, match="--jobs: found 0, expected a number above 0"):
        this_machine(0)


def test_after_a_failure_nothing_begins_and_what_runs_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    stages = [
        work(tmp_path, "bad", code=3),
        work(tmp_path, "slow", waits="go"),
        work(tmp_path, "next"),
        work(tmp_path, "after", "slow"),
    ]
    output = io.StringIO()

    class Told(io.StringIO):
        """Lets the other end when the failure has been said."""

        def write(self, text: str) -> int:
            if "bad failed" in text:
                (tmp_path / "go").touch()
            return output.write(text)

    with pytest.raises(
        ICMError, match=r"'bad' failed \(exit code 3\), see .*logs/bad\.log; the same command continues"
    ):
        run_stages(tmp_path, stages, False, Console(file=Told(), width=200), Machine(2))
    assert "bad failed (exit code 3):\nbad speaks\n" in output.getvalue()
    records = read_manifest(tmp_path)
    assert list(records) == ["bad", "slow"] and records["slow"].finished and not records["bad"].finished
    stages[0] = work(tmp_path, "bad")
    assert run(tmp_path, stages, Machine(2)).count("finished before") == 1
    assert (tmp_path / "after").exists()


def test_trainings_side_by_side_meet_at_ports_of_their_own(tmp_path: Path) -> None:
    from train.world import parse_launch

    layout = str(ROOT / "configs/accelerate/cpu_2.yaml")
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", layout, "train/run.py", "--x", "1")
    stage = Stage("train", launch, {}, (), (tmp_path / "x",), processes=Processes(2, 0))
    beside = stage.beside_others.command
    assert parse_launch(beside[3:]).processes == 2
    assert beside[3:7] == ("--gpu_ids", "all", "--main_process_port", "0") and beside[:3] + beside[7:] == launch


STOPPED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from icm.doors import door
from icm.pipeline.resources import Machine
from icm.pipeline.run import run_stages
from icm.text import Console
from test_schedule import work
folder = Path(sys.argv[1])
stages = [work(folder, name, waits=sys.argv[2]) for name in "abc"]
sys.exit(door("error", lambda: run_stages(folder, stages, False, Console(), Machine(2))))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_leaves_no_child_and_goes_on_from_there(tmp_path: Path, number: signal.Signals) -> None:
    code = STOPPED.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), "never"], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "log").exists() or len(log(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, number)
    said = process.communicate()[1]
    assert len(children) == 2 and psutil.wait_procs(children, timeout=10)[1] == []
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number and "interrupted; the same command continues from here" in said
        assert all(record.seconds > 0 and not record.finished for record in read_manifest(tmp_path).values())
        return
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), ""], capture_output=True, text=True)
    assert done.returncode == 0 and all((tmp_path / name).exists() for name in "abc"), done.stderr
