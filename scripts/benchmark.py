"""Cost of leave-one-out scoring and of MC1 and MC2: tokens, seconds.

    python scripts/benchmark.py scoring --model embedded --engine transformers --examples 64 --order tree --json
    python scripts/benchmark.py growth --model embedded --engine accounting --from 8 --to 256 --json
    python scripts/benchmark.py multiple-choice --questions mc_task.json --count 30 --model embedded --engine vllm
    python scripts/benchmark.py contexts --model embedded --examples 64 [--seed 0]

`scoring` is one sweep: every example given all others, in the divide-and-conquer `tree`, in the `natural` order with
shared prefixes, or `plain`, each prompt alone. `growth` adds one example after another, with a sweep after each, as the
search does. `--engine accounting` counts what a perfect prefix cache would compute, without a model. `multiple-choice`
asks so many TruthfulQA questions as an evaluation does. `contexts` tells how many labels of reviews leave-one-out and
shared contexts predict rightly from the gold labels of the others, under three orders, and for how many tokens.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.conditions.pool import EnginePool
from eval.experiment import Experiment
from eval.multiple_choice import held_out_questions
from eval.settings import checked_settings
from icm.config import EngineConfig, SearchConfig
from icm.engines import create_engine
from icm.engines.accounting import AccountingEngine
from icm.engines.base import Engine
from icm.examples import ICMDataset, ICMExample
from icm.models import resolve_model
from icm.prompts import PromptTree, Segment
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


def main() -> None:
    """Parse the command line, run, print."""
    load_secrets(Path.cwd())
    arguments = _parser().parse_args()
    if arguments.benchmark == "contexts":
        for share in predicted(arguments):
            show(share, arguments.json)
        return
    if arguments.benchmark == "multiple-choice":
        show(_multiple_choice(arguments), arguments.json)
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
    show(found, arguments.json)


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
    contexts = commands.add_parser("contexts", help="labels predicted rightly by leave-one-out and by shared contexts")
    contexts.add_argument("--examples", type=int, default=64)
    contexts.add_argument("--seed", type=int, default=0)
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


def accounting(model: str) -> AccountingEngine:
    """An accounting engine with a model's tokenizer."""
    from transformers import PreTrainedTokenizerFast  # not part of what loading takes; AutoTokenizer imports torch

    return AccountingEngine(PreTrainedTokenizerFast.from_pretrained(resolve_model(model)))


def _engine(arguments: argparse.Namespace) -> Engine:
    if arguments.engine == "accounting":
        return accounting(arguments.model)
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


def show(found: object, as_json: bool) -> None:
    """Print a data class, a field a line."""
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
