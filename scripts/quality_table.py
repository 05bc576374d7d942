"""How good are the labels? Label accuracy and test accuracy of every labeler, over data, models and seeds.

    python scripts/quality_table.py --data reviews amazon_reviews.jsonl --models embedded embedded:gemma-3-270m \
        --seeds 0 1 2 --examples 64 --output quality

Each seed draws other examples. All labelers of a seed label the same examples, as `icm run` does; `eval/run.py`'s
many-shot conditions judge them on items of the held-out part, of other questions, under --orders demonstration orders.
With --fine-tune these labelers' labels also train an adapter by --recipe: its test accuracy, and the right share of the
labels that it gives the same examples when asked plainly (self-training). Golden and random ones are trained on the
examples that ICM is surest of, where it is among the labelers, as in an experiment.
Label files and evaluations that are in --output are not made again, so take another folder after a change of the code.
An entry of --data that ends in .yaml is a settings file whose `data` section says which data, asked how, for example
{dataset: amazon_reviews.jsonl, holdout: 0.5, template: "Review: {text}\\nClaim: …", verbalisers: {positive: " True"}}.
The first table shows means over seeds, many-shot accuracy as the model gives it and after batch calibration, and for
both the share of the random → golden gap that was recovered. The second one does so over all (data, model, seed), and
pairs ICM with each other labeler. The third one holds what speaks for the labels without gold (`icm.results.trust`)
beside the share that is right.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from eval.evaluator import evaluate
from eval.settings import ConditionConfig, EvalConfig, slug
from icm.config import LabelSource
from icm.engines.devices import gpus
from icm.errors import ICMError
from icm.files import read_object
from icm.labelling.options import Settings
from icm.labelling.run import label
from icm.labelling.settings import resolve_settings
from icm.results.format import read_result, trace_path
from icm.results.trust import Trust, judged
from icm.results.twins import load_gold, need_gold
from icm.secrets import load_secrets

LABELERS = ("random", "zero-shot", "bootstrap", "auto", "icm", "golden")
MEASURES = ("label_accuracy", "test_accuracy", "calibrated_accuracy")
SOURCES: Mapping[str, LabelSource] = {"golden": "gold", "random": "random"}
ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs/train/demo_sft.yaml"


@dataclass(frozen=True)
class Row:
    """One labelling, the share of its labels that are right, many-shot test accuracy as the model gives it and after
    batch calibration, the labelling's cost beside that of the same decisions in plain order, and what speaks for it;
    of the model that was fine-tuned on it test accuracy, calibrated, and the share of its own labels that are right."""

    data: str
    model: str
    seed: int
    labeler: str
    examples: int
    iterations: int
    label_accuracy: float
    test_accuracy: float
    calibrated_accuracy: float
    computed_tokens: float
    plain_tokens: float
    trust: Trust | None = None
    fine_tuned: float | None = None
    self_trained: float | None = None


def main() -> None:
    """Run what is missing, then print the tables."""
    load_secrets(Path.cwd())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["reviews"])
    parser.add_argument("--models", nargs="+", default=["embedded"])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--test-examples", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--labelers", nargs="+", choices=LABELERS, default=list(LABELERS))
    parser.add_argument("--fine-tune", nargs="+", choices=LABELERS, default=[], metavar="LABELER")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("quality"), help="folder of label files and evaluations")
    given = parser.parse_args()
    if not {*given.fine_tune} <= {*given.labelers}:
        parser.error(f"--fine-tune: expected some of the labelers {given.labelers}")
    cells = [(model, data, seed) for model in given.models for seed in given.seeds for data in given.data]
    try:
        rows = [row for cell in cells for row in _cell(given, *cell)]
    except (ICMError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    print(f"{table(rows)}\n\n{comparison(rows)}\n\n{trust_table(rows)}")


def _cell(given: argparse.Namespace, model: str, data: str, seed: int) -> list[Row]:
    """All labelers on the examples of one seed."""
    conditions: list[ConditionConfig] = []
    tuned: dict[str, tuple[ConditionConfig, float]] = {}
    for name in given.labelers:
        # Gold labels have no file of their own: the evaluation shows the examples of another file with them.
        algorithm = "random" if name == "golden" else name
        settings = cell_settings(given, model, data, seed, algorithm)
        file = str(_labelled(settings).resolve())
        conditions.append(ConditionConfig(name, "many-shot", "gold" if name == "golden" else "labels", [file]))
    icm = next((condition.files for condition in conditions if condition.name == "icm"), None)
    for shown in [condition for condition in conditions if condition.name in given.fine_tune]:
        source = SOURCES.get(shown.name, "labels")
        (file,) = (icm if source != "labels" else None) or shown.files or []
        tuned[shown.name] = fine_tuned(settings, given.recipe, f"fine-tuned {shown.name}", source, file)
    asked = [*conditions, *(condition for condition, _ in tuned.values())]
    figures, rows = _evaluated(settings, asked, given), []
    for condition in conditions:
        found, (file,) = figures[slug(condition.name)], condition.files or []
        result = None if condition.name == "golden" else read_result(file)
        usage, trust = (result.record.usage, judged(result)) if result else ({}, None)
        worth = found["demonstration_label_accuracy"][0], found["acc,none"], found["acc,batch"]
        cost = usage.get("computed_tokens", 0), usage.get("plain_tokens", 0)
        row = Row(data, model, seed, condition.name, given.examples, given.iterations, *worth, *cost, trust)
        if condition.name in tuned:
            adapted, self_trained = tuned[condition.name]
            accuracy = figures[slug(adapted.name)]["acc,batch"]
            row = replace(row, fine_tuned=accuracy, self_trained=self_trained)
        rows.append(row)
    return rows


def cell_settings(given: argparse.Namespace, model: str, data: str, seed: int, algorithm: str) -> Settings:
    """How one labeler labels the examples of one seed, and where its label file goes."""
    run = f"seed{seed}_{given.examples}_{given.test_examples}_{given.iterations}_{given.orders}"
    named = data if data.endswith(".yaml") else None
    values: dict[str, object] = {} if named else {"dataset": data, "holdout": 0.0 if data == "reviews" else 0.5}
    values |= {"model": model, "engine": given.engine, "seed": seed, "algorithm": algorithm}
    values |= {"max_examples": given.examples, "max_iterations": given.iterations, "output_name": algorithm}
    values["output_dir"] = str(given.output / slug(model) / slug(data) / run)
    return resolve_settings(values, settings_file=named, environ={})


def _labelled(settings: Settings) -> Path:
    """The label file of these settings, made or continued unless it is there."""
    path = Path(settings.output.output_dir, f"{settings.output.output_name}.jsonl")
    trace = trace_path(path)
    return path if path.exists() else label(settings, trace if trace.exists() else None)


def fine_tuned(
    settings: Settings, recipe: Path, name: str, source: LabelSource, file: str
) -> tuple[ConditionConfig, float]:
    """The condition of the model that was trained on a label file, and the share of the labels it gives the same
    examples, asked plainly, that are right."""
    folder = Path(settings.output.output_dir)
    adapter = folder / f"{slug(name)}_adapter"
    layout = "single_gpu" if gpus() else "cpu"
    launch = ["--config_file", str(ROOT / f"configs/accelerate/{layout}.yaml"), str(ROOT / "train/run.py")]
    words = ["--config", str(recipe), "--labels", file, "--label_source", source, "--output_dir", str(adapter)]
    subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *launch, *words], check=True)
    own = replace(
        settings,
        engine=replace(settings.engine, adapter=str(adapter)),
        search=replace(settings.search, algorithm="zero-shot"),
        output=replace(settings.output, output_name=f"{slug(name)}_labels"),
    )
    result = read_result(_labelled(own))
    golds = need_gold(result, load_gold(result), str(result.file))
    right = float(np.mean([item.label == gold for item, gold in zip(result.labeled_examples, golds, strict=True)]))
    return ConditionConfig(name, "fine-tuned", source, [file], [str(adapter)]), right


def _evaluated(settings: Settings, conditions: list[ConditionConfig], given: argparse.Namespace) -> Mapping[str, Any]:
    """Figures by condition. Answers that are there are not asked for again, so one more labeler costs its own."""
    path = Path(settings.output.output_dir, "results.json")
    found = read_object(path)["results"] if path.exists() else {}
    if {slug(condition.name) for condition in conditions} <= set(found):
        return found
    test = replace(settings.data, part="test", max_examples=given.test_examples)
    seed, folder = settings.search.seed, settings.output.output_dir
    how = {"shots": given.examples, "orders": given.orders, "seeds": (seed,), "output_dir": folder}
    evaluate(EvalConfig(conditions, test, settings.engine, **how))
    return _evaluated(settings, conditions, given)


def table(rows: Sequence[Row]) -> str:
    """Markdown: one line a (data, model, labeler), means over seeds and the recovered gap of the means."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault((row.data, row.model), {}).setdefault(row.labeler, []).append(row)
    lines = [
        "| data | model | n | iterations | labeler | seeds | labels right | many-shot | gap | calibrated | gap "
        "| fine-tuned | self-trained | tokens | plain |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, model), labelers in groups.items():
        for name, found in labelers.items():
            start = f"| {Path(data).name} | {model} | {found[0].examples} | {found[0].iterations}"
            lines.append(f"{start} | {name} | {len(found)} | {_cells(found, labelers)} |")
    return "\n".join(lines)


def _cells(found: Sequence[Row], labelers: dict[str, list[Row]]) -> str:
    def mean(rows: Sequence[Row], field: str) -> float:
        return float(np.mean([getattr(row, field) for row in rows]))

    cells = [f"{mean(found, 'label_accuracy'):.3f}"]
    for field in ("test_accuracy", "calibrated_accuracy"):
        low, high = (mean(labelers.get(name, []) or found, field) for name in ("random", "golden"))
        gap = (mean(found, field) - low) / (high - low) if high > low else None
        cells += [f"{mean(found, field):.3f}", "–" if gap is None else f"{gap:.0%}"]
    for field in ("fine_tuned", "self_trained"):
        cells.append("" if getattr(found[0], field) is None else f"{mean(found, field):.3f}")
    tokens, plain = mean(found, "computed_tokens"), mean(found, "plain_tokens")
    return " | ".join([*cells, f"{tokens:,.0f}", f"{tokens / plain:.3f}" if plain else "–"])


def comparison(rows: Sequence[Row]) -> str:
    """Markdown: means over all (data, model, seed), and ICM minus each other labeler.

    Intervals of the differences are Student's t over (data, seed): models share the examples of these.
    """
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.labeler, []).append(row)
    lines = [
        f"| {len(rows) // len(by_name)} cells | labels right | many-shot | gap | calibrated | gap | fine-tuned "
        "| self-trained | tokens | plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(f"| {name} | {_cells(found, by_name)} |" for name, found in by_name.items()),
    ]
    icm = by_name.pop("icm", [])
    for name, others in by_name.items() if icm else ():
        labels, raw, calibrated = (difference(icm, others, field) for field in MEASURES)
        lines.append(f"| icm − {name} | {labels} | {raw} | | {calibrated} | | | | | |")
    return "\n".join(lines)


