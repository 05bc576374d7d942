"""Ray: joined where it runs, or started on this machine for this process alone; and who finds room on it."""

import math
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

from icm.engines.guard import guarded
from icm.errors import ConfigError, PrerequisiteError

_STORE = 256 * 2**20  # bytes for what is too long for a message: batches, and rows that wait to be written
_ANSWER_SECONDS = 10.0
_REMEDY = "start a cluster with `ray start --head`, and give the HOST:PORT that it prints"
_LONG_SOCKET = 40  # characters of a folder in which Ray's sockets may lie


def check_ray(address: str | None) -> None:
    """Raise PrerequisiteError if Ray is not here, ConfigError or PrerequisiteError if nobody answers at `address`."""
    if find_spec("ray") is None:
        raise PrerequisiteError("workers: Ray is not installed; `pip install icm[ray]`, or leave --workers out")
    if address is not None:
        _check_address(address)


@contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address`, or to one on this machine that ends with this process.

    Raises:
        ConfigError, PrerequisiteError: Ray is not installed, or does not answer there.
    """
    check_ray(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None and "ray" not in sys.modules:  # it reads them when it is imported
        # 127.0.0.1, which all users of a machine can reach: so only who knows the token gets in.
        own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
        os.environ.update(own)
    if address is None:
        # Ray's 15 lets whatever else runs here starve the workers.
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    # Ray prints what it has to say of dead workers past everything; whoever waits for them gets an exception.
    ray._private.worker.listen_error_messages = lambda *nobody: None
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": "error"}
    with ExitStack() as stack:
        with _own_signals():
            if address is None:
                stack.enter_context(guarded())
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="icm-ray-", dir=_short_folder()))
                ray.init("local", include_dashboard=False, object_store_memory=_STORE, _temp_dir=folder, **quiet)
            else:
                _join(ray, address, quiet)
        stack.callback(ray.shutdown)
        yield ray


def _check_address(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal():
        raise ConfigError(f"--ray-address: found {address!r}, expected HOST:PORT, as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise PrerequisiteError(f"--ray-address {address}: {error}; {_REMEDY}") from None


def _join(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    try:
        ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise PrerequisiteError(f"--ray-address {address}: {reason}; {_REMEDY}") from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """SIGTERM goes on to end the command as it did (see `icm.doors.signals`); Ray puts a handler of its own there."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            with suppress(TypeError):  # a handler that is not Python's
                signal.signal(signal.SIGTERM, handler)


def _short_folder() -> str | None:
    """Where a socket's path stays short enough for the system."""
    usual = tempfile.gettempdir()
    return "/tmp" if len(usual) > _LONG_SOCKET and Path("/tmp").is_dir() else usual


def room(machines: Sequence[Mapping[str, float]], workers: int | str, gpus: int) -> tuple[int, dict[str, float]]:
    """How many workers there are, and what each takes of its machine.

    Args:
        machines: what each has: `CPU`, `GPU`.
        workers: a number, or `auto`.
        gpus: of each worker, where there are any; 0 for what takes none.

    Raises:
        ConfigError: there is no room for so many.
    """
    cards, cpus = ([machine.get(kind, 0.0) for machine in machines] for kind in ("GPU", "CPU"))
    if not gpus or not any(cards):
        count = max(1, int(sum(cpus))) if workers == "auto" else int(workers)
        return count, {"num_cpus": share(cpus, count), "num_gpus": 0}
    most = sum(int(own // gpus) for own in cards)  # an engine stays on one machine
    count = most if workers == "auto" else int(workers)
    if not most or count > most:
        each = f"{gpus} GPUs on one machine" if gpus > 1 else "a GPU"
        raise ConfigError(
            f"workers: found {workers}, each needs {each}, and there is room for {most} "
            f"({sum(cards):.0f} GPUs on {len(machines)} machines); give at most that many, or auto"
        )
    return count, {"num_cpus": 1, "num_gpus": gpus}


def share(cpus: Sequence[float], count: int) -> float:
    """The most CPUs that each of `count` workers can have on machines that have so many."""
    for whole in range(int(max(cpus)), 0, -1):
        if sum(int(own // whole) for own in cpus) >= count:
            return whole
    parts = math.ceil(count / max(1, sum(map(int, cpus))))
    return math.floor(10_000 / parts) / 10_000  # as finely as Ray counts
