"""The stages of an experiment as commands: what each reads, what decides its result, what it writes."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import icm
from icm.config import EngineConfig, WorkersConfig
from icm.labelling.options import Option, build, class_options, options
from icm.markdown import local_path
from icm.pipeline.evaluation import eval_file, eval_settings, eval_workers, held_out_data, not_default
from icm.pipeline.experiment import PipelineConfig
from icm.pipeline.iteration import rounds_of
from icm.pipeline.resources import ONE, Processes, of_engines, of_training
from icm.pipeline.trainings import adapter_folder, all_trainings, label_file, trained_model
from icm.results.format import trace_path
from icm.tasks.source import DataSource, written
from icm.yaml_files import mapping, read_mapping, source_files

_MODELS = ("model", "model_name_or_path", "adapter", "tokenizer")
# train/ and eval/ stand beside icm/, in the repository and where the package is installed.
_HOME = Path(icm.__file__).resolve().parents[1]
_LAUNCHER = "accelerate.commands.launch"


@dataclass(frozen=True)
class Stage:
    """One command of an experiment.

    Attributes:
        name: "label icm_seed0", "train icm_seed0_gold", "eval".
        command: argument list; stages meet in files only, so it can be run by hand as well.
        settings: what decides the result beside the inputs.
        inputs: files it reads.
        outputs: files that are there when it has finished.
        folder: folder that holds nothing but this stage's output.
        trace: unfinished work that `--resume` continues.
        processes: what it takes of the machine.
    """

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, object]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    folder: Path | None = None
    trace: Path | None = None
    processes: Processes = ONE

    @property
    def written(self) -> bool:
        """Whether all outputs are there."""
        return all(path.is_file() for path in self.outputs)

    @property
    def shown(self) -> str:
        """The command for reading and copying."""
        program = os.path.relpath(self.command[0])
        shorter = program if not program.startswith("..") else self.command[0]
        words = [os.path.relpath(word) if word.startswith(f"{_HOME}/") else word for word in self.command[1:]]
        return shlex.join([shorter, *words])

    @property
    def beside_others(self) -> "Stage":
        """The stage as it runs while others do: its ranks meet at a free port, on the cards that it is shown."""
        if _LAUNCHER not in self.command or self.processes == ONE:
            return self
        place = self.command.index(_LAUNCHER) + 1
        several = read_mapping(self.command[place + 1]).get("num_machines", 1) != 1  # the others know the layout's port
        own = ("--gpu_ids", "all", *(() if several else ("--main_process_port", "0")))
        return replace(self, command=(*self.command[:place], *own, *self.command[place:]))


def make_stages(config: PipelineConfig) -> list[Stage]:
    """All stages in order.

    Raises:
        ConfigError: the evaluation asks for labels or adapters that no stage makes.
    """
    labellings = [(algorithm, seed) for algorithm in config.label.algorithms for seed in config.label.seeds]
    stages = [stage for labelling in labellings for stage in _labelling(config, *labelling)]
    for run in all_trainings(config):
        labels = label_file(config, run.algorithm, run.seed)
        stages.append(_train(config, labels, adapter_folder(config, run), run.source, run.variant))
    if config.eval is not None:
        stages.append(_eval(config))
    return stages


def _labelling(config: PipelineConfig, algorithm: str, seed: int) -> list[Stage]:
    """The stages up to one label file: a single one, or all of its rounds."""
    path = label_file(config, algorithm, seed)
    if config.label.rounds == 1 or algorithm == "random":
        return [_label(config, algorithm, seed, path)]
    rounds, stages = rounds_of(config.label), []
    files = {step.name: config.output_dir / "rounds" / f"{path.stem}_{step.name}.jsonl" for step in rounds}
    for step in rounds:
        file, given = files[step.name], {"slice": step.slice} if step.slice else {}
        trained: tuple[Path, ...] = ()
        if step.learnt:
            training, adapter = (file.with_name(f"{file.stem}_{end}") for end in ("training.jsonl", "adapter"))
            stages.append(
                _merge(config, f"merge {training.stem}", [files[name] for name in step.learnt], training, step.slice)
            )
            stages.append(_train(config, training, adapter, "labels"))
            given["adapter"], trained = str(adapter), stages[-1].outputs
        own = replace(config, given={**config.given, **given})
        stages.append(_label(own, step.algorithm or algorithm, seed, file, trained))
    found = [files[step.name] for step in rounds if step.slice or step is rounds[-1]]
    return [*stages, _merge(config, f"label {path.stem}", found, path)]


def _merge(config: PipelineConfig, name: str, files: Sequence[Path], path: Path, without: str | None = None) -> Stage:
    words = [*map(str, files), "--output", str(path), *(["--without", without] if without else [])]
    own = _own_task(config)
    words += ["--task-type", own] if own else []
    return Stage(
        name=name,
        command=(sys.executable, "-m", "icm.pipeline.iteration", *words),
        settings={"merged": [file.name for file in files], "without": without},
        inputs=tuple(files),
        outputs=(path,),
    )


def _label(config: PipelineConfig, algorithm: str, seed: int, path: Path, adapter: tuple[Path, ...] = ()) -> Stage:
    """Stage that labels what the config's data says; `adapter` holds files of the adapter that it uses."""
    given = {**config.given, "algorithm": algorithm, "seed": seed}
    given |= {"output_dir": str(path.parent), "output_name": path.stem}
    preset = ["--preset", config.label.preset] if config.label.preset else []
    words = [word for name, value in given.items() for word in _flag(options()[name], value)]
    words += _worker_words(config.label.engines)
    settings = config.settings(algorithm, seed)
    data = settings.data
    files = (data.dataset, data.claims, data.trusted, data.definitions, data.start)
    return Stage(
        name=f"label {path.stem}",
        command=(sys.executable, "-m", "icm", "run", *preset, *words),
        settings={part: value for part, value in asdict(settings, dict_factory=written).items() if part != "output"},
        inputs=(*_files(*files), *_folders(config, asdict(settings.engine)), *adapter),
        outputs=(path,),
        trace=trace_path(path),
        processes=of_engines(settings.engine, config.label.engines),
    )