def trust_table(rows: Sequence[Row]) -> str:
    """Markdown: verdict without gold beside the share that is right, and Spearman's rank correlation of the two."""
    found = [(row, row.trust) for row in rows if row.trust is not None]
    lines = [
        "| data | model | seed | labeler | verdict | coherence | confirmed | cue | support | labels right |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, trust in found:
        cells = f"{trust.verdict} | {trust.coherence:+.3f} | {trust.agreement:.2f}"
        flag = " (flagged)" if trust.cue.flagged else ""
        cells += f" | {trust.cue.name} {trust.cue.share:.2f}{flag} | {trust.support:.2f}"
        start = f"| {Path(row.data).name} | {row.model} | {row.seed} | {row.labeler}"
        lines.append(f"{start} | {cells} | {row.label_accuracy:.3f} |")
    right = [row.label_accuracy for row, _ in found]
    for name in ("coherence", "agreement", "support") if len(set(right)) > 1 else ():
        correlation = stats.spearmanr([getattr(trust, name) for _, trust in found], right).statistic
        lines.append(f"\nrank correlation of {name} and labels right: {correlation:.2f} over {len(found)} labellings")
    return "\n".join(lines)


def difference(first: Sequence[Any], second: Sequence[Any], field: str) -> str:
    """Mean difference of pairs of rows, each with `data` and `seed`, with its 95 % interval."""
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
