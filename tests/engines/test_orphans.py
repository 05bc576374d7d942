"""`icm doctor` finds engines whose command is gone, and leaves those alone that somebody waits for."""

import os
import shlex
import subprocess
import sys

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
