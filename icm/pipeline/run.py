"""`icm pipeline`: label → train → eval from one experiment file. Finished stages are skipped, by content."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.table import Table

from icm.config import GenerationConfig
from icm.doors.locks import held
from icm.doors.signals import end, tethered
from icm.errors import ConfigError, ICMError, ResumeError
from icm.files import atomic_write
from icm.labelling.options import build
from icm.pipeline.experiment import PipelineConfig, TrainStage
from icm.pipeline.manifest import (
    MANIFEST,
    StageRecord,
    changed,
    digests,
    fits,
    is_done,
    read_manifest,
    refuse_changed,
    started,
    write_manifest,
)
from icm.pipeline.stages import Stage, eval_file, eval_settings, eval_yaml, make_stages, train_words
from icm.results.units import units_folder
from icm.tasks import DataSource
from icm.text import Console

if TYPE_CHECKING:
    from trl.trainer.model_config import ModelConfig

    from eval.settings import EvalConfig
    from icm.labelling.forecast import Writing
    from train.arguments import LabelArguments, TrainingConfig


def run_pipeline(config: PipelineConfig, force: bool = False) -> Path:
    """Run the stages that are not finished, each as a process of its own.

    Args:
        config: a checked experiment.
        force: redo stages whose settings or inputs have changed, deleting what they wrote.

    Returns:
        The experiment's output folder.

    Raises:
        ConfigError: a setting that the training or the evaluation refuses; before anything runs.
        ResumeError: a stage was made with other settings or inputs, and `force` is not given.
        ICMError: a stage failed.
    """
    stages = make_stages(config)
    records = read_manifest(config.output_dir)
    waiting = [stage for stage in stages if not is_done(stage, records.get(stage.name))]
    check_later_stages(config, waiting)
    if "eval" in {stage.name for stage in waiting}:
        held_out_writing(config)
        check_benchmarks(check_evaluation(config))
    if config.eval is not None:
        with atomic_write(eval_file(config)) as handle:
            handle.write(eval_yaml(config))
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"{config.name}: {len(stages)} stages, output in {config.output_dir}", style="bold", soft_wrap=True)
    console.print(_summary(config, run_stages(config.output_dir, stages, force, console)))
    return config.output_dir


def run_stages(folder: Path, stages: Sequence[Stage], force: bool, console: Console) -> Mapping[str, StageRecord]:
    """Run what is not finished and record it in `folder`; returns the records of all stages.

    Raises:
        ResumeError: a stage was made differently, and `force` is not given. Nothing has run if it was known before.
        ICMError: a stage failed.
    """
    with held(folder / ".pipeline.lock", f"output_dir {folder}: another pipeline is running there; wait for it"):
        records = read_manifest(folder)
        for stage in [] if force else stages:
            refuse_changed(stage, records.get(stage.name))
        for number, stage in enumerate(stages, start=1):
            console.rule(f"{number}/{len(stages)} {stage.name}", align="left", style="dim")
            _run_stage(folder, stage, records, force, console)
    console.rule("finished", align="left", style="dim")
    return {stage.name: records[stage.name] for stage in stages}


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


def check_benchmarks(evaluation: "EvalConfig") -> None:
    """Find the benchmarks and their data now. Raises ICMError for what is not there."""
    from eval.benchmarks.tasks import BenchmarkTasks

    if evaluation.benchmarks is not None:
        _ = BenchmarkTasks(evaluation.benchmarks).benchmarks


def held_out_writing(config: PipelineConfig) -> "Writing | None":
    """Read the held-out data before there are labels; what a model has to write for them.

    Raises:
        ICMError: they cannot be had as the file says; names the keys.
    """
    from icm.labelling.forecast import plan_writing

    asked = eval_settings(config)
    try:
        source = build(DataSource, asked["data"], str(config.path), "eval.data")
        sampling = build(GenerationConfig, asked.get("generation", {}), str(config.path), "eval.generation")
        return plan_writing(source, sampling)
    except ICMError as error:
        keys = " (here data.holdout, or eval.data.split)" if isinstance(error, ConfigError) else ""
        raise type(error)(f"{config.path}: the held-out data of eval: {error}{keys}") from None


def _run_stage(folder: Path, stage: Stage, records: dict[str, StageRecord], force: bool, console: Console) -> None:
    """Run one stage unless it is finished, and record it."""
    record = records.get(stage.name)
    if is_done(stage, record):
        console.print(f"finished before: {', '.join(map(str, stage.outputs))}", soft_wrap=True)
        return
    if record is not None and not force:
        refuse_changed(stage, record)
    if fits(stage, record):
        console.print(f"finished before, and recorded now: {', '.join(map(str, stage.outputs))}", soft_wrap=True)
        _finish(folder, stage, records)
        return
    in_the_way = stage.trace is not None and stage.written
    if in_the_way and record is None and not force:
        raise ResumeError(
            f"stage '{stage.name}': {stage.outputs[0]} exists, and {folder / MANIFEST} knows nothing of it; remove it, "
            "or redo it with --force"
        )
    if in_the_way or (record is not None and changed(stage, record)):
        _delete_outputs(stage)
    records[stage.name] = started(stage, record)
    write_manifest(folder, records)
    console.print(f"$ {stage.shown}", style="dim", soft_wrap=True)
    _execute(stage, folder, records)
    console.print(f"done in {records[stage.name].seconds:.0f} s")


def _delete_outputs(stage: Stage) -> None:
    for path in (*stage.outputs, *([stage.trace] if stage.trace else [])):
        path.unlink(missing_ok=True)
    if stage.trace is not None:
        shutil.rmtree(units_folder(stage.trace), ignore_errors=True)
    if stage.folder is not None and stage.folder.exists():
        shutil.rmtree(stage.folder)


def _execute(stage: Stage, folder: Path, records: dict[str, StageRecord]) -> None:
    """Run the command, to its end or to a failure; the time counts either way."""
    unfinished = stage.trace is not None and stage.trace.is_file() and not stage.written
    resume = ("--resume", str(stage.trace)) if unfinished else ()
    begun = time.monotonic()
    try:
        code = _call((*stage.command, *resume))
    finally:
        record = records[stage.name]
        records[stage.name] = replace(record, seconds=record.seconds + time.monotonic() - begun)
        write_manifest(folder, records)
    missing = [str(path) for path in stage.outputs if not path.is_file()]
    if code or missing:
        problem = f"exit code {code}" if code else f"it did not write {', '.join(missing)}"
        raise ICMError(f"stage '{stage.name}' failed ({problem}), see above; the same command continues from here")
    _finish(folder, stage, records)


def _finish(folder: Path, stage: Stage, records: dict[str, StageRecord]) -> None:
    records[stage.name] = replace(records[stage.name], outputs=digests(stage.outputs))
    write_manifest(folder, records)


def _call(command: Sequence[str]) -> int:
    """Exit code of a child process, which ends with this one: on a signal it is asked to, and if this process is killed
    the system asks it."""
    with subprocess.Popen(tethered(command), stdin=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            child = psutil.Process(process.pid)
            end([child, *child.children(recursive=True)])
            raise KeyboardInterrupt("interrupted; the same command continues from here") from None


def _summary(config: PipelineConfig, records: Mapping[str, StageRecord]) -> Table:
    """Seconds of each stage and the files worth opening."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, record in records.items():
        table.add_row(name, f"{record.seconds:.0f} s")
    for name in ("figure_1.png", "report.html"):
        if (config.output_dir / name).is_file():
            table.add_row(name, str(config.output_dir / name))
    return table