def _worker_words(workers: WorkersConfig) -> list[str]:
    """They are no settings of a stage: whoever works, labels and answers are the same."""
    given = {option: getattr(workers, option.name) for option in class_options(WorkersConfig)}
    return [word for option, value in given.items() if value != option.default for word in _flag(option, value)]


def _folders(config: PipelineConfig, engine: Mapping[str, object]) -> list[Path]:
    """Folders of this machine that an engine's settings name: what lies in them decides the result, not their name.
    Those that a stage will make are among them."""
    names = [name for key in _MODELS if isinstance(name := engine.get(key), str)]
    made = [Path(name) for name in names if Path(name).is_relative_to(config.output_dir)]
    found = (local_path(name) for name in names)
    return [*dict.fromkeys([*(path for path in found if path is not None and path.is_dir()), *made])]


def _flag(option: Option, value: object) -> list[str]:
    if value is None:
        return [f"{option.flag}=null"]
    if isinstance(value, bool):
        return [option.flag if value else f"--no-{option.flag.removeprefix('--')}"]
    if isinstance(value, Mapping):
        return [option.flag, *(f"{label}={text}" for label, text in value.items())]
    if isinstance(value, tuple):
        return [option.flag, *map(str, value)] if value else []
    return [option.flag, str(value)]


def _own_task(config: PipelineConfig) -> str | None:
    """See `DataSource.own_task`: the experiment names it, so its later stages may run it."""
    return config.settings(config.label.algorithms[0], config.label.seeds[0]).data.own_task


def _train(config: PipelineConfig, labels: Path, folder: Path, source: str, variant: str = "") -> Stage:
    assert config.train is not None  # nothing is trained without its section, see `icm.pipeline.experiment`
    train = config.train.by_name[variant]
    # The whole test part is kept out of training, not only the items that this evaluation draws.
    held_out = {**held_out_data(config), "max_examples": None}
    own = {"labels": str(labels), "label_source": source}
    if (task := _own_task(config)) is not None:
        own["task_type"] = task
    # Without an evaluation nothing need be held out, and then the test part of a file is the file.
    if config.eval is not None or held_out["holdout"]:
        own["eval_source"] = json.dumps(not_default(DataSource(**held_out)))
    words = train_words({**own, "output_dir": str(folder), **train.overrides})
    launch = (sys.executable, "-m", _LAUNCHER, "--config_file", train.accelerate)
    return Stage(
        name=f"train {folder.name}",
        command=(*launch, str(_HOME / "train" / "run.py"), "--config", train.recipe, *words),
        settings={"label_source": source, "held_out": held_out, "overrides": dict(train.overrides)},
        inputs=(
            labels,
            *source_files(train.recipe),
            Path(train.accelerate),
            *_folders(config, trained_model(config, train)),
        ),
        outputs=(folder / "train_results.json",),
        folder=folder,
        processes=of_training(Path(train.accelerate)),
    )


def train_words(settings: Mapping[str, object]) -> list[str]:
    """Settings of `train/run.py` as its command line."""
    words: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return words


def _eval(config: PipelineConfig) -> Stage:
    settings = eval_settings(config)
    labels = [
        label_file(config, algorithm, seed) for algorithm in config.label.algorithms for seed in config.label.seeds
    ]
    adapters = [adapter_folder(config, run) / "train_results.json" for run in all_trainings(config)]
    engine, data = mapping(settings["engine"], f"{config.path}: eval.engine"), settings["data"]
    held_out = _files(data["dataset"], data.get("claims"))
    models = [path for entry in (engine, *settings["conditions"]) for path in _folders(config, entry)]
    if "model" not in engine:  # then it is the engine that labelled, with what is named here
        engine = {**not_default(config.settings(config.label.algorithms[0], config.label.seeds[0]).engine), **engine}
    workers = eval_workers(config)
    words = ["--config", str(eval_file(config)), *_worker_words(workers)]
    return Stage(
        name="eval",
        command=(sys.executable, str(_HOME / "eval" / "run.py"), *words),
        settings=settings,
        inputs=(*labels, *adapters, *dict.fromkeys(models), *held_out, *_task_files(settings.get("benchmarks"))),
        outputs=(config.output_dir / "results.json",),
        processes=of_engines(build(EngineConfig, engine, str(config.path), "eval.engine"), workers),
    )


def _files(*names: str | None) -> list[Path]:
    """Those that are files here; data may also have a name of the hub, or be a folder."""
    return [path for name in names if name is not None and (path := Path(name).expanduser()).is_file()]


def _task_files(benchmarks: object) -> list[Path]:
    """The harness's task files of the user's own, with what lies beside them."""
    folder = benchmarks.get("include_path") if isinstance(benchmarks, Mapping) else None
    found = Path(folder).rglob("*") if isinstance(folder, str) else ()
    return sorted(path for path in found if path.is_file() and path.suffix != ".pyc")
