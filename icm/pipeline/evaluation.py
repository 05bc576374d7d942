"""The evaluation of an experiment: the settings of `eval/run.py` that follow from its other sections."""

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from icm.config import EngineConfig, GenerationConfig, WorkersConfig
from icm.errors import ConfigError
from icm.labelling.options import build
from icm.pipeline.experiment import PipelineConfig
from icm.pipeline.trainings import adapter_folder, all_trainings, label_file, trained_model
from icm.results.origin import other_source, same_data
from icm.tasks.reading import has_column
from icm.tasks.source import DataSource, written

_WORKERS = {field.name for field in fields(WorkersConfig)}


def held_out_data(config: PipelineConfig) -> dict[str, Any]:
    """Data source of the evaluation: that of the labelling, its other part, and what `eval.data` says. Another data set
    there is taken whole where it has no splits (`other_source`), and read by its own columns.

    Raises:
        ConfigError: `eval.data` asks for another prompt than the labels are made with.
    """
    source = replace(config.settings(config.label.algorithms[0], 0).data.whole, part="test")
    given = (config.eval or {}).get("data", {})
    for name in ("template", "verbalisers"):
        value = getattr(source, name)
        # The task's own prompt is not known before data are read; the evaluation compares it.
        if value is not None and given.get(name) not in (None, value):
            raise ConfigError(
                f"{config.path}: eval.data.{name}: found {given[name]!r}, but data.{name} is {value!r}; the labels "
                f"decide the prompt: leave eval.data.{name} out, or give it as data.{name}"
            )
    if "dataset" in given and not same_data(given["dataset"], source.dataset):
        source = _another(replace(source, dataset=given["dataset"], holdout=0.0, split=None, claims=None), given)
    return {**asdict(source, dict_factory=written), **given}


def _another(source: DataSource, given: Collection[str]) -> DataSource:
    """Another data set as an evaluation reads it: with the labelled data's columns where it has them."""
    if not Path(source.dataset).expanduser().is_file():
        return source
    named = (source.text_field, source.label_field, source.group_field)
    text, label, group = (name if name and has_column(source, name) else None for name in named)
    return other_source(replace(source, text_field=text, label_field=label, group_field=group), given)


def not_default(settings: DataSource | EngineConfig | GenerationConfig) -> dict[str, object]:
    """The fields of a settings object that say something."""
    return {
        entry.name: value for entry in fields(settings) if (value := getattr(settings, entry.name)) != entry.default
    }


def eval_file(config: PipelineConfig) -> Path:
    """Settings of `eval/run.py`, written by the pipeline."""
    return config.output_dir / "eval.yaml"


def eval_settings(config: PipelineConfig) -> dict[str, Any]:
    """Content of `eval_file`: the experiment's `eval` section with data, model, label files and adapters filled in,
    without the workers, which decide nothing of it.

    Raises:
        ConfigError: a condition asks for labels or adapters that no stage makes.
    """
    assert config.eval is not None
    seeds, first = config.label.seeds, config.settings(config.label.algorithms[0], config.label.seeds[0])
    sampling = not_default(first.generation)
    conditions = config.eval.get("conditions", [])
    given = {key: value for key, value in config.eval.items() if key not in _WORKERS}
    return {
        "output_dir": str(config.output_dir),
        "seeds": list(seeds),
        "labels": [str(label_file(config, config.label.algorithms[0], seed)) for seed in seeds],
        "engine": not_default(first.engine),
        **({"generation": sampling} if sampling else {}),
        **given,
        "data": held_out_data(config),
        "conditions": [_condition(config, dict(condition)) for condition in conditions],
    }


def _condition(config: PipelineConfig, condition: dict[str, Any]) -> dict[str, Any]:
    """A condition with the label files or adapters of its `algorithm` (a key of ours, default the first one)."""
    where = f"{config.path}: eval.conditions: {condition.get('name')!r}"
    algorithm = condition.pop("algorithm", config.label.algorithms[0])
    if algorithm not in config.label.algorithms:
        raise ConfigError(f"{where}: algorithm {algorithm!r} is not one of label.algorithms; add it there")
    labels_from = "labels" if condition.get("labels_from") == "file" else condition.get("labels_from")
    if condition.get("kind") == "many-shot" and labels_from == "labels":
        return {**condition, "files": [str(label_file(config, algorithm, seed)) for seed in config.label.seeds]}
    if condition.get("kind") != "fine-tuned":
        return condition
    variant = condition.pop("variant", "")
    if "adapters" in condition:
        return condition
    recipes = {} if config.train is None else config.train.by_name
    if recipes and variant not in recipes:
        raise ConfigError(f"{where}: variant {variant!r} is not one of train.variants; add it there")
    runs = [run for run in all_trainings(config) if (run.source, run.variant) == (labels_from, variant)]
    runs = [run for run in runs if run.algorithm == algorithm or labels_from != "labels"]
    if not runs:
        raise ConfigError(f"{where}: no adapter is trained on {algorithm} with that labels_from; add it to train")
    base = trained_model(config, recipes[variant]).get("model_name_or_path")
    own = {"model": base} if base and "model" not in condition else {}
    files = [str(label_file(config, algorithm, run.seed)) for run in runs]
    return {**condition, **own, "files": files, "adapters": [str(adapter_folder(config, run)) for run in runs]}


def eval_workers(config: PipelineConfig) -> WorkersConfig:
    """Those that label, but for what `eval` says of them; on this machine where it has trained the adapters, which a
    cluster may not see. Raises ConfigError for a wrong value."""
    labelling = config.label.engines if config.train is None else replace(config.label.engines, ray_address=None)
    own = {key: value for key, value in (config.eval or {}).items() if key in _WORKERS}
    where = f"{config.path}: eval."
    try:
        return build(WorkersConfig, own, str(config.path), "eval", labelling)
    except ConfigError as error:
        raise ConfigError(f"{where}{str(error).removeprefix(where)}") from None


def eval_yaml(config: PipelineConfig) -> str:
    """Text of `eval_file`."""
    return yaml.safe_dump(eval_settings(config), sort_keys=False, allow_unicode=True)
