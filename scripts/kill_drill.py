"""Stop runs by signals at random moments, continue them, and compare their end with that of an undisturbed run.

    python scripts/kill_drill.py --times 30                                    # everything; hours on a laptop
    python scripts/kill_drill.py label training --signals TERM INT --times 3 --model FOLDER
    python scripts/kill_drill.py vllm vllm-eval --times 5                      # needs icm[cpu] or icm[vllm]
    python scripts/kill_drill.py pairs --times 10                              # two runs at once, ten times: 20 results
    python scripts/kill_drill.py workers worker-dies --signals KILL --times 10 # needs icm[ray]
    python scripts/kill_drill.py nodes node-worker-dies --signals KILL --times 10   # a cluster of two nodes on loopback
    python scripts/kill_drill.py answers --signals KILL --times 10 --model FOLDER # write, judge, prefer, evaluate

A trial fails where a process is left 15 seconds after the signal, where a continuation is refused or hangs, or where
the end differs by a byte. Masked are times, what depends on them (memory, tokens computed again after a kill) and the
folder's name. Prints a table; exit code 1 if a trial fails.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import psutil
import yaml

from icm.doors.signals import tethered
from icm.files import file_sha256

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
LEFT = 15.0  # seconds for all processes to be gone
STUCK = 600.0  # seconds after which a continuation counts as stuck
MARK = "_ICM_DRILL"
WORKER = "ray::Worker"
NODES = ("nodes", "node-worker-dies")  # the targets that run on a cluster
_INCIDENTAL = re.compile(
    r'"(created|date|seconds|minutes|versions|git|peak_memory_gib|usage|cost|total_evaluation_time_seconds|'
    r'labels_sha256)": (\{[^{}]*\}|\[[^][]*\]|"[^"]*"|[^,}\n]+)'
    r'|"type": "usage"[^\n]*'  # what a killed process had computed is computed again
)


@dataclass(frozen=True)
class Target:
    """What is stopped.

    Attributes:
        files: writes settings into a folder.
        command: of a run in that folder.
        resumed: the command that continues it; None is the same one.
        ends: the files that must be the same in the end.
        group: signal the whole process group rather than the process that was started.
        victim: beginning of the name of the trial's process that is signalled in its place; the run itself must go on.
    """

    files: Callable[[Path], None]
    command: Sequence[str]
    ends: Sequence[str]
    resumed: Sequence[str] | None = None
    group: bool = False
    victim: str = ""


def targets(model: str, data: str, address: str = "") -> dict[str, Target]:
    """The targets by name; `address` is that of a Ray cluster."""
    size = ["--dataset", data, "--max-examples", "16", "--max-iterations", "60", "--no-early-stop"]
    label = [PYTHON, "-m", "icm", "run", "--model", model, *size, "--output-dir", "out", "--output-name", "l"]
    vllm = [*label, "--engine", "vllm", "--enforce-eager", "--kv-cache-gib", "0.5", "--max-model-len", "128"]
    trace = ["--resume", "out/l.trace.jsonl"]
    many = [*label, "--batch-size", "4", "--restarts", "2", "--workers", "2"]
    nodes = [*many, "--ray-address", address]
    train = [str(ROOT / "train/run.py"), "--config", "recipe.yaml"]
    train += ["--labels", "labels.jsonl", "--output_dir", "out/adapter"]
    launch = [PYTHON, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate/cpu.yaml")]
    evaluation = [PYTHON, str(ROOT / "eval/run.py"), "--config", "eval.yaml"]
    pipeline = [PYTHON, "-m", "icm", "pipeline", "--config", "experiment.yaml"]
    labels, weights = ["out/l.jsonl", "out/l.trace.jsonl"], ["out/adapter/adapter_model.safetensors"]
    ends = ["out/labels/icm_seed0.jsonl", "out/adapters/icm_seed0_labels/adapter_model.safetensors", "out/results.json"]
    answers = [PYTHON, "-m", "icm", "pipeline", "--config", "answers.yaml"]

    def settings(folder: Path) -> None:
        write_settings(folder, model, data)

    return {
        "label": Target(settings, label, labels, [*label, *trace]),
        "pipeline": Target(settings, pipeline, ends),
        "pipeline-group": Target(settings, pipeline, ends, group=True),
        "training": Target(settings, [*launch, *train], [*weights, "out/adapter/metrics.jsonl"]),
        "training-alone": Target(settings, [PYTHON, *train], [*weights, "out/adapter/metrics.jsonl"]),
        "eval": Target(settings, evaluation, ["out/samples_many.jsonl"]),
        "workers": Target(settings, many, labels, [*many, *trace]),
        "worker-dies": Target(settings, many, labels, victim=WORKER),
        NODES[0]: Target(settings, nodes, labels, [*nodes, *trace]),
        NODES[1]: Target(settings, nodes, labels, victim=WORKER),
        "answers": Target(settings, answers, ends),
        "vllm": Target(settings, vllm, [], [*vllm, *trace]),
        "vllm-eval": Target(settings, [*evaluation, "--engine.engine", "vllm"], []),
    }


def write_settings(folder: Path, model: str, data: str) -> None:
    """Recipe, experiment and evaluation of a trial, and labels to train on."""
    recipe = {"extends": str(ROOT / "configs/train/demo_sft.yaml"), "model_name_or_path": model, "max_steps": 12}
    recipe |= {"save_steps": 3, "logging_steps": 1, "total_batch_size": 8, "per_device_train_batch_size": 8}
    many = {"name": "Many", "kind": "many-shot", "labels_from": "labels"}
    tuned = {"name": "Tuned", "kind": "fine-tuned", "labels_from": "labels"}
    engine = {"model": model, "max_model_len": 128, "kv_cache_gib": 0.5, "enforce_eager": True}
    source = {"dataset": data, "max_examples": 16, "holdout": 0.4}
    evaluation = {"labels": ["labels.jsonl"], "output_dir": "out", "shots": 4, "engine": engine, "conditions": [many]}
    accelerate = str(ROOT / "configs/accelerate/cpu.yaml")
    experiment = {
        "output_dir": "out",
        "data": source,
        "engine": {"model": model},
        "search": {"max_iterations": 40, "early_stop": False},
        "label": {"algorithms": ["icm"], "seeds": [0]},
        "train": {"recipe": "recipe.yaml", "accelerate": accelerate, "label_sources": ["labels"]},
        "eval": {"shots": 4, "conditions": [many, tuned]},
    }
    answers = {
        "extends": str(ROOT / "configs/experiments/arithmetic_demo.yaml"),
        "output_dir": "out",
        "data": {"size": 20, "max_examples": 16, "candidates": 2},
        "engine": {"model": model},
        "generation": {"generation_max_tokens": 48},
        "search": {"max_iterations": 20, "early_stop": False},
        "train": {
            "recipe": str(ROOT / "configs/train/dpo_answers_demo.yaml"),
            "accelerate": accelerate,
            "label_sources": ["labels"],
            "variants": [],
        },
        "eval": {
            "data": {"max_examples": 4},
            "shots": 4,
            "conditions": [tuned],
            "benchmarks": {"include_path": str(ROOT / "configs/benchmarks/word_problems"), "limit": 4},
        },
    }
    contents = {"recipe": recipe, "experiment": experiment, "eval": evaluation, "answers": answers}
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    options = ["--dataset", data, "--max-examples", "16", "--holdout", "0.4", "--algorithm", "zero-shot"]
    made = folder.parent / "labels.jsonl"
    if not made.exists():
        words = [*options, "--model", model, "--output-dir", str(folder.parent), "--output-name", "labels"]
        subprocess.run([PYTHON, "-m", "icm", "run", *words], check=True, capture_output=True, env=environment(""))
    shutil.copy(made, folder)


def environment(mark: str) -> dict[str, str]:
    """One thread a process, so that sums come in the same order; and a mark on all processes of a trial."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, MARK: mark}


