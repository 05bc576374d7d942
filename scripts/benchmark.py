"""Cost of leave-one-out scoring, of MC1 and MC2, of large data, and of many results: tokens, seconds, memory.

    python scripts/benchmark.py scoring --model embedded --engine transformers --examples 64 --order tree --json
    python scripts/benchmark.py growth --model embedded --engine accounting --from 8 --to 256 --json
    python scripts/benchmark.py multiple-choice --questions mc_task.json --count 30 --model embedded --engine vllm
    python scripts/benchmark.py loading --lines 1000000 [--workers 64]
    python scripts/benchmark.py analysis --results 2000
    python scripts/benchmark.py contexts --model embedded --examples 64 [--seed 0]
    python scripts/benchmark.py workers --examples 30000 --workers 8 --output-dir FOLDER [--kill-at 0.5]

`scoring` is one sweep: every example given all others, in the divide-and-conquer `tree`, in the `natural` order with
shared prefixes, or `plain`, each prompt alone. `growth` adds one example after another, with a sweep after each, as the
search does. `--engine accounting` counts what a perfect prefix cache would compute, without a model. `multiple-choice`
asks so many TruthfulQA questions as an evaluation does. `loading` makes a file of so many texts and plans its labelling
over so many workers, as `icm run --dry-run` does; `analysis` is `icm analyze` over a folder of so many results.
`contexts` tells how many labels of reviews leave-one-out and shared contexts predict rightly from the gold labels of
the others, under three orders, and for how many tokens. `workers` labels so many texts over Ray with the accounting
engine; with `--kill-at` it kills itself when that share of the searches is done, and the same command without it goes
on from there.
"""

import argparse
import io
import json
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

import numpy as np
import psutil

from eval.conditions.pool import EnginePool
from eval.experiment import Experiment
from eval.multiple_choice import held_out_questions
from eval.settings import checked_settings
from icm.commands.results import show_analysis
from icm.config import EngineConfig, GenerationConfig, SearchConfig, WorkersConfig
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.base import Engine
from icm.examples import ICMDataset, ICMExample, LabelSpace
from icm.files import fingerprint, write_jsonl
from icm.labelling.batches import split_batches
from icm.labelling.forecast import plan_run
from icm.labelling.options import OutputConfig, Settings
from icm.labelling.session import Progress, run_labeling
from icm.labelling.unit import Job
from icm.labelling.workers import Workers
from icm.models import resolve_model
from icm.prompts import PromptTree, Segment
from icm.results.format import ICMResult, LabeledExample, write_result
from icm.results.record import DataRecord, RunRecord
from icm.results.trace import Unit
from icm.results.units import Trace
from icm.search.scoring import Labels, Scorer
from icm.search.simple import argmax_labels
from icm.search.trees import Order, draw_order
from icm.secrets import load_secrets
from icm.tasks import load_task
from icm.tasks.source import DataSource


@dataclass(frozen=True)
class Measurement:
    """Cost of one benchmark run.

    Attributes:
        examples: demonstrations and prompts of the (last) sweep.
        mean_demonstration_tokens: tokens of a demonstration, on average.
        prompt_tokens: tokens of all prompts, each counted whole.
        computed_tokens: tokens that went through the model.
        seconds: wall clock.
    """

    examples: int
    mean_demonstration_tokens: float
    prompt_tokens: int
    computed_tokens: int
    seconds: float


