"""Running an evaluation: what is not yet answered is asked, then everything is scored and written."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from tqdm import tqdm

from eval.benchmarks.harness import Harness
from eval.benchmarks.scores import benchmark_scores
from eval.conditions.answers import AnswerFile
from eval.conditions.pool import EnginePool
from eval.experiment import Experiment, Run, engine_of
from eval.multiple_choice import MultipleChoice, MultipleChoiceRun, held_out_questions
from eval.report import write_all
from eval.report.tables import benchmark_tables, terminal
from eval.report.verdict import verdict
from eval.scores import Evaluation, ScoredRun
from eval.settings import EvalConfig
from eval.sheets import Sheet, answer_items, fill, fill_together
from icm.doors.locks import held
from icm.engines import create_engine
from icm.engines.base import Engine
from icm.engines.cluster import check_ray
from icm.engines.crew import gpus_of
from icm.errors import PrerequisiteError
from icm.examples import claim_of_each
from icm.labelling.claims import ClaimWriter
from icm.labelling.workers import Workers
from icm.tasks.written import stand_ins
from icm.text import Console, say


@dataclass(frozen=True)
class Evaluator:
    """Runs what is not yet answered.

    Attributes:
        experiment: what to ask.
        folder: output folder.
    """

    experiment: Experiment
    folder: Path

    def score_all(self) -> tuple[list[ScoredRun], list[MultipleChoiceRun], int]:
        """Answers of every run and to the multiple-choice questions, in running order; and engines started."""
        scored, chosen, runs, settings = [], [], self.experiment.runs, self.experiment.settings
        questions = held_out_questions(self.experiment)
        items, choices = self._items(), self._choices(questions)
        order = [(run, sheet) for run in runs for sheet in (items[run.key], choices.get(run.key)) if sheet]
        for run, sheet in order:
            if run.config.name in settings.rerun:
                sheet.file.forget()
        starts = 0
        if not settings.engines.here:
            shared = {sheet.file.path: sheet for _, sheet in order if sheet.engine}
            starts = fill_together(list(shared.values()), settings.engines)
        with EnginePool(self.experiment.engines) as engines:
            for run in (bar := tqdm(runs, desc="conditions", unit="run")):
                fill(items[run.key], engines)
                scored.append(self._scored(run, items[run.key].file))
                if bar.disable and (settings.engines.here or items[run.key].engine is None):
                    say(f"answered {len(scored)} of {len(runs)}: {run.config.name}", error=True)
                if run.key in choices:
                    fill(choices[run.key], engines)
                    chosen.append(questions.scored(run, choices[run.key].file))
            return scored, chosen, starts + engines.starts

    def _items(self) -> dict[str, Sheet]:
        """The held-out items of every run, by its key."""
        examples = {example.id: example for example in self.experiment.examples}
        return {
            run.key: Sheet(
                run.key,
                AnswerFile(self.folder / "answers", run.key, run.identity),
                tuple(examples),
                partial(answer_items, run.condition, examples),
                engine_of(run.condition),
            )
            for run in self.experiment.runs
        }

    def _choices(self, questions: MultipleChoice) -> dict[str, Sheet]:
        """The questions of the runs that are asked them. Files are named by content alone: conditions that share a
        model share a sheet."""
        found, shared = dict[str, Sheet](), dict[Path, Sheet]()
        for run in self.experiment.runs:
            if run.config.name in questions.asked:
                file = AnswerFile(self.folder / "answers", "multiple-choice", questions.identity(run))
                ask, name = partial(questions.answer, run), f"{run.key}, multiple choice"
                sheet = Sheet(name, file, tuple(questions.ids), ask, engine_of(run.condition))
                found[run.key] = shared.setdefault(file.path, sheet)
        return found

    def _scored(self, run: Run, file: AnswerFile) -> ScoredRun:
        answers = tuple(file.answers[example.id] for example in self.experiment.examples)
        _refuse_failure(run.config.name, [answer.error for answer in answers])
        claims = claim_of_each(self.experiment.examples)
        return ScoredRun(run, answers, file.usage, file.facts, self.experiment.label_space.labels, claims)


def evaluate(settings: EvalConfig) -> Path:
    """Run everything and write all outputs; returns the output folder.

    Raises:
        ICMError: one line naming the setting or file, before a model loads where that is possible.
    """
    plan, folder = Experiment(settings, stand_ins), Path(settings.output_dir)
    if not settings.engines.here:
        check_ray(settings.ray_address)
    _ = plan.runs  # what is wrong is told before a model loads
    harness = None if settings.benchmarks is None else Harness(plan, settings.benchmarks, folder)
    _ = harness and harness.plan
    with held(folder / ".lock", f"output_dir {folder}: another evaluation is writing there; wait, or give another"):
        experiment = _with_claims(plan)
        checked = f"{len(experiment.runs)} runs over {len(experiment.examples)} held-out items"
        say(f"evaluate {checked} → {folder}", error=True)
        started = time.time()
        scored, chosen, starts = Evaluator(experiment, folder).score_all()
        benchmarks = () if harness is None else harness.run()
        evaluation = Evaluation.of(experiment, scored, chosen, time.time() - started, starts)
        evaluation = replace(evaluation, benchmarks=benchmark_scores(benchmarks), benchmark_runs=benchmarks)
        write_all(evaluation, folder)
    console = Console(markup=False, emoji=False, highlight=False)
    for table in (terminal(evaluation), *benchmark_tables(evaluation)):
        console.print(table)
    if (sentence := verdict(evaluation)) is not None:
        say(sentence)
    return folder


def _refuse_failure(condition: str, errors: Sequence[str | None]) -> None:
    """A condition that answered nothing has no accuracy, not one of 0. Raises PrerequisiteError."""
    if errors and all(errors):
        raise PrerequisiteError(
            f"condition {condition!r}: all {len(errors)} items failed, so there is nothing to report; the last one: "
            f"{errors[-1]}; mend that, and the same command goes on from here"
        )


def _with_claims(plan: Experiment) -> Experiment:
    """The experiment, with claims in the place of stand-ins where the model has to write them."""
    settings = plan.settings
    if not plan.data.written:
        return plan
    say(f"write    claims for {len(plan.data.written)} held-out questions", error=True)
    with ExitStack() as stack:
        make = partial(create_engine, settings.engine)

        @cache
        def load() -> Engine | Workers:
            if settings.engines.here:
                return stack.enter_context(make())
            return stack.enter_context(Workers(make, settings.engines, gpus_of(settings.engine))).load()

        _, source = ClaimWriter(settings.output_dir, settings.engine, settings.generation, load).load(plan.source)
    return Experiment(replace(settings, data=source))
