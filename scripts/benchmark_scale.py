"""Cost of large data and of many results: seconds, memory, bytes.

    python scripts/benchmark_scale.py loading --lines 1000000 [--workers 64]
    python scripts/benchmark_scale.py analysis --results 2000
    python scripts/benchmark_scale.py workers --examples 30000 --workers 8 --output-dir FOLDER [--kill-at 0.5]

`loading` makes a file of so many texts and plans its labelling over so many workers, as `icm run --dry-run` does;
`analysis` is `icm analyze` over a folder of so many results. `workers` labels so many texts over Ray with the
accounting engine, which counts what a perfect prefix cache would compute, without a model; with `--kill-at` it kills
itself when that share of the searches is done, and the same command without it goes on from there.
"""

import argparse
import io
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import psutil
from benchmark import accounting, show

from icm.commands.results import show_analysis
from icm.config import EngineConfig, GenerationConfig, SearchConfig, WorkersConfig
from icm.engines import create_engine
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.files import fingerprint, write_jsonl
from icm.labelling.batches import split_batches
from icm.labelling.forecast import plan_run
from icm.labelling.options import OutputConfig, Settings
from icm.labelling.session import Progress, run_labeling
from icm.labelling.unit import Job
from icm.labelling.workers import Workers
from icm.results.format import ICMResult, LabeledExample, write_result
from icm.results.record import DataRecord, RunRecord
from icm.results.trace import Unit
from icm.results.units import Trace
from icm.tasks import load_task
from icm.tasks.source import DataSource


@dataclass(frozen=True)
class Load:
    """Cost of one step over large data.

    Attributes:
        step: what was done.
        count: examples, batches or results that it led to.
        cpu_seconds: of the step.
        peak_mib: largest resident memory of the process so far.
    """

    step: str
    count: int
    cpu_seconds: float
    peak_mib: int


@dataclass(frozen=True)
class Scaled:
    """Cost of a labelling over workers.

    Attributes:
        units: searches, and of them those that an earlier, killed command had finished.
        to_know: seconds to read what an earlier command left.
        to_first_search: seconds from the start of the command's work until a worker has its first search.
        to_first_row: likewise, until that says something: behind a bootstrap, where it had not begun.
        seconds: in all.
        cpu_seconds: of the command and of all workers.
        driver_mib: largest resident memory of the command.
        trace_bytes: when it is done.
        labels: hash of what was found.
    """

    units: int
    units_before: int
    to_know: float
    to_first_search: float
    to_first_row: float
    seconds: float
    cpu_seconds: float
    driver_mib: int
    trace_bytes: int
    labels: str