@contextmanager
def two_nodes() -> Iterator[str]:
    """Address of a Ray cluster of two nodes on loopback, each with one CPU, for this process and its children."""
    own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
    os.environ.update(own)
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        yield str(nodes.address)
    finally:
        nodes.shutdown()


def left(mark: str, folder: Path) -> list[psutil.Process]:
    """Processes of a trial that are alive, whoever their parent is now. One that has given itself a title shows no
    environment any more; where it runs stays."""
    found = []
    for process in psutil.process_iter():
        try:
            here = process.cwd() == str(folder) or process.environ().get(MARK) == mark
            if here and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def start(command: Sequence[str], folder: Path, mark: str) -> "subprocess.Popen[bytes]":
    """A run in a session of its own, as from a terminal, that ends with the drill; what it says goes to `log`."""
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            tethered(command), cwd=folder, env=environment(mark), stdout=log, stderr=log, start_new_session=True
        )


def stop(target: Target, folder: Path, number: signal.Signals, moment: float) -> tuple[int, float, str]:
    """Start a run, signal it after `moment` seconds; returns its exit code, seconds until nothing was left, and what
    was left after all."""
    mark = token_hex(8)
    process = start(target.command, folder, mark)
    try:
        process.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        if target.victim:
            found = [one for one in left(mark, folder) if named(one, target.victim)]
            for one in random.sample(found, min(1, len(found))):
                one.send_signal(number)
            process.wait(timeout=STUCK)
        else:
            (os.killpg if target.group else os.kill)(process.pid, number)
    began = time.monotonic()
    while (process.poll() is None or left(mark, folder)) and time.monotonic() - began < LEFT:
        time.sleep(0.05)
    seconds, rest = time.monotonic() - began, left(mark, folder)
    shown = "; ".join(f"{one.pid} {one.status()} {' '.join(one.cmdline())[:120]}" for one in rest)
    for survivor in rest:
        survivor.kill()
    return process.wait(), seconds, shown


def named(process: psutil.Process, beginning: str) -> bool:
    """Whether a process calls itself so."""
    try:
        return (process.cmdline() or [""])[0].startswith(beginning)
    except psutil.Error:
        return False


