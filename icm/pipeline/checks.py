"""What training and evaluation refuse of an experiment, asked before anything runs."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icm.config import GenerationConfig
from icm.errors import ConfigError, DataError, ICMError, PrerequisiteError
from icm.labelling.options import build
from icm.pipeline.evaluation import eval_settings, eval_yaml
from icm.pipeline.experiment import PipelineConfig, TrainStage
from icm.pipeline.stages import Stage, train_words
from icm.results.twins import refuse_overlap
from icm.tasks import DataSource, load_task
from icm.tasks.source import with_options_of
from icm.tasks.written import stand_ins

_NEED_GOLD = {"gold", "perturbed"}

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trl.trainer.model_config import ModelConfig

    from eval.settings import EvalConfig
    from icm.labelling.forecast import Writing
    from train.arguments import LabelArguments, TrainingConfig


def check_later_stages(config: PipelineConfig, waiting: Sequence[Stage]) -> None:
    """Let training and evaluation check their settings now, not after hours of labelling.

    Raises:
        ConfigError: what they refuse.
    """
    kinds = {stage.name.split()[0] for stage in waiting}
    if config.train is not None and "train" in kinds:
        for train in config.train.by_name.values():
            check_training(config, train)
    if config.eval is not None and "eval" in kinds:
        check_evaluation(config)


def check_training(config: PipelineConfig, train: TrainStage) -> "tuple[LabelArguments, TrainingConfig, ModelConfig]":
    """The settings of all trainings. Raises ConfigError for what the training refuses."""
    from train.arguments import batch_split, read_settings, training_arguments
    from train.forecast import read_layout

    words = train_words({"labels": "-", **train.overrides})
    settings = read_settings(["--config", train.recipe, *words])
    with _world_size(read_layout(Path(train.accelerate)).cards):
        batch_split(settings)
    own = settings.label_arguments()
    training, model = training_arguments(settings, own.method, config.output_dir, touch_gpus=False)
    if config.label.rounds > 1 and not model.use_peft:
        raise ConfigError(f"{config.path}: label.rounds: {train.recipe} trains no adapter; set use_peft there")
    return own, training, model


@contextlib.contextmanager
def _world_size(processes: int) -> Iterator[None]:
    """The number of ranks as the launcher will tell it to each of them."""
    own = os.environ.get("WORLD_SIZE")
    os.environ["WORLD_SIZE"] = str(processes)
    try:
        yield
    finally:
        del os.environ["WORLD_SIZE"]
        if own is not None:
            os.environ["WORLD_SIZE"] = own


def check_evaluation(config: PipelineConfig) -> "EvalConfig":
    """The settings of the evaluation. Raises ConfigError for what it refuses."""
    from eval.settings import parse_settings

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eval.yaml"
        path.write_text(eval_yaml(config), encoding="utf-8")
        try:
            return parse_settings(["--config", str(path)])
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), f"{config.path}: eval")) from None


def check_rounds(config: PipelineConfig) -> None:
    """Raise ConfigError where each round, a model of its own, would write other claims to label."""
    from icm.labelling.forecast import plan_writing

    if config.label.rounds == 1:
        return
    first = config.settings(config.label.algorithms[0], config.label.seeds[0])
    if plan_writing(first.data, first.generation) is not None:
        raise ConfigError(
            f"{config.path}: label.rounds: a model writes the claims of {first.data.dataset}, and each round's would "
            "write others; write them once (`icm run --algorithm random`), then give their file as data.claims"
        )


def check_gold(config: PipelineConfig) -> None:
    """Refuse what needs true labels where the data have none, hours before they would be read.

    Raises:
        ConfigError: names the key. Where some examples have one it is a warning: which are needed is known only then.
    """
    from icm.labelling.forecast import plan_writing

    recipes = () if config.train is None else config.train.by_name.values()
    conditions = () if config.eval is None else check_evaluation(config).conditions
    keys = ["train.label_sources"] if any(_NEED_GOLD & {*recipe.label_sources} for recipe in recipes) else []
    keys += [
        f"eval.conditions, {c.name!r}" for c in conditions if c.kind == "many-shot" and c.labels_from in _NEED_GOLD
    ]
    first = config.settings(config.label.algorithms[0], config.label.seeds[0])
    try:
        if not keys or plan_writing(first.data, first.generation) is not None:
            return  # what a model writes is right or not by the answer of its question
        data = load_task(first.data)
    except PrerequisiteError:  # a plan is made without the data too, and labelling itself says at once what is missing
        return
    missing = sum(example.id not in data.gold for example in data.dataset)
    found = f"{missing} of {len(data.dataset)} examples of {first.data.dataset} have no true label"
    if missing == len(data.dataset):
        raise ConfigError(f"{config.path}: {'; '.join(keys)}: {found}; leave true labels out (label_sources: [labels])")
    if missing:
        _log.warning("%s: %s; the stage fails if it needs one of them", "; ".join(keys), found)


def check_benchmarks(evaluation: "EvalConfig") -> None:
    """Find the benchmarks and their data now. Raises ICMError for what is not there."""
    from eval.benchmarks.tasks import BenchmarkTasks

    if evaluation.benchmarks is not None:
        _ = BenchmarkTasks(evaluation.benchmarks).benchmarks


def held_out_writing(config: PipelineConfig) -> "Writing | None":
    """Read the held-out data before there are labels; what a model has to write for them, None if nothing.

    Raises:
        ICMError: they cannot be had as the file says; names the keys.
    """
    from icm.labelling.forecast import plan_writing

    asked = eval_settings(config)
    try:
        source = build(DataSource, asked["data"], str(config.path), "eval.data")
        sampling = build(GenerationConfig, asked.get("generation", {}), str(config.path), "eval.generation")
        if (writing := plan_writing(source, sampling)) is None:
            _check_held_out(config, source)
        return writing
    except PrerequisiteError:  # as in `check_gold`
        return None
    except ICMError as error:
        keys = " (here data.holdout, or eval.data.split)" if str(error).startswith(("split", "holdout")) else ""
        advice = with_options_of("eval.data.", str(error))
        raise type(error)(f"{config.path}: the held-out data of eval: {advice}{keys}") from None


def _check_held_out(config: PipelineConfig, source: DataSource) -> None:
    """Refuse held-out data of which nothing could be scored, or that any seed's examples are among."""
    held_out = load_task(source)
    kept = [example for example in held_out.dataset if example.id in held_out.gold]
    if not kept:
        raise DataError(
            f"{source.dataset}: no item has a gold label; nothing to evaluate (eval.data.label_field names the column)"
        )
    for seed in config.label.seeds:
        labelled = config.settings(config.label.algorithms[0], seed).data
        refuse_overlap(load_task(labelled, stand_ins).dataset, kept, f"{labelled.dataset}, seed {seed}")