def main() -> None:
    """Parse the command line, run, print."""
    arguments = _parser().parse_args()
    if arguments.benchmark == "workers":
        show(_over_workers(arguments), arguments.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        steps = _loading if arguments.benchmark == "loading" else _analysis
        for load in steps(arguments, Path(folder)):
            show(load, arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    loading = commands.add_parser("loading", help="a large file")
    loading.add_argument("--lines", type=int, default=1_000_000)
    loading.add_argument("--max-examples", type=int)
    loading.add_argument("--workers", type=int, default=64)
    analysis = commands.add_parser("analysis", help="a folder of many results")
    analysis.add_argument("--results", type=int, default=2000)
    analysis.add_argument("--examples", type=int, default=64)
    workers = commands.add_parser("workers", help="a labelling over Ray")
    workers.add_argument("--examples", type=int, default=30_000)
    workers.add_argument("--workers", type=int, default=8, help="0 labels in this process")
    workers.add_argument("--output-dir", type=Path, required=True)
    workers.add_argument("--kill-at", type=float)
    for command in (loading, analysis, workers):
        command.add_argument("--json", action="store_true", help="print one JSON object a step")
    return parser


def _loading(arguments: argparse.Namespace, folder: Path) -> Iterator[Load]:
    path = folder / "large.jsonl"
    texts = (f"Note {n}: the parcel came {n % 7} days late, dented on side {n % 6}." for n in range(arguments.lines))
    write_jsonl(path, ({"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)))
    create_engine(EngineConfig("embedded")).close()  # imports, which are no cost of the data
    source = DataSource(str(path), max_examples=arguments.max_examples)
    settings = Settings(source, SearchConfig(), EngineConfig("embedded"), GenerationConfig(), OutputConfig())
    started, loaded = time.process_time(), list[Load]()
    plan = plan_run(
        settings,
        on_data=lambda data: loaded.append(_load("load", len(data.dataset), started)),
        workers=WorkersConfig(arguments.workers),
    )
    yield from loaded
    spent = sum(load.cpu_seconds for load in loaded)
    yield _load(f"split and plan over {arguments.workers} workers", len(plan.batches), started + spent)


def _analysis(arguments: argparse.Namespace, folder: Path) -> Iterator[Load]:
    """Results of the built-in reviews with gold for labels; a run would take a second each."""
    data = load_task(DataSource("reviews", max_examples=arguments.examples))
    items = [LabeledExample(example, data.gold[example.id], 1.0) for example in data.dataset]
    record = RunRecord(data=DataRecord(DataSource("reviews")))
    for number in range(arguments.results):
        result = ICMResult(items, None, data.dataset.label_space, data.dataset.task, record)
        write_result(folder / f"made{number}.jsonl", result)
    started = time.process_time()
    with redirect_stdout(io.StringIO()):
        show_analysis(argparse.Namespace(output_path=None, result_file=None, results_dir=str(folder), task_type=None))
    yield _load("icm analyze", arguments.results, started)


def _load(step: str, count: int, started: float) -> Load:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    return Load(step, count, round(time.process_time() - started, 1), peak)


class _Timed(Workers):
    """Workers that note when they begin searches."""

    begun: ClassVar[list[float]] = []

    def label(self, units: Sequence[Unit], job: Callable[[Unit], Job | None], *more: Any) -> None:
        """See `Workers.label`."""

        def noted(unit: Unit) -> Job | None:
            self.begun.append(time.monotonic())
            return job(unit)

        super().label(units, noted, *more)


def _over_workers(arguments: argparse.Namespace) -> Scaled:
    texts = (f"Note {n}: the parcel came {n % 7} days late, dented on side {n % 6}." for n in range(arguments.examples))
    dataset = ICMDataset([ICMExample(text) for text in texts], LabelSpace(), "notes", "classification")
    path = arguments.output_dir / "l.trace.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    make, resume, began = partial(accounting, "embedded"), path.exists(), time.monotonic()
    batches, first, units = split_batches(dataset, make(), SearchConfig()), list[float](), list[int]()

    def seen(progress: Progress) -> None:
        if not first:
            first.append(time.monotonic() - began)
            units.append(progress.finished)
        if arguments.kill_at and progress.finished >= arguments.kill_at * progress.units:
            os.kill(os.getpid(), signal.SIGKILL)

    reading = time.monotonic()
    Trace(path if resume else None)
    to_know = time.monotonic() - reading
    with ExitStack() as stack:
        config = WorkersConfig(arguments.workers or 1)
        engine = stack.enter_context(_Timed(make, config, gpus=0)).load() if arguments.workers else make()
        result = run_labeling(
            dataset, engine, SearchConfig(), trace_path=path, resume=resume, on_progress=seen, batches=batches
        )
        spent = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    own = time.process_time() + sum(times.user + times.system for times in spent)
    return Scaled(
        len(batches),
        units[0] if units else len(batches),
        round(to_know, 2),
        round(engine.begun[0] - began if isinstance(engine, _Timed) and engine.begun else 0.0, 1),
        round(first[0] if first else 0.0, 1),
        round(time.monotonic() - began, 1),
        round(own, 1),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,
        path.stat().st_size,
        fingerprint(result.labels),
    )


if __name__ == "__main__":
    main()
