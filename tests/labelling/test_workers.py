"""Units on several engines: the same files, whoever dies; one line for what cannot be."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.search_runs import reviews as some_reviews

from icm.cli import main
from icm.config import EngineConfig, GenerationConfig, SearchConfig, WorkersConfig
from icm.engines import cluster, create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.base import Engine
from icm.engines.cluster import room, share
from icm.engines.crew import Worker, gpus_of
from icm.errors import ConfigError, DataError, ICMError
from icm.examples import ICMDataset
from icm.files import read_jsonl, write_jsonl
from icm.labelling.run import label
from icm.labelling.session import run_labeling
from icm.labelling.settings import resolve_settings
from icm.labelling.workers import Workers
from icm.results.format import read_result, trace_path
from icm.results.units import units_folder
from icm.tasks import load_task

ROOT = Path(__file__).parents[2]
TWO = WorkersConfig(workers=2)
INCIDENTAL = re.compile(r'"(created|usage|peak_memory_gib|output_name)": (\{[^{}]*\}|"[^"]*"|[^,}]+)|"type": "usage".*')


@pytest.fixture(scope="module")
def settings(tiny_model: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Settings of a few searches with the tiny model, three labels given."""
    tmp_path = tmp_path_factory.mktemp("out")
    given = {"dataset": str(reviews), "model": str(tiny_model), "engine": "transformers", "device": "cpu"}
    given |= {"max_examples": 30, "batch_size": 12, "max_iterations": 40, "early_stop": False, "restarts": 2}
    dataset = load_task(resolve_settings(given, environ={}).data).dataset
    labels = zip(dataset.examples, [*dataset.label_space.labels, dataset.label_space.labels[0]], strict=False)
    write_jsonl(tmp_path / "trusted.jsonl", [{"id": example.id, "label": label} for example, label in labels])
    given |= {"trusted": str(tmp_path / "trusted.jsonl")}

    def made(name: str) -> Any:
        return resolve_settings({**given, "output_dir": str(tmp_path), "output_name": name}, environ={})

    return made


@pytest.fixture(scope="module")
def alone(settings: Callable[..., Any]) -> Path:
    """What one process finds, with one thread as the workers have, so that sums come in the same order."""
    import torch

    torch.set_num_threads(1)
    return label(settings("alone"))


def command(settings: Any, *more: str) -> list[str]:
    """The same as a command line."""
    data, search, engine = settings.data, settings.search, settings.engine
    words = ["--dataset", data.dataset, "--model", engine.model, "--engine", engine.engine, "--device", engine.device]
    words += ["--max-examples", str(data.max_examples), "--batch-size", str(search.batch_size), "--no-early-stop"]
    words += ["--max-iterations", str(search.max_iterations), "--restarts", str(search.restarts)]
    words += ["--output-dir", settings.output.output_dir, "--output-name", settings.output.output_name]
    return [sys.executable, "-m", "icm", "run", *words, "--trusted", data.trusted, *more]


def ends(path: Path) -> list[str]:
    """Label file and trace, but for times and costs."""
    return [INCIDENTAL.sub("", file.read_text()) for file in (path, trace_path(path))]


def tokens(path: Path) -> int:
    return int(read_result(path).metadata["usage"]["computed_tokens"])


def workers(busy: str = "") -> list[psutil.Process]:
    """Workers of Ray, whoever started them; with `busy`, those that run this method now."""
    named = ((p, (p.info["cmdline"] or [""])[0]) for p in psutil.process_iter(["cmdline"]))
    return [process for process, title in named if title.startswith(f"ray::Worker{busy}")]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.slow
