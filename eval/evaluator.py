"""Running an evaluation: what is not yet answered is asked, then everything is scored and written."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from eval.benchmarks.harness import Harness
from eval.benchmarks.scores import benchmark_scores
from eval.conditions.answers import AnswerFile, Batch
from eval.conditions.pool import EnginePool
from eval.experiment import Experiment, Run
from eval.multiple_choice import MultipleChoice, MultipleChoiceRun, held_out_questions
from eval.report import write_all
from eval.report.tables import benchmark_tables, terminal
from eval.report.verdict import verdict
from eval.scores import Evaluation, ScoredRun
from eval.settings import EvalConfig
from icm.doors.locks import held
from icm.errors import PrerequisiteError
from icm.labelling.claims import ClaimWriter
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
        scored, chosen = [], []
        questions = held_out_questions(self.experiment)
        with EnginePool(self.experiment.engines) as engines:
            for run in (bar := tqdm(self.experiment.runs, desc="conditions", unit="run")):
                scored.append(self._scored(run, engines))
                if bar.disable:
                    say(f"answered {len(scored)} of {len(self.experiment.runs)}: {run.config.name}", error=True)
                if run.config.name in questions.asked:
                    chosen.append(self._chosen(run, questions, engines))
            return scored, chosen, engines.starts

    def _chosen(self, run: Run, questions: MultipleChoice, engines: EnginePool) -> MultipleChoiceRun:
        # Named by content alone: conditions that share a model share the answers.
        file = AnswerFile(self.folder / "answers", "multiple-choice", questions.identity(run))
        self._complete(file, run, list(questions.ids), lambda ids: questions.answer(run, ids, engines))
        return questions.scored(run, file)

    def _scored(self, run: Run, engines: EnginePool) -> ScoredRun:
        file = AnswerFile(self.folder / "answers", run.key, run.identity)
        examples = {example.id: example for example in self.experiment.examples}
        self._complete(
            file, run, list(examples), lambda ids: run.condition.answer([examples[key] for key in ids], engines)
        )
        answers = tuple(file.answers[example.id] for example in self.experiment.examples)
        _refuse_failure(run.config.name, [answer.error for answer in answers])
        return ScoredRun(run, answers, file.usage, file.facts, self.experiment.label_space.labels)

    def _complete(
        self, file: AnswerFile, run: Run, ids: list[str], ask: Callable[[list[str]], Iterator[Batch]]
    ) -> None:
        """Ask for the answers that the file does not hold yet."""
        if run.config.name in self.experiment.settings.rerun:
            file.forget()
        missing = file.unanswered(ids)
        if not missing:
            return
        with (
            file.appending(),
            tqdm(total=len(missing), desc=file.path.stem, unit="item", leave=False, disable=None) as bar,
        ):
            for batch in ask(missing):
                file.add(batch)
                bar.update(len(batch.answers))


def evaluate(settings: EvalConfig) -> Path:
    """Run everything and write all outputs; returns the output folder.

    Raises:
        ICMError: one line naming the setting or file, before a model loads where that is possible.
    """
    plan, folder = Experiment(settings, stand_ins), Path(settings.output_dir)
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
    with EnginePool() as engines:
        load = partial(engines.get, settings.engine)
        _, source = ClaimWriter(settings.output_dir, settings.engine, settings.generation, load).load(plan.source)
    return Experiment(replace(settings, data=source))
