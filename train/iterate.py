"""Iterative fine-tuning for data larger than one context (arXiv 2506.10139, section on larger data sets).

    python train/iterate.py --settings SETTINGS.yaml --train_config configs/train/sft_lora.yaml \
        --output_dir DIR --rounds 8 [--scheme kfold] [--accelerate_config configs/accelerate/cpu.yaml]

`grow` (default): label part 1 with the base model; fine-tune the base on parts 1..j; label part j+1 with the result.
`kfold`: label everything with the base model; for each fold fine-tune on the others and label it again.

SETTINGS is a settings file of `icm run`. Every stage keeps its files; run the same command again to continue. The end
is labels.jsonl with all labels, an adapter trained on them, its golden twin where there is gold, and comparison.json.
"""

import argparse
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from icm.engines import create_engine
from icm.errors import ConfigError, ICMError, PrerequisiteError, ResumeError
from icm.examples import GoldLabels, ICMDataset, TaskData
from icm.files import file_sha256, fingerprint, parse_object, write_json
from icm.labelling.metadata import run_record
from icm.labelling.options import Settings
from icm.labelling.session import run_labeling
from icm.labelling.settings import resolve_settings
from icm.prompts import PromptEncoder, shared_context_tree
from icm.results.accuracy import measure_accuracy
from icm.results.format import ICMResult, LabeledExample, read_result, trace_path, write_result
from icm.results.record import RunRecord
from icm.tasks import load_task
from train.checkpoints import is_finished

Scheme = Literal["grow", "kfold"]
RUN = Path(__file__).with_name("run.py")


@dataclass(frozen=True)
class Stage:
    """One labelling: a part of the data, by a model fine-tuned on the labels of earlier stages.

    Attributes:
        name: folder of the stage.
        part: examples to label.
        trained_on: earlier stages whose labels, without those of `part`, the model learns; () is the base model.
    """

    name: str
    part: ICMDataset
    trained_on: tuple[str, ...]


@dataclass(frozen=True)
class Iteration:
    """A whole run.

    Attributes:
        settings: of labelling; `search.batch_size` examples share a context within each part.
        train_config: recipe of train/run.py.
        accelerate_config: layout of training.
        output_dir: where all stages write.
        rounds: parts (or folds), at least 2.
        scheme: `grow` or `kfold`.
    """

    settings: Settings
    train_config: Path
    accelerate_config: Path
    output_dir: Path
    rounds: int
    scheme: Scheme

    @cached_property
    def data(self) -> TaskData:
        """All examples; gold is read by the comparison alone."""
        return load_task(self.settings.data)

    @cached_property
    def stages(self) -> list[Stage]:
        """The labellings in order."""
        parts = split_groups(self.data.dataset, self.rounds, self.settings.search.seed)
        if self.scheme == "kfold":
            folds = [Stage(f"fold_{number}", part, ("base",)) for number, part in enumerate(parts, 1)]
            return [Stage("base", self.data.dataset, ()), *folds]
        names = [f"round_{number}" for number in range(1, self.rounds + 1)]
        return [
            Stage(name, part, tuple(names[:place])) for place, (name, part) in enumerate(zip(names, parts, strict=True))
        ]

    def labels(self, stage: str) -> Path:
        """Result file of a stage."""
        return self.output_dir / stage / "labels.jsonl"


def split_groups(dataset: ICMDataset, parts: int, seed: int) -> list[ICMDataset]:
    """Parts of nearly equal size that share no question.

    Raises:
        ConfigError: fewer questions than parts.
    """
    groups: dict[str, list[Any]] = {}
    for example in dataset:
        groups.setdefault(example.group, []).append(example)
    if not 2 <= parts <= len(groups):
        raise ConfigError(f"rounds: found {parts}, expected from 2 to the number of questions, {len(groups)}")
    names = sorted(groups)
    random.Random(f"parts {seed}").shuffle(names)
    chunks: list[list[Any]] = [[] for _ in range(parts)]
    for name in names:
        min(chunks, key=len).extend(groups[name])
    return [replace(dataset, examples=tuple(chunk)) for chunk in chunks]


def iterate(iteration: Iteration) -> None:
    """Run all stages that are not done, then the comparison.

    Raises:
        ICMError: settings, data or models that cannot be used, or a folder of another run.
    """
    check_folder(iteration)
    for stage in iteration.stages:
        if not iteration.labels(stage.name).exists():
            _label(iteration, stage, _fine_tune(iteration, stage))
        say(f"{stage.name}: {len(stage.part)} labels in {iteration.labels(stage.name)}")
    final = iteration.output_dir / "labels.jsonl"
    last = ["base"] if iteration.scheme == "kfold" else []
    write_result(final, merged_labels(iteration, [s.name for s in iteration.stages if s.name not in last]))
    adapters = {"icm": _train(iteration, final, "labels")}
    if all(example.id in iteration.data.gold for example in iteration.data.dataset):
        adapters["gold"] = _train(iteration, final, "gold")
    write_json(iteration.output_dir / "comparison.json", comparison(iteration, adapters))
    say(f"written: {iteration.output_dir / 'comparison.json'}")


def check_folder(iteration: Iteration) -> None:
    """Name the run in its folder, or refuse the folder of another one."""
    search = asdict(iteration.settings.search)
    identity = {
        "data": iteration.data.dataset.fingerprint,
        **iteration.settings.engine.identity,
        "search": fingerprint(search),
        "train_config": file_sha256(iteration.train_config),
        "rounds": iteration.rounds,
        "scheme": iteration.scheme,
    }
    path = iteration.output_dir / "iteration.json"
    if path.exists():
        earlier = parse_object(path.read_text(encoding="utf-8"), str(path))
        different = [name for name in identity if earlier.get(name) != identity[name]]
        if different:
            raise ResumeError(f"{path}: another run; {', '.join(different)} differ; choose another --output_dir")
    write_json(path, identity | {"settings": asdict(iteration.settings)})


