"""Which adapters an experiment trains, and where it keeps labels and adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from icm.pipeline.experiment import PipelineConfig, TrainStage
from icm.yaml_files import read_mapping


def label_file(config: PipelineConfig, algorithm: str, seed: int) -> Path:
    """Result file of one labelling."""
    return config.output_dir / "labels" / f"{algorithm}_seed{seed}.jsonl"


@dataclass(frozen=True)
class Training:
    """One adapter: trained on whose labels, by which recipe (see `TrainStage.by_name`)."""

    algorithm: str
    seed: int
    source: str
    variant: str = ""


def all_trainings(config: PipelineConfig) -> list[Training]:
    """All adapters. Twins are of examples: all algorithms label the same, and where all seeds do, one twin is
    enough."""
    recipes = {} if config.train is None else config.train.by_name
    return [
        Training(algorithm, seed, source, variant)
        for variant, train in recipes.items()
        for place, algorithm in enumerate(train.algorithms)
        for source in train.label_sources
        if source == "labels" or place == 0
        for seed in config.label.seeds[: None if source == "labels" or _seed_draws_data(config) else 1]
    ]


def _seed_draws_data(config: PipelineConfig) -> bool:
    data = config.settings(config.label.algorithms[0], config.label.seeds[0]).data
    return data.max_examples is not None or data.dataset.startswith("synthetic:")


def adapter_folder(config: PipelineConfig, run: Training) -> Path:
    variant = f"_{run.variant}" if run.variant else ""
    return config.output_dir / "adapters" / f"{run.algorithm}_seed{run.seed}_{run.source}{variant}"


def trained_model(config: PipelineConfig, train: TrainStage) -> Mapping[str, object]:
    """The model of the recipe, else the one that labels."""
    recipe = read_mapping(train.recipe)
    labeler = config.settings(config.label.algorithms[0], config.label.seeds[0]).engine.model
    return {"model": labeler, **recipe, **train.overrides}
