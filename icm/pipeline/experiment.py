"""An experiment file: one YAML that describes label → train → eval, checked as a whole before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from icm.config import MOST_REPEATS, Algorithm, LabelSource, WorkersConfig
from icm.errors import ConfigError
from icm.labelling.options import Settings, build, check_keys
from icm.labelling.settings import SECTIONS, resolve_settings, section_values
from icm.tasks.source import DataSource
from icm.yaml_files import mapping, read_mapping

Scheme = Literal["grow", "kfold", "self-training"]

# Fields that the pipeline sets itself, and where the file says them.
_ELSEWHERE = {
    ("data", "part"): "the stages choose it: train to label, test to evaluate",
    ("data", "seed"): "give label.seeds",
    ("data", "slice"): "give label.rounds",
    ("search", "algorithm"): "give label.algorithms",
    ("search", "seed"): "give label.seeds",
    ("output", "output_name"): "the stages choose it",
}


@dataclass(frozen=True)
class LabelStage:
    """Which labellings to make: one label file for each algorithm and seed.

    Attributes:
        algorithms: labelers. The first one's files are the labels that `eval` takes where it names no algorithm.
        seeds: of the search, and of the examples that `data.max_examples` draws.
        preset: `paper`, `codelion` or `fork`, under the values of `search`.
        rounds: more than 1 labels with models that are fine-tuned by the recipe of `train` on labels of earlier rounds
            (see `icm.pipeline.iteration`). Random labels, which no model makes, come at once.
        scheme: which labels a round learns. `grow`: of as many parts of the data those before; `kfold`: all others,
            as the base model labels them; `self-training`: all data, labelled anew by each round.
        workers, ray_address: engines that label side by side, and where, as for `icm run`; they decide no label. They
            answer in the evaluation too, unless `eval` says otherwise.
    """

    algorithms: tuple[Algorithm, ...] = ("icm",)
    seeds: tuple[int, ...] = (0,)
    preset: str | None = None
    rounds: int = 1
    scheme: Scheme = "grow"
    workers: int | Literal["auto"] = 1
    ray_address: str | None = None

    @property
    def engines(self) -> WorkersConfig:
        """The engines."""
        return WorkersConfig(self.workers, self.ray_address)


Overrides = Mapping[str, bool | int | float | str | list[str]]


@dataclass(frozen=True)
class TrainVariant:
    """Another recipe on the same label files.

    Attributes:
        name: in names of adapters, and by which a fine-tuned condition asks for it (`variant`).
        recipe, label_sources, overrides: see `TrainStage`.
    """

    name: str
    recipe: str
    label_sources: tuple[LabelSource, ...] = ("labels",)
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class TrainStage:
    """Which adapters to train: the same recipe on each label source.

    Attributes:
        recipe: settings of `train/run.py` (configs/train/*.yaml).
        accelerate: layout of the machine (configs/accelerate/*.yaml).
        algorithms: whose labels to train on.
        label_sources: `labels` trains on every label file; `gold` and `random` are twins on the first file's examples.
        overrides: settings that replace the recipe's.
        variants: further recipes on the same labels (DPO and SFT, say).
    """

    recipe: str
    accelerate: str
    algorithms: tuple[Algorithm, ...] = ("icm",)
    label_sources: tuple[LabelSource, ...] = ("labels", "gold")
    overrides: Overrides = field(default_factory=dict)
    variants: list[TrainVariant] = field(default_factory=list)

    @property
    def by_name(self) -> "dict[str, TrainStage]":
        """This recipe under the empty name, and each variant as a recipe of its own."""
        others = {
            v.name: replace(self, recipe=v.recipe, label_sources=v.label_sources, overrides=v.overrides, variants=[])
            for v in self.variants
        }
        return {"": self, **others}


@dataclass(frozen=True)
class PipelineConfig:
    """A checked experiment.

    Attributes:
        path: the file it came from, for messages.
        name: heading of the run.
        output_dir: folder that all stages write to.
        given: options of `icm run` that the file sets, by option name.
        label: the labellings.
        train: the trainings; None evaluates labels in context only.
        eval: settings of `eval/run.py`, without what follows from the other sections, which `icm.pipeline.evaluation`
            adds; None stops before the evaluation.
    """

    path: Path
    name: str
    output_dir: Path
    given: Mapping[str, object]
    label: LabelStage
    train: TrainStage | None
    eval: Mapping[str, Any] | None

    def settings(self, algorithm: str, seed: int) -> Settings:
        """Resolved settings of one labelling; environment variables fill in what the file leaves open."""
        return resolve_settings({**self.given, "algorithm": algorithm, "seed": seed}, preset=self.label.preset)


def read_experiment(path: str | Path) -> PipelineConfig:
    """Read and check an experiment file.

    Raises:
        ConfigError: unreadable, an unknown key (with the nearest known one), or a value of the wrong type or range.
    """
    path = Path(path)
    content = read_mapping(path, "--config takes a file like configs/experiments/demo.yaml")
    check_keys(content, {"name", "output_dir", "label", "train", "eval", *SECTIONS}, str(path))
    given, name = _given(content, path), str(content.get("name", path.stem))
    config = PipelineConfig(
        path=path,
        name=name,
        output_dir=Path(str(given.pop("output_dir", f"outputs/{name}"))),
        given=given,
        label=build(LabelStage, content.get("label", {}), str(path), "label"),
        train=build(TrainStage, content["train"], str(path), "train") if "train" in content else None,
        eval=mapping(content["eval"], f"{path}: eval") if "eval" in content else None,
    )
    _check(config)
    return config


def _given(content: Mapping[str, object], path: Path) -> dict[str, object]:
    """The sections that hold options of `icm run`, by option name."""
    sections = {name: mapping(content[name], f"{path}: {name}") for name in SECTIONS if name in content}
    for section, entries in sections.items():
        for (part, key), fix in _ELSEWHERE.items():
            if part in SECTIONS[section] and key in entries:
                raise ConfigError(f"{path}: {section}.{key}: not set here; {fix}")
    given = section_values(sections, str(path))
    short = content.get("output_dir")  # the short form of `output: {output_dir: …}`
    if short is not None and given.setdefault("output_dir", short) != short:
        raise ConfigError(f"{path}: output_dir: found {short!r}, but output.output_dir is {given['output_dir']!r}")
    return given


def _check(config: PipelineConfig) -> None:
    """What the types do not say."""
    lists: dict[str, tuple[object, ...]] = {
        "label.algorithms": config.label.algorithms,
        "label.seeds": config.label.seeds,
    }
    if config.train is not None:
        lists |= {"train.algorithms": config.train.algorithms, "train.label_sources": config.train.label_sources}
        lists |= {f"train.variants: {v.name}: label_sources": v.label_sources for v in config.train.variants}
        names = [v.name for v in config.train.variants]
        if len({*names, ""}) <= len(names) or not all(name.isidentifier() for name in names):
            raise ConfigError(f"{config.path}: train.variants: found the names {names}, expected distinct plain words")
        for train in config.train.by_name.values():
            _check_train(config, train)
    if config.eval is not None:
        _check_eval(config, config.eval)
    _check_rounds(config)
    _check_workers(config)
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"{config.path}: {name}: found {list(values)}, expected at least one value, all distinct")
    for algorithm in config.label.algorithms:
        config.settings(algorithm, config.label.seeds[0])


def _check_rounds(config: PipelineConfig) -> None:
    where, label = f"{config.path}: label", config.label
    if not 1 <= label.rounds <= MOST_REPEATS:
        raise ConfigError(f"{where}.rounds: found {label.rounds}, expected 1 to {MOST_REPEATS:,}")
    if label.rounds == 1 and label.scheme != "grow":
        raise ConfigError(f"{where}.scheme: found {label.scheme}, but one round; give label.rounds")
    if label.rounds > 1 and config.train is None:
        raise ConfigError(f"{where}.rounds: later rounds need fine-tuned models; add a section train")


def _check_workers(config: PipelineConfig) -> None:
    try:
        assert config.label.engines
    except ConfigError as error:
        raise ConfigError(f"{config.path}: label.{error}") from None


def _check_train(config: PipelineConfig, train: TrainStage) -> None:
    for name in ("recipe", "accelerate"):
        if not Path(getattr(train, name)).is_file():
            raise ConfigError(
                f"{config.path}: train.{name}: no file {getattr(train, name)} in {Path.cwd()}; "
                "paths are relative to the folder the command is run in"
            )
    for algorithm in train.algorithms:
        if algorithm not in config.label.algorithms:
            raise ConfigError(
                f"{config.path}: train.algorithms: {algorithm} is not one of label.algorithms; add it there"
            )


def _check_eval(config: PipelineConfig, content: Mapping[str, object]) -> None:
    """What the stages read of it; `eval.settings` checks the rest."""
    where = f"{config.path}: eval"
    held_out = mapping(content.get("data", {}), f"{where}.data")
    build(DataSource, held_out, str(config.path), "eval.data")
    conditions = content.get("conditions")
    if not isinstance(conditions, list) or not conditions:
        raise ConfigError(f"{where}.conditions: found {conditions!r}, expected a list of conditions")
    for position, condition in enumerate(conditions):
        mapping(condition, f"{where}.conditions[{position}]")