def _fine_tune(iteration: Iteration, stage: Stage) -> Path | None:
    """Adapter for a stage, or None for the base model."""
    if not stage.trained_on:
        return None
    labels = iteration.output_dir / stage.name / "training.jsonl"
    write_result(labels, training_labels(iteration, stage))
    return _train(iteration, labels, "labels")


def training_labels(iteration: Iteration, stage: Stage) -> ICMResult:
    """What the model of a stage learns: the labels of earlier stages without the examples it is to label."""
    own = {example.id for example in stage.part}
    merged = merged_labels(iteration, stage.trained_on)
    kept = [item for item in merged.labeled_examples if item.example.id not in own]
    return replace(merged, labeled_examples=kept)


def merged_labels(iteration: Iteration, stages: Sequence[str]) -> ICMResult:
    """The labels of several stages as one result, in dataset order."""
    results = [read_result(iteration.labels(name)) for name in stages]
    items: dict[str, LabeledExample] = {item.example.id: item for r in results for item in r.labeled_examples}
    first = results[0]
    kept = {name: getattr(first.record, name) for name in ("settings", "model", "data", "prompt", "versions", "seed")}
    record = RunRecord(**kept, created=first.record.created, other={"stages": list(stages)})
    ordered = [items[key] for key in sorted(items)]
    return ICMResult(ordered, None, first.label_space, first.task, record)


def _label(iteration: Iteration, stage: Stage, adapter: Path | None) -> None:
    """Label a part; an interrupted one continues from its trace."""
    settings, path = iteration.settings, iteration.labels(stage.name)
    config = replace(settings.engine, adapter=None if adapter is None else str(adapter))
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = trace_path(path)
    with create_engine(config) as engine:
        header = {**config.identity, "engine": engine.name}
        created = datetime.now(UTC)
        result = run_labeling(
            stage.part, engine, settings.search, trace_path=trace, resume=trace.exists(), header=header
        )
        data = replace(iteration.data, dataset=stage.part)
        record = run_record(result.record, replace(settings, engine=config), data, engine, created)
    write_result(path, replace(result, record=record))


def _train(iteration: Iteration, labels: Path, source: str) -> Path:
    """Fine-tune the base model in a process of its own, so that its memory is free afterwards."""
    output = labels.with_name(f"adapter_{source}")
    if is_finished(output):
        return output
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(iteration.accelerate_config)]
    words = ["--config", str(iteration.train_config), "--labels", str(labels), "--label_source", source]
    done = subprocess.run([*launch, str(RUN), *words, "--output_dir", str(output)])
    if done.returncode:
        raise PrerequisiteError(f"training on {labels} failed (see above); mend it and run the same command again")
    return output


def comparison(iteration: Iteration, adapters: Mapping[str, Path]) -> dict[str, Any]:
    """Label accuracy of every stage; held-out accuracy of base, tuned model and golden twin where data is held out."""
    gold = iteration.data.gold
    stages = [
        {
            "stage": stage.name,
            "examples": len(stage.part),
            "label_accuracy": accuracy_of(iteration.labels(stage.name), gold),
        }
        for stage in iteration.stages
    ]
    whole = accuracy_of(iteration.output_dir / "labels.jsonl", gold)
    held_out = dict(_held_out_accuracies(iteration, {"base": None, **adapters}))
    return {
        "scheme": iteration.scheme,
        "stages": stages,
        "label_accuracy": whole,
        "held_out_accuracy": held_out or None,
    }


def accuracy_of(labels: Path, gold: GoldLabels) -> float | None:
    """Share of right labels among those with gold; None without gold."""
    found = measure_accuracy(read_result(labels).labels, gold)
    return None if found is None else found.value


def _held_out_accuracies(iteration: Iteration, adapters: Mapping[str, Path | None]) -> Iterator[tuple[str, float]]:
    """Zero-shot accuracy on the held-out questions, largest label probability, no calibration."""
    source = iteration.settings.data
    if source.holdout == 0:
        return
    test = load_task(replace(source, part="test", max_examples=None))
    judged = [example for example in test.dataset if example.id in test.gold]
    if not judged:
        return
    for name, adapter in adapters.items():
        config = replace(iteration.settings.engine, adapter=None if adapter is None else str(adapter))
        with create_engine(config) as engine:
            encoder = PromptEncoder(engine.tokenizer, test.dataset.label_space)
            tree = shared_context_tree(encoder.prefix, [encoder.query(example) for example in judged])
            best = engine.score(tree, encoder.label_ids).argmax(axis=1)
        right = [test.dataset.label_space.labels[b] == test.gold[e.id] for b, e in zip(best, judged, strict=True)]
        yield name, sum(right) / len(right)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, required=True, help="settings file of `icm run`")
    parser.add_argument("--train_config", type=Path, required=True, help="recipe of train/run.py")
    parser.add_argument("--accelerate_config", type=Path, default=Path("configs/accelerate/cpu.yaml"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="parts of the data, or folds")
    parser.add_argument("--scheme", choices=("grow", "kfold"), default="grow")
    arguments = vars(parser.parse_args(words))
    try:
        for name in ("train_config", "accelerate_config"):
            if not arguments[name].is_file():
                raise ConfigError(f"--{name} {arguments[name]}: no such file")
        settings = resolve_settings({}, settings_file=arguments.pop("settings"))
        iterate(Iteration(settings=settings, **arguments))
    except ICMError as error:
        say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
