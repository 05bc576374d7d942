"""The first hour on a GPU, as a list of PASS, FAIL and SKIPPED with a figure each. Run it with scripts/gpu_check.sh.

Where no GPU is, the lines that need one are SKIPPED and the others run on the CPU.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import NDArray

from icm.config import EngineConfig, SearchConfig
from icm.engines import create_engine
from icm.engines.devices import cuda_problem, gpus, listed_gpus
from icm.errors import ICMError
from icm.files import atomic_write, parse_object
from icm.markdown import table
from icm.provenance import package_versions
from icm.search.scoring import Scorer
from icm.search.trees import draw_order
from icm.tasks import load_task
from icm.tasks.source import DataSource

ROOT = Path(__file__).parents[1]
COMPARED, TIMED = 16, 128  # reviews in a leave-one-out tree: those that a CPU scores too, those that time a GPU
BFLOAT16, FLOAT32_HEAD = 0.2, 0.05  # nats between log-odds: hidden states rounded otherwise; the same, as vLLM's test
FORK = """
import multiprocessing, sys, torch
assert torch.cuda.is_available()
child = multiprocessing.get_context("fork").Process(target=torch.cuda.init)
child.start(); child.join(); sys.exit(child.exitcode != 0)
"""
HOLD = """
import time
from icm.config import EngineConfig
from icm.engines import create_engine
if __name__ == "__main__":
    engine = create_engine({config})
    print("up", flush=True)
    time.sleep(600)