def finish(target: Target, folder: Path) -> str:
    """Continue a run; returns what is wrong, or nothing."""
    unfinished = target.resumed is not None and (folder / target.resumed[-1]).exists()
    if target.resumed is not None and (folder / target.resumed[-1].replace(".trace", "")).exists():
        return ""
    if target.victim and all((folder / name).exists() for name in target.ends):
        return ""
    process = start(target.resumed if unfinished and target.resumed else target.command, folder, token_hex(8))
    try:
        code = process.wait(timeout=STUCK)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "stuck"
    return f"exit {code}: {(folder / 'log').read_text(errors='replace').strip()[-300:]}" if code else ""


def ends(target: Target, folder: Path) -> list[str]:
    """The files that must be the same, times and costs masked."""
    found = []
    for name in target.ends:
        path = folder / name
        if path.suffix == ".safetensors":
            found.append(file_sha256(path))
            continue
        text = path.read_text(encoding="utf-8").replace(folder.name, "TRIAL")
        if path.name == "results.json":
            text = json.dumps(json.loads(text)["results"])
        if path.name == "metrics.jsonl":
            text = "\n".join(line for line in text.splitlines() if "train_runtime" not in line)
        found.append(_INCIDENTAL.sub("", text))
    return found


def trial(target: Target, folder: Path, number: signal.Signals, moment: float, whole: Sequence[str]) -> tuple[str, str]:
    """One stop and continuation; returns what is wrong (nothing if all is well) and a line for the log."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target.files(folder)
    code, seconds, rest = stop(target, folder, number, moment)
    wrong = f"processes left: {rest}" if rest else ""
    if not wrong and target.ends:
        wrong = finish(target, folder) or ("" if ends(target, folder) == whole else "another end")
    return (
        wrong,
        f"{number.name} after {moment:5.1f} s: exit {code}, all gone after {seconds:4.1f} s: {wrong or 'same'}",
    )


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    text: str
    good: bool


def drill(
    name: str, target: Target, work: Path, signals: Sequence[str], times: int, chance: random.Random
) -> list[Row]:
    """All trials of a target; a row for each signal."""
    whole_run = work / name / "whole"
    shutil.rmtree(work / name, ignore_errors=True)
    whole_run.mkdir(parents=True)
    target.files(whole_run)
    began = time.monotonic()
    wrong = finish(target, whole_run)
    if wrong:
        raise SystemExit(f"{name}: the undisturbed run failed: {wrong}")
    length, whole = time.monotonic() - began, ends(target, whole_run)
    rows = []
    for word in signals:
        found = []
        for place in range(times):
            moment = chance.uniform(0.02, 1.0) * length
            wrong, line = trial(target, work / name / f"{word}{place}", signal.Signals[f"SIG{word}"], moment, whole)
            print(f"  {name}: {line}", flush=True)
            found.append(wrong)
        faults = [wrong for wrong in found if wrong]
        text = f"{name:16} SIG{word:5} {times - len(faults):3} of {times} {'; '.join(sorted(set(faults)))}"
        rows.append(Row(text, not faults))
    return rows


def pairs(work: Path, times: int) -> list[Row]:
    """Two runs started together, `times` times: each must have a result of its own."""
    folder = work / "pairs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [PYTHON, "-m", "icm", "run", "--dataset", "reviews", "--max-examples", "8", "--algorithm", "random"]
    for place in range(times):
        runs = [start([*words, "--seed", str(2 * place + own)], folder, token_hex(8)) for own in (0, 1)]
        codes = [run.wait(STUCK) for run in runs]
        print(f"  pairs: exit {codes}", flush=True)
    results = [path for path in (folder / "icm_results").glob("*.jsonl") if ".trace" not in path.name]
    seeds = {json.loads(path.read_text().partition("\n")[0])["seed"] for path in results}
    return [Row(f"{'pairs':16} {len(results)} results, {len(seeds)} of {2 * times} seeds", len(seeds) == 2 * times)]


def main(words: Sequence[str]) -> int:
    """Run the drills; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"default: all of {', '.join([*targets('', ''), 'pairs'])}")
    parser.add_argument("--signals", nargs="+", default=["KILL", "TERM", "INT"])
    parser.add_argument("--times", type=int, default=3, help="trials of each signal")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", default="reviews")
    parser.add_argument("--work", type=Path, default=Path("drill_output"))
    arguments = parser.parse_args(words)
    # A shell ignores SIGINT in what it starts in the background, and that is inherited where nobody handles it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names, work = arguments.targets or [*targets("", ""), "pairs"], arguments.work.resolve()
    rows: list[Row] = []
    with two_nodes() if {*names} & {*NODES} else nullcontext("") as address:
        known, chance = targets(arguments.model, arguments.data, address), random.Random(arguments.seed)
        for name in names:
            if name == "pairs":
                rows += pairs(work, arguments.times)
            else:
                rows += drill(name, known[name], work, arguments.signals, arguments.times, chance)
    print("\n".join(row.text for row in rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
