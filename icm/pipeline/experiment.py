"""An experiment file: one YAML that describes label → train → eval, checked as a whole before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from icm.config import LabelSource
from icm.errors import ConfigError
from icm.labelling.options import Settings, checked, nearest, options
from icm.labelling.settings import resolve_settings
from icm.tasks.source import DataSource

Algorithm = Literal["icm", "bootstrap", "random", "zero-shot"]
Scheme = Literal["grow", "kfold"]

# Section of the file → part of `icm.labelling.options.Settings` whose fields it sets.
_PARTS = {"data": "data", "model": "engine", "search": "search", "generation": "generation"}
# Fields that the pipeline sets itself, and where the file says them.
_ELSEWHERE = {
    ("data", "part"): "the stages choose it: train to label, test to evaluate",
    ("data", "seed"): "give label.seeds",
    ("data", "slice"): "give label.rounds",
    ("search", "algorithm"): "give label.algorithms",
    ("search", "seed"): "give label.seeds",
}


@dataclass(frozen=True)
class LabelStage:
    """Which labellings to make: one label file for each algorithm and seed.

    Attributes:
        algorithms: labelers. The first one's files are the labels that `eval` takes where it names no algorithm.
        seeds: of the search, and of the examples that `data.max_examples` draws.
        preset: `paper`, `codelion` or `fork`, under the values of `search`.
        rounds: more than 1 labels the data in as many parts, by models fine-tuned with the recipe of `train` on the
            labels of other parts (see `icm.pipeline.iteration`). Random labels, which no model makes, come at once.
        scheme: `grow` learns the parts before; `kfold` all other parts, as the base model labels them.
    """

    algorithms: tuple[Algorithm, ...] = ("icm",)
    seeds: tuple[int, ...] = (0,)
    preset: str | None = None
    rounds: int = 1
    scheme: Scheme = "grow"


@dataclass(frozen=True)
class TrainStage:
    """Which adapters to train: the same recipe on each label source.

    Attributes:
        recipe: settings of `train/run.py` (configs/train/*.yaml).
        accelerate: layout of the machine (configs/accelerate/*.yaml).
        algorithms: whose labels to train on.
        label_sources: `labels` trains on every label file; `gold` and `random` are twins on the first file's examples.
        overrides: settings that replace the recipe's.
    """

    recipe: str
    accelerate: str
    algorithms: tuple[Algorithm, ...] = ("icm",)
    label_sources: tuple[LabelSource, ...] = ("labels", "gold")
    overrides: Mapping[str, bool | int | float | str | list[str]] = field(default_factory=dict)


Section = TypeVar("Section", LabelStage, TrainStage)


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
        eval: settings of `eval/run.py`, without what follows from the other sections (see `icm.pipeline.stages`); None
            stops before the evaluation.
    """

    path: Path
    name: str
    output_dir: Path
    given: Mapping[str, Any]
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
    content = _mapping(_load(path), str(path))
    _check_keys(content, {"name", "output_dir", "label", "train", "eval", *_PARTS}, str(path))
    name = str(content.get("name", path.stem))
    config = PipelineConfig(
        path=path,
        name=name,
        output_dir=Path(str(content.get("output_dir", f"outputs/{name}"))),
        given=_given(content, path),
        label=_section(LabelStage, content.get("label", {}), f"{path}: label"),
        train=_section(TrainStage, content["train"], f"{path}: train") if "train" in content else None,
        eval=_mapping(content["eval"], f"{path}: eval") if "eval" in content else None,
    )
    _check(config)
    return config


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(
            f"--config {path}: {error.strerror}; give a file like configs/experiments/demo.yaml"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: found {content!r}, expected a mapping of settings")
    return {str(key): value for key, value in content.items()}


def _check_keys(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, sorted(known))}")


def _given(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The sections that hold options of `icm run`, by option name."""
    given: dict[str, Any] = {}
    for section, part in _PARTS.items():
        where = f"{path}: {section}"
        names = {place[1]: option for option in options().values() for place in option.places if place[0] == part}
        for key, value in _mapping(content.get(section, {}), where).items():
            if (section, key) in _ELSEWHERE:
                raise ConfigError(f"{where}.{key}: not set here; {_ELSEWHERE[section, key]}")
            _check_keys({key: value}, set(names), where)
            given[names[key].name] = checked(names[key], value, f"{where}.{key}")
    return given


def _section(kind: type[Section], content: Any, where: str) -> Section:
    content = _mapping(content, where)
    _check_keys(content, {entry.name for entry in fields(kind)}, where)
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f"found {first['input']!r}, "
        raise ConfigError(f"{where}.{place}: {found}{first['msg']}") from None


def _check(config: PipelineConfig) -> None:
    """What the types do not say."""
    lists: dict[str, tuple[object, ...]] = {
        "label.algorithms": config.label.algorithms,
        "label.seeds": config.label.seeds,
    }
    if config.train is not None:
        lists |= {"train.algorithms": config.train.algorithms, "train.label_sources": config.train.label_sources}
        _check_train(config, config.train)
    if config.eval is not None:
        _check_eval(config, config.eval)
    _check_rounds(config)
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"{config.path}: {name}: found {list(values)}, expected at least one value, all distinct")
    for algorithm in config.label.algorithms:
        config.settings(algorithm, config.label.seeds[0])


def _check_rounds(config: PipelineConfig) -> None:
    where, label = f"{config.path}: label", config.label
    if label.rounds < 1:
        raise ConfigError(f"{where}.rounds: found {label.rounds}, expected at least 1")
    if label.rounds == 1 and label.scheme == "kfold":
        raise ConfigError(f"{where}.scheme: found kfold, but one round; give label.rounds, the number of folds")
    if label.rounds > 1 and config.train is None:
        raise ConfigError(f"{where}.rounds: later rounds need fine-tuned models; add a section train")


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


def _check_eval(config: PipelineConfig, content: Mapping[str, Any]) -> None:
    """What the stages read of it; `eval.settings` checks the rest."""
    where = f"{config.path}: eval"
    _check_keys(_mapping(content.get("data", {}), f"{where}.data"), set(DataSource.__annotations__), f"{where}.data")
    conditions = content.get("conditions")
    if not isinstance(conditions, list) or not conditions:
        raise ConfigError(f"{where}.conditions: found {conditions!r}, expected a list of conditions")
    for position, condition in enumerate(conditions):
        _mapping(condition, f"{where}.conditions[{position}]")