"""
Found = TypeVar("Found")


class Skip(Exception):
    """A check that cannot be made here; the message says why."""


class Failed(Exception):
    """A check that found something wrong."""


@dataclass(frozen=True)
class Measured:
    """A leave-one-out tree of reviews, scored: log-odds a review, tokens a second, and what the engine ran on."""

    log_odds: NDArray[np.float64]
    rate: float
    device: str


@dataclass(frozen=True)
class Place:
    """Where the checks run: on `device` ("cuda" or "cpu"), with the model, in a folder of their own."""

    device: str
    model: str
    work: Path

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def config(self) -> EngineConfig:
        return EngineConfig(model=self.model, engine="transformers", device=self.device)  # type: ignore[arg-type]

    def need_gpu(self, count: int = 1) -> None:
        """Raise Skip with fewer GPUs."""
        if (found := gpus() if self.gpu else 0) < count:
            raise Skip(f"needs {count} CUDA GPU{'s' * (count > 1)}, found {found}")


def in_child(function: Callable[..., Found], *arguments: Any) -> Found:
    """The function in a fresh process, so that this one never touches a GPU and each check finds it as it was."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run(*words: object) -> str:
    """A command of ours, to its end; returns what it says.

    Raises:
        Failed: with its last lines.
    """
    done = subprocess.run([*map(str, words)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {' '.join((done.stdout + done.stderr)[-600:].split())}")
    return done.stdout + done.stderr


def measure(config: EngineConfig, count: int) -> Measured:
    """Score `count` reviews, each given all others, with a new engine."""
    with create_engine(config) as engine:
        dataset = load_task(DataSource("reviews")).dataset.sample(count, 0)
        scorer = Scorer(engine, dataset, SearchConfig(shots=None))
        names = dataset.label_space.labels
        labels = {place: names[place % len(names)] for place in range(count)}
        few = draw_order(range(4), np.random.default_rng(1))
        scorer.sweep({place: labels[place] for place in range(4)}, few)  # warms up
        tree = scorer.trees(labels).leave_one_out(draw_order(range(count), np.random.default_rng(0)))
        before, started = engine.usage.computed_tokens, time.perf_counter()
        scores = engine.score_labels(tree, scorer.encoder.labels)
        rate = (engine.usage.computed_tokens - before) / (time.perf_counter() - started)
        return Measured(scores[:, 0] - scores[:, 1], rate, str(getattr(engine, "device", config.device)))


def check_driver(place: Place) -> str:
    """torch starts CUDA on what nvidia-smi lists."""
    if not listed_gpus() and not gpus():
        raise Skip("nvidia-smi lists no GPU")
    if problem := in_child(cuda_problem):
        raise Failed(problem)
    return "; ".join(line.split(" (")[0] for line in listed_gpus())


def check_fork(place: Place) -> str:
    """A fork of a process that asked for GPUs can use one (needs PYTORCH_NVML_BASED_CUDA_CHECK)."""
    place.need_gpu()
    codes = {
        check: subprocess.run(
            [sys.executable, "-c", FORK],
            env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": check},
            capture_output=True,
        ).returncode
        for check in "01"
    }
    if codes["1"]:
        raise Failed(f"exit code {codes['1']} with the NVML check, {codes['0']} without")
    return f"exit code 0 with the NVML check, {codes['0']} without"


def check_cpu_engine(place: Place) -> str:
    """The transformers engine scores on the CPU."""
    found = in_child(measure, replace(place.config, device="cpu"), COMPARED)
    np.save(place.work / "cpu.npy", found.log_odds)
    return f"{found.rate:,.0f} tokens/s"


def differences(place: Place, found: Measured, limit: float) -> str:
    """How far log-odds are from the CPU's. Raises Failed beyond the limit."""
    differs = np.abs(found.log_odds - np.load(place.work / "cpu.npy"))
    text = f"log-odds within {differs.max():.3f} of the CPU's (mean {differs.mean():.3f})"
    if differs.max() > limit:
        raise Failed(f"{text}, expected {limit}")
    return text


def check_gpu_engine(place: Place) -> str:
    """The transformers engine on the GPU: the CPU's log-odds, in bfloat16."""
    place.need_gpu()
    return differences(place, in_child(measure, place.config, COMPARED), BFLOAT16)


def check_deterministic(place: Place) -> str:
    """With --deterministic, the same, and the same bits twice."""
    place.need_gpu()
    one, other = (in_child(measure, replace(place.config, deterministic=True), COMPARED) for _ in range(2))
    if not np.array_equal(one.log_odds, other.log_odds):
        raise Failed("two runs differ")
    return f"bits repeat; {differences(place, one, BFLOAT16)}"


def check_batching(place: Place) -> str:
    """Prompt parts computed together are faster than one by one."""
    place.need_gpu()
    together, alone = (
        in_child(measure, replace(place.config, deterministic=deterministic), TIMED) for deterministic in (False, True)
    )
    text = (
        f"{together.rate:,.0f} tokens/s together, {alone.rate:,.0f} one by one: {together.rate / alone.rate:.1f} times"
    )
    if together.rate < alone.rate:
        raise Failed(text)
    return text


def check_labels(place: Place) -> str:
    """`icm run` labels reviews."""
    words = ["--dataset", "reviews", "--max-examples", 24, "--algorithm", "zero-shot", "--model", place.model]
    words += [
        "--engine",
        "transformers",
        "--device",
        place.device,
        "--output-dir",
        place.work,
        "--output-name",
        "labels",
    ]
    started = time.perf_counter()
    run(sys.executable, "-m", "icm", "run", *words)
    return f"24 reviews in {time.perf_counter() - started:.0f} s"


def training(place: Place, layout: str, folder: str) -> list[str]:
    """The training command: 12 steps of 8 rows, a checkpoint every 4."""
    launch = ["accelerate.commands.launch", "--config_file", f"configs/accelerate/{layout}.yaml", "train/run.py"]
    words = {
        "config": "configs/train/demo_sft.yaml",
        "labels": place.work / "labels.jsonl",
        "output_dir": place.work / folder,
        "max_steps": 12,
        "save_steps": 4,
    }
    return [sys.executable, "-m", *launch, *(f"--{name}={value}" for name, value in words.items())]


def check_training(place: Place) -> str:
    """train/run.py with single_gpu.yaml."""
    layout = "single_gpu" if place.gpu else "cpu"
    run(*training(place, layout, "adapter"))
    found = parse_object((place.work / "adapter" / "train_results.json").read_text(), "train_results.json")
    rate, memory = 12 * 8 / (60 * found["minutes"]), found["peak_memory_gib"]
    return f"12 steps of 8 rows in {60 * found['minutes']:.0f} s ({rate:.1f} rows/s); peak memory in GiB: {memory}"


def check_resume(place: Place) -> str:
    """The same run, killed with SIGKILL behind its first checkpoint, continues and ends with the same losses."""
    words, folder = training(place, "single_gpu" if place.gpu else "cpu", "killed"), place.work / "killed"
    if not (place.work / "adapter" / "metrics.jsonl").is_file():
        raise Skip("there is no whole run to compare with")
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        while process.poll() is None and not (folder / "checkpoint-4" / "complete.json").is_file():
            time.sleep(0.02)
        killed = process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    if not killed:
        raise Failed("the run ended before it could be killed")
    if "continuing from checkpoint-" not in run(*words):
        raise Failed("it started again from the beginning")
    whole, resumed = (losses(place.work / name) for name in ("adapter", "killed"))
    differs = float(np.abs(whole - resumed).max())
    if differs > 0.05:
        raise Failed(f"losses differ by up to {differs:.4f}")
    return f"{len(resumed)} losses, the largest difference {differs:.2g}"


def losses(folder: Path) -> NDArray[np.float64]:
    """Of every step."""
    rows = [parse_object(line, "metrics.jsonl") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["loss"] for row in rows if "loss" in row])


def check_evaluation(place: Place) -> str:
    """eval/run.py with the base model and the adapter."""
    if not (place.work / "adapter" / "adapter_config.json").is_file():
        raise Skip("there is no adapter")
    settings = {
        "labels": [str(place.work / "labels.jsonl")],
        "output_dir": str(place.work / "eval"),
        "data": {"max_examples": 48},
        "engine": {"model": place.model, "engine": "transformers", "device": place.device},
        "conditions": [
            {"name": "base", "kind": "zero-shot"},
            {
                "name": "tuned",
                "kind": "fine-tuned",
                "labels_from": "labels",
                "adapters": [str(place.work / "adapter")],
            },
        ],
    }
    (place.work / "eval.yaml").write_text(yaml.safe_dump(settings))
    started = time.perf_counter()
    run(sys.executable, "eval/run.py", "--config", place.work / "eval.yaml")
    found = parse_object((place.work / "eval" / "results.json").read_text(), "results.json")["results"]
    accuracies = ", ".join(f"{name} {values['acc,none']:.3f}" for name, values in found.items())
    return f"{accuracies} of 48 in {time.perf_counter() - started:.0f} s"


def vllm_config(place: Place) -> EngineConfig:
    """vLLM without its compilation. Raises Skip where it cannot run."""
    place.need_gpu()
    if find_spec("vllm") is None:
        raise Skip("vllm is not installed")
    return replace(place.config, engine="vllm", enforce_eager=True, max_model_len=8192)


def check_vllm(place: Place) -> str:
    """vLLM starts behind a process that asked for GPUs, and gives the transformers engine's log-odds."""
    config = vllm_config(place)
    found, rate = in_child(measure, config, COMPARED), in_child(measure, config, TIMED).rate
    return f"{differences(place, found, FLOAT32_HEAD)}; {rate:,.0f} tokens/s"


def check_vllm_ends(place: Place) -> str:
    """SIGTERM to a process that runs vLLM leaves nothing on the GPU."""
    config = vllm_config(place)
    before = gpu_processes()
    script = place.work / "vllm_up.py"
    script.write_text(HOLD.format(config=config))
    with subprocess.Popen(
        [sys.executable, script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        if b"up" not in process.stdout.readline():
            raise Failed("vLLM did not start")
        process.terminate()
        process.wait()
    started = time.monotonic()
    while (left := gpu_processes() - before) and time.monotonic() - started < 15:
        time.sleep(0.2)
    if left:
        raise Failed(f"{len(left)} processes on the GPU after 15 s: {sorted(left)}")
    return f"nothing left after {time.monotonic() - started:.1f} s"


def gpu_processes() -> set[str]:
    """Process numbers that nvidia-smi shows on the GPUs."""
    return set(run("nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader").split())


def check_four(place: Place) -> str:
    """ZeRO-3 over four cards."""
    place.need_gpu(4)
    if find_spec("deepspeed") is None:
        raise Skip("deepspeed is not installed")
    run(*training(place, "zero3", "zero3"))
    differs = float(np.abs(losses(place.work / "zero3") - losses(place.work / "adapter")).max())
    return f"12 steps; losses within {differs:.2g} of one card's"


CHECKS = {
    "driver and torch": check_driver,
    "fork after asking for GPUs": check_fork,
    "transformers engine, CPU": check_cpu_engine,
    "transformers engine, GPU": check_gpu_engine,
    "--deterministic": check_deterministic,
    "batched against one by one": check_batching,
    "icm run": check_labels,
    "training": check_training,
    "kill -9 and resume": check_resume,
    "evaluation with the adapter": check_evaluation,
    "vLLM": check_vllm,
    "vLLM and SIGTERM": check_vllm_ends,
    "ZeRO-3 on four cards": check_four,
}


def rows(place: Place) -> Iterator[tuple[str, str, str, str]]:
    """State, name, figure and seconds of each check, as they end."""
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            state, figure = "PASS", check(place)
        except Skip as reason:
            state, figure = "SKIPPED", str(reason)
        except (Failed, ICMError, OSError, ValueError, KeyError) as error:
            state, figure = "FAIL", " ".join(f"{error}".split())
        yield state, name, figure, f"{time.monotonic() - started:.0f}"


def main(words: Sequence[str]) -> int:
    """Run all checks and write the page; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="a small model (default: embedded)")
    parser.add_argument("--page", type=Path, default=Path("gpu_check.md"), help="where the list goes")
    arguments = parser.parse_args(words)
    found = []
    with tempfile.TemporaryDirectory(prefix="gpu_check") as work:
        place = Place("cuda" if gpus() else "cpu", arguments.model, Path(work))
        for row in rows(place):
            print("{:8} {}: {} [{} s]".format(*row), flush=True)
            found.append(row)
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    title = "; ".join(listed_gpus()) or "no GPU"
    with atomic_write(arguments.page) as handle:
        handle.write(f"# GPU check: {title}\n\n{versions}\n\n{table(['state', 'check', 'found', 's'], found)}\n")
    print(f"written to {arguments.page}")
    return int(any(row[0] == "FAIL" for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
