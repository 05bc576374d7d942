"""Ends the processes of an engine when the process that started them is killed (vllm-project/vllm#55510)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from secrets import token_hex

import psutil

_TITLE = "VLLM::"  # of its processes: VLLM::EngineCore, VLLM::Worker_TP0
_PATIENCE = 2.0  # seconds in which a guard ends what it watches
_MARK = "_ICM_ENGINE_OF"


@contextmanager
def guarded() -> Iterator[None]:
    """What is started inside, and whatever that starts later, dies when this process does: a mark in its environment
    tells a guard, however deep it lies and whoever has adopted it since. Processes that are forked and run no program
    of their own bear no mark."""
    os.environ[_MARK] = _guard()
    try:
        yield
    finally:
        del os.environ[_MARK]


@cache
def _guard() -> str:
    """Start the guard of this process; returns its mark."""
    mark = token_hex(8)
    nothing = subprocess.DEVNULL
    # In a session of its own: what kills a whole group does not reach it. It ends with the process that it watches.
    subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("watch.py")), str(os.getpid()), f"{_MARK}={mark}"],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    return mark


def orphans() -> list[psutil.Process]:
    """vLLM's processes of this user that nobody waits for any more: another process than one that could have started
    them is their parent, as init is. A guard that was killed too, or an engine that is not ours, leaves them."""
    titled = (process for process in psutil.process_iter() if _title(process).startswith(_TITLE))
    return psutil.wait_procs([process for process in titled if _adopted(process)], timeout=_PATIENCE)[1]


def _title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0] if process.uids().real == os.getuid() else ""
    except psutil.Error:
        return ""


def _adopted(process: psutil.Process) -> bool:
    """Who starts an engine has loaded torch; init, or what takes its place in a session, has not."""
    try:
        parent = process.parent()
        return parent is None or not any("torch" in mapped.path for mapped in parent.memory_maps())
    except psutil.AccessDenied:  # the parent is another user's
        return True
    except psutil.NoSuchProcess:
        return False
