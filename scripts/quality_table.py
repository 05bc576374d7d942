"""How good are the labels? Label accuracy and many-shot test accuracy of every labeler, over data, models and seeds.

    python scripts/quality_table.py --data reviews amazon_reviews.jsonl --models embedded embedded:gemma-3-270m \
        --seeds 0 1 2 --examples 64 --output quality.jsonl

Each seed draws other examples. All labelers of a seed label the same examples; the test items are those of the
held-out part, of other questions. One row a run is appended to --output; runs that are there are not repeated, so
take another file after a change of the code. The first table shows means over seeds, many-shot test accuracy as the
model gives it and after batch calibration, and for both the share of the random → golden gap that was recovered. The
second one does so over everything that all labelers have labelled, and pairs ICM with each other labeler.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from icm.calibration import calibrate, label_bias
from icm.config import EngineConfig, SearchConfig
from icm.engines import create_engine
from icm.engines.base import Engine
from icm.examples import GoldLabels, ICMDataset
from icm.files import append_jsonl, read_jsonl
from icm.labelling.session import run_labeling
from icm.search.scoring import Scorer, draw_order
from icm.tasks import load_task
from icm.tasks.source import DataSource

LABELERS = ("random", "zero-shot", "bootstrap", "icm", "golden")
MEASURES = ("label_accuracy", "test_accuracy", "calibrated_accuracy")
UNSEEN_ORDERS = (101, 102)
"""Seeds of the demonstration orders in which labels are judged; no search draws from them."""


@dataclass(frozen=True)
class Row:
    """One labelling and what it is worth.

    Attributes:
        data, model, seed, labeler, examples, iterations, test_examples: the run.
        label_accuracy: share of labels that equal gold.
        test_accuracy: many-shot accuracy on held-out items, argmax of the label probabilities, mean over orders.
        calibrated_accuracy: the same after batch calibration over the test items.
        computed_tokens, plain_tokens: cost of the labelling, and of the same decisions in plain order.
        seconds: time inside the engine.
    """

    data: str
    model: str
    seed: int
    labeler: str
    examples: int
    iterations: int
    test_examples: int
    label_accuracy: float
    test_accuracy: float
    calibrated_accuracy: float
    computed_tokens: int
    plain_tokens: int
    seconds: float


def main() -> None:
    """Run what is missing, then print the table of everything in the output file."""
    arguments = _parser().parse_args()
    rows = _read(arguments.output)
    done = {(r.data, r.model, r.seed, r.labeler, r.examples, r.iterations, r.test_examples) for r in rows}
    for model in arguments.models:
        cells = [(data, seed) for seed in arguments.seeds for data in arguments.data]
        missing = [c for c in cells if any(_key(c, model, name, arguments) not in done for name in arguments.labelers)]
        if not missing:
            continue
        with create_engine(EngineConfig(model=model, engine=arguments.engine)) as engine:
            for data, seed in missing:
                wanted = [n for n in arguments.labelers if _key((data, seed), model, n, arguments) not in done]
                rows += _run(engine, model, data, seed, wanted, arguments)
    print(f"{table(rows)}\n\n{comparison(rows)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["reviews"])
    parser.add_argument("--models", nargs="+", default=["embedded"])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--test-examples", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--labelers", nargs="+", choices=LABELERS, default=list(LABELERS))
    parser.add_argument("--output", type=Path, default=Path("quality.jsonl"))
    return parser


def _key(cell: tuple[str, int], model: str, labeler: str, arguments: argparse.Namespace) -> tuple[object, ...]:
    return cell[0], model, cell[1], labeler, arguments.examples, arguments.iterations, arguments.test_examples


def _run(
    engine: Engine, model: str, data: str, seed: int, labelers: Sequence[str], arguments: argparse.Namespace
) -> list[Row]:
    source = DataSource(data, holdout=0.0 if data == "reviews" else 0.5, seed=seed)
    train = load_task(replace(source, max_examples=arguments.examples))
    test = load_task(replace(source, part="test", max_examples=arguments.test_examples))
    rows = []
    for name in labelers:
        before = replace(engine.usage)
        labels, plain = _label(engine, train.dataset, train.gold, name, seed, arguments.iterations)
        cost = engine.usage.computed_tokens - before.computed_tokens, engine.usage.seconds - before.seconds
        accuracy = [
            _many_shot(engine, train.dataset, labels, test.dataset, test.gold, order) for order in UNSEEN_ORDERS
        ]
        row = Row(
            data=data,
            model=model,
            seed=seed,
            labeler=name,
            examples=arguments.examples,
            iterations=arguments.iterations,
            test_examples=arguments.test_examples,
            label_accuracy=float(np.mean([labels[e.id] == train.gold[e.id] for e in train.dataset])),
            test_accuracy=float(np.mean([raw for raw, _ in accuracy])),
            calibrated_accuracy=float(np.mean([calibrated for _, calibrated in accuracy])),
            computed_tokens=cost[0],
            plain_tokens=plain,
            seconds=cost[1],
        )
        with arguments.output.open("a", encoding="utf-8") as handle:
            append_jsonl(handle, asdict(row))
        print(
            f"{row.data} {model} seed {seed} {name}: labels {row.label_accuracy:.3f} test {row.test_accuracy:.3f}",
            flush=True,
        )
        rows.append(row)
    return rows


def _label(
    engine: Engine, dataset: ICMDataset, gold: GoldLabels, name: str, seed: int, iterations: int
) -> tuple[dict[str, str], int]:
    """Labels by example id, and the tokens plain order would have cost."""
    if name == "golden":
        return dict(gold), 0
    config = SearchConfig(algorithm=name, seed=seed, max_iterations=iterations)  # type: ignore[arg-type]
    result = run_labeling(dataset, engine, config)
    return result.labels, int(result.record.usage["plain_tokens"])


def _many_shot(
    engine: Engine, train: ICMDataset, labels: dict[str, str], test: ICMDataset, gold: GoldLabels, order_seed: int
) -> tuple[float, float]:
    """Raw and calibrated accuracy on the test items with the labelled examples as demonstrations."""
    both = ICMDataset([*train, *test], train.label_space)
    position = {example.id: number for number, example in enumerate(both)}
    scorer = Scorer(engine, both, SearchConfig())
    demonstrations = {position[example.id]: labels[example.id] for example in train}
    order = draw_order(demonstrations, np.random.default_rng(order_seed))
    asked = [example for example in test if example.id in gold]
    tree = scorer.trees(demonstrations).given_all(order, [position[example.id] for example in asked])
    scores = engine.score(tree, scorer.encoder.label_ids)
    truth = np.array([train.label_space.index(gold[example.id]) for example in asked])
    calibrated = calibrate(scores, label_bias(scores))
    return float((scores.argmax(axis=1) == truth).mean()), float((calibrated.argmax(axis=1) == truth).mean())


def _read(path: Path) -> list[Row]:
    return [Row(**row) for _, row in read_jsonl(path)] if path.exists() else []


def table(rows: Iterable[Row]) -> str:
    """Markdown: one line a (data, model, labeler), means over seeds and the recovered gap of the means."""
    groups: dict[tuple[str, str, int, int, int], dict[str, list[Row]]] = {}
    for row in rows:
        run = row.data, row.model, row.examples, row.iterations, row.test_examples
        groups.setdefault(run, {}).setdefault(row.labeler, []).append(row)
    lines = [
        "| data | model | n | iterations | labeler | seeds | labels right | many-shot | gap | calibrated | gap "
        "| tokens | plain |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, model, examples, iterations, _), labelers in groups.items():
        for name, found in labelers.items():
            cells = _cells(found, labelers)
            start = f"| {Path(data).name} | {model} | {examples} | {iterations}"
            lines.append(f"{start} | {name} | {len(found)} | {cells} |")
    return "\n".join(lines)


def _cells(found: Sequence[Row], labelers: dict[str, list[Row]]) -> str:
    def mean(rows: Sequence[Row], field: str) -> float:
        return float(np.mean([getattr(row, field) for row in rows]))

    cells = [f"{mean(found, 'label_accuracy'):.3f}"]
    for field in ("test_accuracy", "calibrated_accuracy"):
        low, high = (mean(labelers.get(name, []) or found, field) for name in ("random", "golden"))
        gap = (mean(found, field) - low) / (high - low) if high > low else None
        cells += [f"{mean(found, field):.3f}", "–" if gap is None else f"{gap:.0%}"]
    tokens, plain = mean(found, "computed_tokens"), mean(found, "plain_tokens")
    return " | ".join([*cells, f"{tokens:,.0f}", f"{tokens / plain:.3f}" if plain else "–"])


def comparison(rows: Sequence[Row]) -> str:
    """Markdown: means over the (data, model, seed) that all labelers share, and ICM minus each other labeler.

    Intervals of the differences are Student's t over (data, seed): models share the examples of these.
    """
    names = [name for name in LABELERS if any(row.labeler == name for row in rows)]
    cells: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        cell = row.data, row.seed, row.model, row.examples, row.iterations, row.test_examples
        cells.setdefault(cell, {})[row.labeler] = row
    shared = [found for found in cells.values() if len(found) == len(names)]
    if not shared:
        return "No cell that all labelers have labelled: nothing to compare."
    by_name = {name: [found[name] for found in shared] for name in names}
    lines = [
        f"| {len(shared)} of {len(cells)} cells | labels right | many-shot | gap | calibrated | gap | tokens | plain |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {name} | {_cells(found, by_name)} |" for name, found in by_name.items()),
    ]
    icm = by_name.pop("icm", [])
    for name, others in by_name.items() if icm else ():
        labels, raw, calibrated = (_difference(icm, others, field) for field in MEASURES)
        lines.append(f"| icm − {name} | {labels} | {raw} | | {calibrated} | | | |")
    return "\n".join(lines)


def _difference(first: Sequence[Row], second: Sequence[Row], field: str) -> str:
    """Mean difference of pairs with its 95 % interval."""
    pairs: dict[tuple[str, int], list[float]] = {}
    for one, other in zip(first, second, strict=True):
        pairs.setdefault((one.data, one.seed), []).append(getattr(one, field) - getattr(other, field))
    means = [float(np.mean(differences)) for differences in pairs.values()]
    value = f"{np.mean(means):+.3f}"
    if len(set(means)) < 2:
        return value
    interval = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    return f"{value} [{interval.low:+.3f}, {interval.high:+.3f}]"


if __name__ == "__main__":
    main()