def test_two_workers_of_which_one_dies_write_what_one_process_writes(
    settings: Callable[..., Any], alone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen, killed = list[int](), list[psutil.Process]()

    def kill_one(progress: Any) -> None:
        assert progress.units == 2 * len(read_result(alone).record.batches)
        seen.append(progress.finished)
        if len(seen) >= 40 and not killed:
            killed.extend([p for p in psutil.Process().children(recursive=True) if p in workers(".run")][:1])
            assert all(process.nice() == psutil.Process().nice() for process in killed)
            for process in killed:
                process.kill()

    together = label(settings("together"), on_progress=kill_one, workers=TWO)
    assert ends(together) == ends(alone)
    trusted = {row["id"]: row["label"] for _, row in read_jsonl(Path(settings("together").data.trusted))}
    found = read_result(together)
    assert {i.example.id: i.label for i in found.labeled_examples if i.trusted} == trusted and len(trusted) == 3
    assert any("died while it searched restart" in said for said in caplog.messages)
    assert tokens(alone) <= tokens(together) < 1.5 * tokens(alone)
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in p.name()]


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_process_and_goes_on(settings: Callable[..., Any], alone: Path) -> None:
    child = start(command(settings("killed"), "--workers", "2"), alone.with_name("killed.trace.log"))
    trace = wait_for_units(child, alone.with_name("killed.trace.jsonl"), 3)
    started = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    assert gone(started, 15.0)
    assert not alone.with_name("killed.jsonl").exists()
    resumed = label(settings("killed"), trace)  # without workers: who labels is no part of the run
    assert ends(resumed) == ends(alone)


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """Address of a Ray cluster of two nodes on loopback, each with one CPU."""
    pytest.importorskip("ray", reason="needs icm[ray]")
    code = (
        "import sys, time; from ray.cluster_utils import Cluster\n"
        "nodes = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})\n"
        "nodes.add_node(num_cpus=1); print(nodes.address, flush=True); sys.stdin.read(); nodes.shutdown()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env(),
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.stdin.close()
            process.wait(30)


@pytest.mark.slow
def test_a_cluster_of_two_nodes_outlives_a_killed_command(
    two_nodes: str, settings: Callable[..., Any], alone: Path
) -> None:
    words = command(settings("there"), "--workers", "2", "--ray-address", two_nodes)
    child = start(words, alone.with_name("there.trace.log"))
    trace = wait_for_units(child, alone.with_name("there.trace.jsonl"), 3)
    working = workers()
    child.kill()
    assert working and gone(working, 15.0)
    done = subprocess.run([*words, "--resume", str(trace)], capture_output=True, env=env())
    assert done.returncode == 0, done.stderr.decode()
    assert ends(alone.with_name("there.jsonl")) == ends(alone)


def env() -> dict[str, str]:
    """For processes that know nothing of Ray here."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    return own | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}


def start(words: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as said:
        return subprocess.Popen(words, stdout=said, stderr=said, env=env())


def wait_for_units(child: "subprocess.Popen[bytes]", trace: Path, count: int) -> Path:
    """The trace, as soon as so many units have begun."""
    for _ in range(6000):
        if len(list(units_folder(trace).glob("*-*.jsonl"))) >= count:
            return trace
        if child.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"nothing was labelled: {trace.with_suffix('.log').read_text()}")


def broken(what: Callable[[], None]) -> Callable[[], Engine]:
    """Makes an engine that does this when it is asked something. Its class goes to a worker as it stands here."""

    class Broken(AccountingEngine):
        def score(self, *given: Any) -> Any:
            what()

    return Broken


def burn() -> None:
    raise DataError("the card is on fire")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_unit_that_fails_names_itself_and_its_worker(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle", reason="needs icm[ray]")
    dataset: ICMDataset = some_reviews(8)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker does not know this module
    for what, said in (
        (burn, r"^restart 0, batch 0, worker 0: the card is on fire$"),
        (die, r"^worker 0 died while it searched restart 0, batch 0, as 2 before it; .*fewer --workers$"),
    ):
        with pytest.raises(ICMError, match=said), Workers(broken(what), WorkersConfig(workers=1), gpus=0) as workers:
            run_labeling(dataset, workers.load(), SearchConfig())


@pytest.mark.slow
def test_a_worker_that_dies_over_a_question_is_one_line() -> None:
    pytest.importorskip("ray", reason="needs icm[ray]")
    with (
        pytest.raises(ICMError, match=r"^worker 0 died while it was asked; .* goes on from here$"),
        Workers(AccountingEngine, WorkersConfig(workers=1), gpus=0) as workers,
    ):
        workers.load().ask(lambda engine: os._exit(1))


@pytest.mark.slow
def test_a_ray_of_our_own_is_open_to_nobody_else() -> None:
    pytest.importorskip("ray", reason="needs icm[ray]")
    code = (
        "import psutil, subprocess, sys; from icm.engines.cluster import joined\n"
        "with joined(None) as ray:\n"
        "    own = psutil.Process().children(recursive=True)\n"
        "    open = [at.laddr for p in own for at in p.net_connections() if at.status == 'LISTEN']\n"
        "    assert open and all(at.ip.removeprefix('::ffff:') == '127.0.0.1' for at in open), open\n"
        "    there = ray.get_runtime_context().gcs_address\n"
        "    other = f\"import ray; ray.init('{there}', configure_logging=False)\"\n"
        "    env = {'PATH': '', 'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': '1' * 64}\n"
        "    env |= {'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0', 'RAY_gcs_rpc_server_connect_timeout_s': '1'}\n"
        "    done = subprocess.run([sys.executable, '-c', other], env=env, capture_output=True, text=True)\n"
        "    assert done.returncode and 'InvalidAuthToken' in done.stderr, done.stderr\n"
    )
    own = {name: value for name, value in env().items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert main(["run", "--dataset", "reviews", "--workers", "2"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "icm: error: workers: Ray is not installed; `pip install icm[ray]`, or leave --workers out"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "workers: found 0, expected auto or a number above 0"),
        (["--workers", "all"], "workers: found 'all', expected a whole number or one of auto"),
    ],
)
def test_no_such_number_of_workers(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dataset", "reviews", *words]) == 2
    assert said in capsys.readouterr().err


def test_one_worker_here_is_this_process_and_needs_no_ray() -> None:
    code = (
        "import sys; import icm.labelling.run, icm.commands.run; from icm.config import WorkersConfig;"
        "assert WorkersConfig().here and not WorkersConfig(1, 'a:1').here and not WorkersConfig('auto').here;"
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("machines", "workers", "gpus", "count", "cpus", "cards"),
    [
        ([{"CPU": 2}], 2, 1, 2, 1, 0),
        ([{"CPU": 2}], "auto", 1, 2, 1, 0),
        ([{"CPU": 2}], 8, 0, 8, 0.25, 0),
        ([{"CPU": 8}, {"CPU": 8}], 3, 1, 3, 4, 0),
        ([{"CPU": 96, "GPU": 8}], "auto", 1, 8, 1, 1),
        ([{"CPU": 96, "GPU": 8}, {"CPU": 4}], "auto", 4, 2, 1, 4),
        ([{"CPU": 96, "GPU": 8}], "auto", 0, 96, 1, 0),
        ([{"CPU": 9, "GPU": 3}, {"CPU": 9, "GPU": 3}], "auto", 2, 2, 1, 2),  # an engine stays on one machine
    ],
)
def test_room(machines: Any, workers: Any, gpus: int, count: int, cpus: float, cards: int) -> None:
    assert room(machines, workers, gpus) == (count, {"num_cpus": cpus, "num_gpus": cards})


def test_more_workers_than_cards_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"found 3, each needs 4 GPUs on one machine, and there is room for 2 \(10"):
        room([{"GPU": 8}, {"GPU": 2}], 3, 4)


def test_shares_fit_on_the_machines() -> None:
    for cpus in ([2], [3, 5], [1, 1, 64], [16] * 4):
        for count in range(1, 40):
            found = share(cpus, count)
            assert sum(int(own / found + 1e-9) for own in cpus) >= count


def test_a_server_and_a_cpu_take_no_card() -> None:
    assert gpus_of(EngineConfig(engine="server", base_url="http://x")) == gpus_of(EngineConfig(device="cpu")) == 0
    assert gpus_of(EngineConfig(tensor_parallel_size=4, pipeline_parallel_size=2)) == 8


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "--ray-address 127.0.0.1:1: [Errno 111] Connection refused; start a cluster with `ray start"),
        ("ray://x:1", "--ray-address: found 'ray://x:1', expected HOST:PORT"),
        ("auto", "--ray-address: found 'auto', expected HOST:PORT"),
    ],
)
def test_an_address_where_no_cluster_is_gets_one_line(
    address: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="needs icm[ray]")
    assert main(["run", "--dataset", "reviews", "--ray-address", address]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_worker_writes_what_its_engine_writes_up_to_the_stop(tiny_model: Path) -> None:
    config = EngineConfig(str(tiny_model), engine="transformers", device="cpu", dtype="float32")
    sampling, worker = GenerationConfig(generation_max_tokens=12), Worker[Engine](str(Path.cwd()))
    worker.load(lambda: create_engine(config))
    whole = worker.ask(lambda engine: engine.generate(["Question:"], sampling, 0, ()))
    stop = whole[0][len(whole[0]) // 2 :][:3]
    texts = worker.ask(lambda engine: engine.generate(["Question:"], sampling, 0, (stop,)))
    with create_engine(config) as engine:
        assert texts == engine.generate(["Question:"], sampling, 0, (stop,)) != whole
    assert worker.ask(lambda engine: engine.usage.generated_tokens) > 0
