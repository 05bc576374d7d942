"""`icm doctor` finds engines whose command is gone, and leaves those alone that somebody waits for."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch  # noqa: F401 (who starts an engine has loaded it)

from icm.commands.diagnosis import Finding, check_orphans

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc")

# What vLLM's title comes to in /proc: the first word of the command line.
START = """
import subprocess
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
print(subprocess.Popen(["VLLM::EngineCore", "300"], executable="/bin/sleep", **quiet).pid)
"""


def found(pid: int) -> list[Finding]:
    return [finding for finding in check_orphans() if finding.subject == f"orphan {pid}"]


def test_an_engine_whose_parent_is_gone_is_listed_until_it_is_killed_as_said() -> None:
    started = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    orphan = psutil.Process(int(started.stdout))
    try:
        (finding,) = found(orphan.pid)
        assert "VLLM::EngineCore holds 0.0 GiB" in finding.found and finding.state == "problem"
        subprocess.run(shlex.split(finding.fix.split(" (")[0]), check=True)
        psutil.wait_procs([orphan], timeout=10)
        assert not found(orphan.pid)
    finally:
        if orphan.is_running():
            orphan.kill()


def test_an_engine_whose_parent_lives_is_none() -> None:
    with subprocess.Popen(["VLLM::EngineCore", "300"], executable="/bin/sleep") as engine:
        try:
            assert psutil.Process(engine.pid).ppid() == os.getpid() and not found(engine.pid)
        finally:
            engine.kill()


TITLED = """
import time
from setproctitle import setproctitle
time.sleep(2)
setproctitle("VLLM::EngineCore of a long name")  # overwrites what /proc shows of the environment
time.sleep(300)
"""
COMMAND = f"""
import subprocess, sys, time
from icm.engines.guard import guarded
with guarded():
    print(subprocess.Popen([sys.executable, "-c", {TITLED!r}], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(300)
"""


def test_an_engine_with_a_title_dies_with_its_command() -> None:
    pytest.importorskip("setproctitle", reason="comes with vLLM")
    command = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    engine = psutil.Process(int(command.stdout.readline()))
    while engine.cmdline()[:1] != ["VLLM::EngineCore of a long name"]:  # while it changes there is none
        time.sleep(0.1)
    assert b"_ICM_ENGINE_OF" not in Path(f"/proc/{engine.pid}/environ").read_bytes()
    command.kill()
    command.wait()
    command.stdout.close()
    assert not psutil.wait_procs([engine], timeout=15)[1]