@dataclass(frozen=True)
class Asked:
    """Cost of MC1 and MC2, and what came out.

    Attributes:
        questions, answers: asked and scored.
        prompts: that the engine was given.
        prompt_tokens, computed_tokens: see `Measurement`.
        seconds: inside the engine, without its start.
        mc1, mc2: means over the questions.
    """

    questions: int
    answers: int
    prompts: int
    prompt_tokens: int
    computed_tokens: int
    seconds: float
    mc1: float
    mc2: float


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
    load_secrets(Path.cwd())
    arguments = _parser().parse_args()
    if arguments.benchmark in ("loading", "analysis"):
        with tempfile.TemporaryDirectory() as folder:
            steps = _loading if arguments.benchmark == "loading" else _analysis
            for load in steps(arguments, Path(folder)):
                _print(load, arguments.json)
        return
    if arguments.benchmark == "contexts":
        for share in predicted(arguments):
            _print(share, arguments.json)
        return
    if arguments.benchmark == "workers":
        _print(_over_workers(arguments), arguments.json)
        return
    if arguments.benchmark == "multiple-choice":
        _print(_multiple_choice(arguments), arguments.json)
        return
    with _engine(arguments) as engine:
        scorer = _scorer(engine, arguments.examples if arguments.benchmark == "scoring" else arguments.to)
        before, started = (engine.usage.prompt_tokens, engine.usage.computed_tokens), time.perf_counter()
        if arguments.benchmark == "scoring":
            _sweep(scorer, arguments.order)
        else:
            _grow(scorer, getattr(arguments, "from"))
        found = Measurement(
            len(scorer.dataset),
            _mean_length(scorer),
            engine.usage.prompt_tokens - before[0],
            engine.usage.computed_tokens - before[1],
            time.perf_counter() - started,
        )
    _print(found, arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    scoring = commands.add_parser("scoring", help="one sweep")
    scoring.add_argument("--examples", type=int, default=64)
    scoring.add_argument("--order", choices=["tree", "natural", "plain"], default="tree")
    growth = commands.add_parser("growth", help="a whole growth phase")
    growth.add_argument("--from", type=int, default=8)
    growth.add_argument("--to", type=int, default=256)
    asking = commands.add_parser("multiple-choice", help="MC1 and MC2")
    asking.add_argument("--questions", required=True)
    asking.add_argument("--count", type=int, default=30)
    asking.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    loading = commands.add_parser("loading", help="a large file")
    loading.add_argument("--lines", type=int, default=1_000_000)
    loading.add_argument("--max-examples", type=int)
    loading.add_argument("--workers", type=int, default=64)
    contexts = commands.add_parser("contexts", help="labels predicted rightly by leave-one-out and by shared contexts")
    contexts.add_argument("--examples", type=int, default=64)
    contexts.add_argument("--seed", type=int, default=0)
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
    for command in (scoring, growth):
        command.add_argument("--engine", choices=["accounting", "transformers", "vllm"], default="accounting")
    for command in (scoring, growth, asking, contexts):
        command.add_argument("--model", default="embedded")
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _multiple_choice(arguments: argparse.Namespace) -> Asked:
    content = {
        "conditions": [{"name": "Base", "kind": "zero-shot"}],
        "data": {"dataset": "reviews"},  # what an evaluation asks beside the benchmark
        "engine": {"model": arguments.model, "engine": arguments.engine},
        "multiple_choice": {
            "questions": arguments.questions,
            "conditions": ["Base"],
            "max_questions": arguments.count,
        },
    }
    experiment = Experiment(checked_settings(content, "benchmark"))
    benchmark, run = held_out_questions(experiment), experiment.runs[0]
    with EnginePool() as engines:
        usage = engines.get(experiment.settings.engine).usage
        answers = [answer for batch in benchmark.answer(run, list(benchmark.ids), engines) for answer in batch.answers]
    found = [(benchmark.ids[answer.id], answer.log_probs or ()) for answer in answers]
    return Asked(
        len(found),
        sum(len(values) for _, values in found),
        usage.prompts,
        usage.prompt_tokens,
        usage.computed_tokens,
        usage.seconds,
        float(np.mean([question.mc1(values) for question, values in found])),
        float(np.mean([question.mc2(values) for question, values in found])),
    )


def _loading(arguments: argparse.Namespace, folder: Path) -> Iterator[Load]:
    path = folder / "large.jsonl"
    texts = (f"Note {n}: the parcel came {n % 7} days late, dented on side {n % 6}." for n in range(arguments.lines))
    write_jsonl(path, ({"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)))
    import transformers  # noqa: F401  its start is no cost of the data

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
        show_analysis(argparse.Namespace(output_path=None, result_file=None, results_dir=str(folder)))
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
    make, resume, began = partial(_accounting, "embedded"), path.exists(), time.monotonic()
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


@dataclass(frozen=True)
class Predicted:
    """What the gold labels of others say of each: share right under each order, and tokens of an order."""

    scoring: str
    right: list[float]
    tokens: int


def predicted(arguments: argparse.Namespace) -> Iterator[Predicted]:
    """Leave-one-out, and contexts of 4, 8, 16 examples."""
    data = load_task(DataSource("reviews", max_examples=arguments.examples, seed=arguments.seed))
    gold = {position: data.gold[example.id] for position, example in enumerate(data.dataset)}
    with create_engine(EngineConfig(model=arguments.model)) as engine:
        for shots in (None, 4, 8, 16):
            scorer = Scorer(engine, data.dataset, SearchConfig(shots=shots))
            before, right = engine.usage.computed_tokens, []
            for turn in range(3):
                sweep = scorer.sweep(gold, scorer.draw(gold, np.random.default_rng(turn)))
                found = argmax_labels(sweep.log_probs, sweep.labels)
                right.append(round(float(np.mean([found[row] == gold[p] for row, p in enumerate(sweep.positions)])), 3))
                scorer.forget()
            spent = (engine.usage.computed_tokens - before) // 3
            yield Predicted(f"{shots or 'all other'} examples a context", right, spent)


def _accounting(model: str) -> AccountingEngine:
    from transformers import PreTrainedTokenizerFast  # not part of what loading takes; AutoTokenizer imports torch

    return AccountingEngine(PreTrainedTokenizerFast.from_pretrained(resolve_model(model)))


def _engine(arguments: argparse.Namespace) -> Engine:
    if arguments.engine == "accounting":
        return _accounting(arguments.model)
    return create_engine(EngineConfig(model=arguments.model, engine=arguments.engine))


def _scorer(engine: Engine, count: int) -> Scorer:
    """Reviews as demonstrations; beyond the data set's size they are numbered to stay distinct."""
    reviews = load_task(DataSource("reviews")).dataset
    examples = [reviews[number % len(reviews)] for number in range(count)]
    rounds = [number // len(reviews) for number in range(count)]
    distinct = [
        ICMExample(e.input.replace("Review:", f"Review ({turn}):") if turn else e.input)
        for e, turn in zip(examples, rounds, strict=True)
    ]
    dataset = ICMDataset(distinct, reviews.label_space, "reviews")
    return Scorer(engine, dataset, SearchConfig(shots=None))


def _labels(scorer: Scorer) -> Labels:
    """Alternating labels: cost does not depend on them."""
    names = scorer.dataset.label_space.labels
    return {position: names[position % len(names)] for position in range(len(scorer.dataset))}


def _sweep(scorer: Scorer, kind: str) -> None:
    labels = _labels(scorer)
    order = draw_order(labels, np.random.default_rng(0))
    if kind == "tree":
        scorer.sweep(labels, order)
        return
    tree = natural_tree(scorer, labels, order.positions)
    if kind == "plain":
        tree = separate(tree)
    scorer.engine.score_labels(tree, scorer.encoder.labels)


def natural_tree(scorer: Scorer, labels: Labels, positions: Sequence[int]) -> PromptTree:
    """Leave-one-out in the given order: prompt i shares the demonstrations before i with the later prompts."""
    trees = scorer.trees(labels)
    spine: tuple[PromptTree, ...] = ()
    for row in reversed(range(len(positions))):
        later: Segment = tuple(token for p in positions[row + 1 :] for token in trees.demonstration(p))
        branch = PromptTree(later + trees.query(positions[row]), query=row)
        spine = (branch, PromptTree(trees.demonstration(positions[row]), spine)) if spine else (branch,)
    return PromptTree(trees.prefix, spine)


def separate(tree: PromptTree) -> PromptTree:
    """The same prompts without shared prefixes; a first token of its own keeps each from an engine's prefix cache."""
    return PromptTree((), tuple(PromptTree((100 + query, *prompt), query=query) for query, prompt in tree.paths()))


def _grow(scorer: Scorer, start: int) -> None:
    names = scorer.dataset.label_space.labels
    labels: dict[int, str] = {position: names[position % len(names)] for position in range(start)}
    order: Order = draw_order(labels, np.random.default_rng(0))
    sweep = scorer.sweep(labels, order)
    for position in range(start, len(scorer.dataset)):
        if scorer.outgrown(sweep, order):
            order = draw_order(labels, np.random.default_rng(position))
            sweep = scorer.sweep(labels, order)
        best = int(scorer.proposals(labels, sweep, order, [position]).argmax())
        labels, order = {**labels, position: names[best]}, order.append([position])
        sweep = scorer.sweep(labels, order)
        scorer.forget()


def _mean_length(scorer: Scorer) -> float:
    demonstration, labels = scorer.encoder.demonstration, _labels(scorer)
    return float(np.mean([len(demonstration(scorer.dataset[p], label)) for p, label in labels.items()]))


def _print(found: Measurement | Asked | Load | Predicted | Scaled, as_json: bool) -> None:
    if as_json:
        print(json.dumps(vars(found)))
        return
    for name, value in vars(found).items():
        shown = (
            str(value)
            if isinstance(value, str | list)
            else f"{value:,.1f}"
            if isinstance(value, float)
            else f"{value:,}"
        )
        print(f"{name:28} {shown}")


if __name__ == "__main__":
    main()
