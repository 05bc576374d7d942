"""`icm pipeline`: label → train → eval from one experiment file. Finished stages are skipped, by content."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.table import Table

from icm.doors.locks import held
from icm.errors import ICMError, ResumeError
from icm.files import atomic_write
from icm.pipeline.checks import (
    check_benchmarks,
    check_evaluation,
    check_gold,
    check_later_stages,
    check_rounds,
    held_out_writing,
)
from icm.pipeline.evaluation import eval_file, eval_yaml
from icm.pipeline.experiment import PipelineConfig
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
from icm.pipeline.resources import ALONE, Machine, this_machine
from icm.pipeline.schedule import Process, open_stage, run_all
from icm.pipeline.stages import Stage, make_stages
from icm.results.units import units_folder
from icm.text import Console

_LINES, _TAIL = 20, 8192  # lines of a failed stage's log that are shown, at most so many bytes


def run_pipeline(config: PipelineConfig, force: bool = False, jobs: int | None = None) -> Path:
    """Run the stages that are not finished, each as a process of its own.

    Args:
        config: a checked experiment.
        force: redo stages whose settings or inputs have changed, deleting what they wrote.
        jobs: see `icm.pipeline.resources.this_machine`.

    Returns:
        The experiment's output folder.

    Raises:
        ConfigError: a setting that the training or the evaluation refuses; before anything runs.
        ResumeError: a stage was made with other settings or inputs, and `force` is not given.
        ICMError: a stage failed.
    """
    machine, stages = this_machine(jobs), make_stages(config)
    records = read_manifest(config.output_dir)
    waiting = [stage for stage in stages if not is_done(stage, records.get(stage.name))]
    check_later_stages(config, waiting)
    if waiting:
        check_rounds(config)
        check_gold(config)
    if "eval" in {stage.name for stage in waiting}:
        held_out_writing(config)
        check_benchmarks(check_evaluation(config))
    if config.eval is not None:
        with atomic_write(eval_file(config)) as handle:
            handle.write(eval_yaml(config))
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"{config.name}: {len(stages)} stages, output in {config.output_dir}", style="bold", soft_wrap=True)
    console.print(_summary(config, run_stages(config.output_dir, stages, force, console, machine)))
    return config.output_dir


def run_stages(
    folder: Path, stages: Sequence[Stage], force: bool, console: Console, machine: Machine = ALONE
) -> Mapping[str, StageRecord]:
    """Run what is not finished and record it in `folder`; returns the records of all stages.

    Raises:
        ResumeError: a stage was made differently, and `force` is not given. Nothing has run if it was known before.
        ICMError: a stage failed.
    """
    with held(folder / ".pipeline.lock", f"output_dir {folder}: another pipeline is running there; wait for it"):
        records = read_manifest(folder)
        for stage in [] if force else stages:
            refuse_changed(stage, records.get(stage.name))
        own = stages if machine == ALONE else [stage.beside_others for stage in stages]
        book = _Book(folder, own, records, force, console, machine)
        run_all(own, machine, book.start, book.finish)
    console.rule("finished", align="left", style="dim")
    return {stage.name: records[stage.name] for stage in stages}


@dataclass(frozen=True)
class _Book:
    """Starts stages and records them in `folder`; used by one thread.

    Attributes:
        records: of the stages so far.
        force: see `run_pipeline`.
        machine: what the stages share.
        logs: of the stages that have begun; None on the terminal.
    """

    folder: Path
    stages: Sequence[Stage]
    records: dict[str, StageRecord]
    force: bool
    console: Console
    machine: Machine
    logs: dict[str, Path | None] = field(default_factory=dict)

    def start(self, number: int, cards: Sequence[str]) -> Process | None:
        """Start a stage, unless it is finished."""
        stage = self.stages[number]
        self.console.rule(f"{number + 1}/{len(self.stages)} {stage.name}", align="left", style="dim")
        record = self.records.get(stage.name)
        if is_done(stage, record):
            self._say(f"finished before: {', '.join(map(str, stage.outputs))}")
            return None
        if record is not None and not self.force:
            refuse_changed(stage, record)
        if fits(stage, record):
            self._say(f"finished before, and recorded now: {', '.join(map(str, stage.outputs))}")
            self._finished(stage)
            return None
        self._make_way(stage, record)
        self._record(stage, started(stage, record))
        machine = replace(self.machine, jobs=1) if self._last(stage) else self.machine
        variables, log = machine.variables(stage.processes, cards, os.environ), self._log(stage, machine)
        self.logs[stage.name] = log
        own = [f"{name}={value}" for name, value in variables.items()]
        self._say(f"$ {' '.join([*own, stage.shown])}", style="dim")
        if log is not None:
            self._say(f"its output: {log}", style="dim")
        return open_stage((*stage.command, *_resume(stage)), variables, log)

    def finish(self, number: int, seconds: float, code: int | None) -> None:
        """Record what a stage took, and its end if it came to it. Raises ICMError if it failed."""
        stage = self.stages[number]
        record, log = self.records[stage.name], self.logs[stage.name]
        self._record(stage, replace(record, seconds=record.seconds + seconds))
        if code is None:
            return
        missing = [str(path) for path in stage.outputs if not path.is_file()]
        if code or missing:
            problem = f"exit code {code}" if code else f"it did not write {', '.join(missing)}"
            if log is not None:
                self._say(f"{stage.name} failed ({problem}):\n{_end_of(log)}")
            where = "above" if log is None else log
            raise ICMError(
                f"stage '{stage.name}' failed ({problem}), see {where}; the same command continues from here"
            )
        self._finished(stage)
        self._say(f"{'' if log is None else f'{stage.name} '}done in {self.records[stage.name].seconds:.0f} s")

    def _say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, soft_wrap=True)

    def _last(self, stage: Stage) -> bool:
        """Whether nothing else is left: then it has all cores and the terminal to itself."""
        return all(other is stage or is_done(other, self.records.get(other.name)) for other in self.stages)

    def _log(self, stage: Stage, machine: Machine) -> Path | None:
        """Where a stage speaks when others do, too."""
        return self.folder / "logs" / f"{stage.name.replace(' ', '_')}.log" if machine.jobs > 1 else None

    def _make_way(self, stage: Stage, record: StageRecord | None) -> None:
        """Delete what was made from something else. Raises ResumeError for what nobody recorded, without `force`."""
        in_the_way = stage.trace is not None and stage.written
        if in_the_way and record is None and not self.force:
            raise ResumeError(
                f"stage '{stage.name}': {stage.outputs[0]} exists, and {self.folder / MANIFEST} knows nothing of it; "
                "remove it, or redo it with --force"
            )
        if in_the_way or (record is not None and changed(stage, record)):
            _delete_outputs(stage)

    def _finished(self, stage: Stage) -> None:
        self._record(stage, replace(self.records[stage.name], outputs=digests(stage.outputs)))

    def _record(self, stage: Stage, record: StageRecord) -> None:
        """In the order of the stages, whichever began first."""
        self.records[stage.name] = record
        places = {stage.name: place for place, stage in enumerate(self.stages)}
        write_manifest(self.folder, dict(sorted(self.records.items(), key=lambda item: places.get(item[0], -1))))


def _resume(stage: Stage) -> tuple[str, ...]:
    """Words that continue unfinished work."""
    unfinished = stage.trace is not None and stage.trace.is_file() and not stage.written
    return ("--resume", str(stage.trace)) if unfinished else ()


def _delete_outputs(stage: Stage) -> None:
    for path in (*stage.outputs, *([stage.trace] if stage.trace else [])):
        path.unlink(missing_ok=True)
    if stage.trace is not None:
        shutil.rmtree(units_folder(stage.trace), ignore_errors=True)
    if stage.folder is not None and stage.folder.exists():
        shutil.rmtree(stage.folder)


def _end_of(log: Path) -> str:
    """The last lines of a log."""
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - _TAIL))
        return "\n".join(handle.read().decode(errors="replace").splitlines()[-_LINES:])


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
