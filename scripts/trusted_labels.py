"""What are a few trusted labels worth? Accuracy of all other labels by how many are given, and how they were chosen.

    python scripts/trusted_labels.py --data truthfulqa.json --model ./qwen --seeds 0 1 2 --counts 4 8 16 \
        --by random uncertainty --labelers bootstrap --output trusted

Each seed draws other examples. They are labelled with nothing given; `icm ask` then chooses examples of that result,
whose gold labels are given as trusted ones to a run that starts anew (with --warm from that result). An entry of --data
that ends in .yaml is a settings file, as in scripts/quality_table.py. With --test-examples the labels of the largest
count, and those found with nothing given, are shown as demonstrations to held-out items, and with --fine-tune trained
on, beside gold ones of the same examples. Label files that are in --output are not made again. Intervals are Student's
t over seeds; `turned` counts the runs most of whose labels are the opposite of those found with nothing given; tokens
are those computed.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from quality_table import RECIPE, fine_tuned
from scipy import stats

from eval.evaluator import evaluate
from eval.settings import ConditionConfig, EvalConfig, slug
from icm.config import LabelSource
from icm.errors import ICMError
from icm.files import read_object, write_jsonl
from icm.labelling.options import Settings
from icm.labelling.run import label
from icm.labelling.settings import resolve_settings
from icm.results.asking import questions
from icm.results.format import ICMResult, read_result, trace_path
from icm.results.twins import load_gold

MEASURES = ("many-shot labels", "many-shot gold", "fine-tuned labels", "fine-tuned gold")


@dataclass(frozen=True)
class Cell:
    """What is the same for the rows of one line of the table."""

    data: str
    labeler: str
    given: str


@dataclass(frozen=True)
class Row:
    """One labelling: accuracy of all labels, of those not given, and of the same examples with nothing given; whether
    they were turned round, and the cost; where it was asked for, calibrated accuracy on held-out items of many-shot
    with these labels and with gold ones, and fine-tuned on them (`MEASURES`)."""

    cell: Cell
    every: float
    right: float
    before: float
    turned: bool
    tokens: float
    shown: Mapping[str, float] = field(default_factory=dict)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--counts", nargs="*", type=int, default=[4, 8, 16])
    parser.add_argument("--by", nargs="+", default=["uncertainty", "influence", "random"])
    parser.add_argument("--labelers", nargs="+", default=["bootstrap", "icm"])
    parser.add_argument("--definitions", help="also label with these (see icm run) and nothing else")
    parser.add_argument("--warm", action="store_true", help="start from the labels found with nothing given")
    parser.add_argument("--test-examples", type=int, default=0, metavar="N", help="held-out items")
    parser.add_argument("--fine-tune", action="store_true", help="on these items also fine-tuned models")
    parser.add_argument("--output", type=Path, default=Path("trusted"))
    given = parser.parse_args()
    rows: list[Row] = []
    try:
        for seed in given.seeds:
            for data in given.data:
                for labeler in given.labelers:
                    rows += _seed(given, data, labeler, seed)
                    print(f"{table(rows)}\n", file=sys.stderr)
    except ICMError as error:
        sys.exit(f"error: {error}")
    print(table(rows))


def _seed(given: argparse.Namespace, data: str, labeler: str, seed: int) -> Iterable[Row]:
    """All labellings of the examples of one seed by one labeler."""
    folder = given.output / slug(given.model) / slug(data) / f"seed{seed}_{given.examples}"

    def labelled(name: str, **more: object) -> tuple[Settings, ICMResult]:
        named = data if data.endswith(".yaml") else None
        common: dict[str, object] = {} if named else {"dataset": data, "holdout": 0.0 if data == "reviews" else 0.5}
        common |= {"model": given.model, "max_examples": given.examples, "seed": seed, "algorithm": labeler, **more}
        common |= {"output_dir": str(folder), "output_name": f"{labeler}_{name}"}
        settings = resolve_settings(common, settings_file=named, environ={})
        path = folder / f"{labeler}_{name}.jsonl"
        trace = trace_path(path)
        if not path.exists():
            label(settings, trace if trace.exists() else None)
        return settings, read_result(path)

    settings, base = labelled("nothing")
    gold = load_gold(base)
    rows = [_row(Cell(data, labeler, "nothing"), settings, base, base, gold, given.test_examples, given.fine_tune)]
    if given.definitions:
        settings, found = labelled("definitions", definitions=given.definitions)
        rows.append(_row(Cell(data, labeler, "definitions"), settings, base, found, gold))
    for by in given.by if given.counts else ():
        asked = [question.item.example.id for question in questions(base, max(given.counts), by, seed)]
        for count in given.counts:
            trusted = folder / f"{labeler}_{by}_{count}.trusted.jsonl"
            write_jsonl(trusted, [{"id": key, "label": gold[key]} for key in asked[:count]])
            more = {"start": base.file} if given.warm else {}
            name = f"{by}_{count}{'_warm' if given.warm else ''}"
            settings, found = labelled(name, trusted=str(trusted), **more)
            items = given.test_examples if count == max(given.counts) else 0
            rows.append(
                _row(Cell(data, labeler, f"{count} by {by}"), settings, base, found, gold, items, given.fine_tune)
            )
    return rows


def _row(
    cell: Cell,
    settings: Settings,
    base: ICMResult,
    result: ICMResult,
    gold: Mapping[str, str],
    items: int = 0,
    tune: bool = False,
) -> Row:
    others = [item for item in result.labeled_examples if not item.trusted]
    right = float(np.mean([item.label == gold[item.example.id] for item in others]))
    before = float(np.mean([base.labels[item.example.id] == gold[item.example.id] for item in others]))
    turned = float(np.mean([item.label != base.labels[item.example.id] for item in others])) > 0.5
    tokens = result.record.usage.get("computed_tokens", 0)
    every = float(np.mean([label == gold[key] for key, label in result.labels.items()]))
    return Row(cell, every, right, before, turned, tokens, _shown(settings, result, items, tune) if items else {})


def _shown(settings: Settings, result: ICMResult, items: int, tune: bool) -> Mapping[str, float]:
    """Calibrated accuracy on held-out items, by condition."""
    file, data = str(result.file), replace(settings.data.without_labels, part="test", max_examples=items)
    folder = f"{file.removesuffix('.jsonl')}_evaluation"
    own = replace(settings, output=replace(settings.output, output_dir=folder))
    sources: tuple[LabelSource, ...] = ("labels", "gold")
    conditions = [ConditionConfig(f"many-shot {source}", "many-shot", source, [file]) for source in sources]
    if tune:
        conditions += [fine_tuned(own, RECIPE, f"fine-tuned {source}", source, file)[0] for source in sources]
    results = Path(folder, "results.json")
    if not results.exists() or len(read_object(results)["results"]) < len(conditions):
        shots, seeds = len(result.labeled_examples), (settings.search.seed,)
        evaluate(EvalConfig(conditions, data, settings.engine, shots=shots, seeds=seeds, output_dir=folder))
    found = read_object(results)["results"]
    return {condition.name: found[slug(condition.name)]["acc,batch"] for condition in conditions}


def table(rows: Iterable[Row]) -> str:
    """Markdown: one line a (data, labeler, what was given), means over seeds."""
    cells: dict[Cell, list[Row]] = {}
    for row in rows:
        cells.setdefault(row.cell, []).append(row)
    lines = [
        "| data | labeler | given | seeds | all right | others right | the same before | turned | tokens "
        f"| {' | '.join(MEASURES)} |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, found in cells.items():
        shown = [[row.shown[name] for row in found if name in row.shown] for name in MEASURES]
        cells_shown = " | ".join(f"{np.mean(values):.3f}" if values else "" for values in shown)
        right, tokens = _interval([row.right for row in found]), np.mean([row.tokens for row in found])
        before, every = (np.mean([getattr(row, name) for row in found]) for name in ("before", "every"))
        start = f"| {Path(cell.data).name} | {cell.labeler} | {cell.given} | {len(found)} | {every:.3f} | {right}"
        turned = sum(row.turned for row in found)
        lines.append(f"{start} | {before:.3f} | {turned} | {tokens:,.0f} | {cells_shown} |")
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    if len({*values}) < 2:
        return f"{np.mean(values):.3f}"
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return f"{np.mean(values):.3f} [{max(0, interval.low):.3f}, {min(1, interval.high):.3f}]"


if __name__ == "__main__":
    main()
