"""The cost of a labelling run before it starts: prompts, tokens, memory, time. Needs no GPU and no hub.

The plan runs the real search on the accounting engine, so it counts what the search would ask for. What cannot be
reached from here (a gated tokenizer, a data set on the hub) is replaced by a stated assumption.
"""

import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from icm.config import EngineConfig, GenerationConfig, WorkersConfig
from icm.engines.accounting import CHARACTERS_PER_TOKEN, AccountingEngine, CharacterTokenizer
from icm.engines.base import Engine
from icm.engines.common import context_length, model_files
from icm.engines.devices import gpus
from icm.errors import ICMError, PrerequisiteError
from icm.examples import ICMDataset, ICMExample, LabelSpace, TaskData, garbage_collection
from icm.labelling.batches import batched, say_batches, split_batches
from icm.labelling.hardware import GIB, RATES, ModelShape, Need, inference, model_config, model_shape, writing
from icm.labelling.options import Settings
from icm.labelling.scale import Fleet, plan_fleet, sampled, workers_here
from icm.labelling.session import run_labeling
from icm.prompts import PromptEncoder, PromptTree, Tokenizer, shared_context_tree
from icm.search.checks import check_rules
from icm.tasks import DataSource, load_task
from icm.tasks.lookup import find_task
from icm.tasks.written import STAND_IN_CHARACTERS, stand_ins

ASSUMED_EXAMPLES = 256
ASSUMED_CONTEXT = 8192
CALIBRATION_TOKENS = 1500
HUB_TIMEOUT_SECONDS = 3


@dataclass(frozen=True)
class Writing:
    """Claims that the model writes before there is anything to judge; those that an earlier run kept it only reads.

    Attributes:
        questions: that come without.
        candidates: claims a question.
        longest: claim, in tokens.
    """

    questions: int
    candidates: int
    longest: int

    @property
    def tokens(self) -> int:
        """To be written at most."""
        return self.questions * self.candidates * self.longest

    def __str__(self) -> str:
        claims = self.questions * self.candidates
        return (
            f"{claims:,} claims, {self.candidates} for each of {self.questions:,} questions, at most {self.longest:,} "
            f"tokens each, {self.tokens:,} in all (not in the figures below)"
        )


@dataclass(frozen=True)
class RunPlan:
    """What a run will cost.

    Attributes:
        batches: examples in each batch.
        mean_demonstration_tokens, longest_demonstration: tokens of a demonstration, on average and at most.
        prompts: prompts scored.
        prompt_tokens: tokens of those prompts, each counted whole.
        computed_tokens: tokens computed with a perfect prefix cache.
        longest_prompt: tokens.
        prefix_tokens: to keep, so that no prefix of the largest sweep is computed twice.
        shape: of the model; None if it is not known here.
        seconds: estimate from a short calibration; None where the model cannot run.
        needs: of one GPU, of four, and of as many as the settings say, where they are not here, or to be compared.
        assumptions: what was assumed, a line each.
        writing: what the model writes first; None where the data have claims.
        fleet: the run over several engines, if it is to be.
    """

    batches: Sequence[int]
    mean_demonstration_tokens: float
    longest_demonstration: int
    prompts: int
    prompt_tokens: int
    computed_tokens: int
    longest_prompt: int
    prefix_tokens: int
    shape: ModelShape | None
    seconds: float | None
    needs: Sequence[Need] = ()
    assumptions: Sequence[str] = field(default_factory=list)
    writing: Writing | None = None
    fleet: Fleet | None = None

    @property
    def memory(self) -> str:
        """In all, however many GPUs share it."""
        if self.shape is None:
            return "unknown: the model's configuration cannot be reached from here"
        prefixes = self.shape.kv_bytes_per_token * self.prefix_tokens / GIB
        return f"{self.shape.weights_gib:.1f} GiB of weights, {prefixes:.1f} GiB to keep all prefixes"

    def __str__(self) -> str:
        rows = [
            *([("to be written", str(self.writing))] if self.writing else []),
            ("examples", f"{sum(self.batches):,} in {len(self.batches)} batch(es) of at most {max(self.batches):,}"),
            ("mean demonstration", f"{self.mean_demonstration_tokens:.1f} tokens"),
            ("longest prompt", f"{self.longest_prompt:,} tokens"),
            ("prompts", f"{self.prompts:,}"),
            ("tokens, plain order", f"{self.prompt_tokens:,}"),
            ("tokens computed", f"{self.computed_tokens:,} ({self.computed_tokens / self.prompt_tokens:.1%})"),
            ("memory", self.memory),
        ]
        if self.seconds is not None or not self.needs:
            unknown = "unknown: timed only for a model in a folder here"
            rows.append(("time", unknown if self.seconds is None else duration(self.seconds)))
        lines = [f"{name:20} {value}" for name, value in rows]
        if self.writing and self.needs and self.shape:
            lines.append(writing(self.shape, self.writing.tokens, self.mean_demonstration_tokens))
        lines += map(str, self.needs)
        if self.fleet is not None:
            lines.append(f"{f'over {self.fleet.workers} workers':20} {self.fleet}")
        return "\n".join(lines + [f"{'assumed':20} {line}" for line in self.assumptions])


def plan_writing(source: DataSource, generation: GenerationConfig) -> Writing | None:
    """What a model has to write for these data; None too where they cannot be reached from here.

    Raises:
        ICMError: as `load_task`.
    """
    _offline_if_unreachable()
    try:
        return _writing(load_task(source, stand_ins), source, generation)
    except PrerequisiteError:
        return None


def _writing(data: TaskData, source: DataSource, generation: GenerationConfig) -> Writing | None:
    return Writing(len(data.written), source.candidates, generation.generation_max_tokens) if data.written else None


def _assumed_writing(settings: Settings, claims: int) -> Writing | None:
    """What a model would have to write for data that cannot be reached, by the task that is named for them."""
    data = settings.data
    if data.task_type == "auto" or data.claims is not None or find_task(data.task_type).question is None:
        return None
    questions = max(1, claims // data.candidates)
    return Writing(questions, data.candidates, settings.generation.generation_max_tokens)


@garbage_collection(on=False)
def plan_run(
    settings: Settings, on_data: Callable[[TaskData], None] = lambda data: None, workers: WorkersConfig | None = None
) -> RunPlan:
    """Plan `icm run` with these settings.

    Args:
        settings: resolved settings.
        on_data: called with the data, where they are not assumed, before anything else.
        workers: engines that would label side by side; None plans one.

    Raises:
        ICMError: the settings or local data are wrong; what merely cannot be reached is assumed instead.
    """
    _offline_if_unreachable()
    planner = _Planner(settings, on_data)
    engine = _Recorder(planner.tokenizer, planner.context, planner.cache_tokens)
    batches = split_batches(planner.dataset, engine, settings.search, settings.data.bad_records)
    say_batches(batches, settings.search)
    sample = sampled(batches)
    times = sum(map(len, batches)) / sum(map(len, sample))
    if len(sample) < len(batches):
        planner.assumptions.append(f"the other batches cost what {len(sample)} of {len(batches):,} do, by their size")
    dataset = batched(planner.dataset, sample)
    usage, trace_bytes = _searched(dataset, engine, settings, sample, times)
    encoder = PromptEncoder(planner.tokenizer, dataset.label_space)
    lengths = [len(encoder.demonstration(e, dataset.label_space.labels[0])) for e in dataset]
    seconds = planner.seconds(usage["computed_tokens"], dataset)
    return RunPlan(
        batches=[len(batch) for batch in batches],
        mean_demonstration_tokens=float(np.mean(lengths)),
        longest_demonstration=max(lengths),
        prompts=usage["prompts"],
        prompt_tokens=usage["plain_tokens"] or usage["prompt_tokens"] or 1,
        computed_tokens=usage["computed_tokens"],
        longest_prompt=engine.longest_prompt,
        prefix_tokens=engine.largest_tree,
        shape=planner.shape,
        seconds=seconds,
        needs=(needs := planner.needs(engine.largest_tree, usage["computed_tokens"], seconds)),
        fleet=None if workers is None else planner.fleet(workers, batches, needs, seconds, trace_bytes),
        assumptions=planner.assumptions,
        writing=planner.writing,
    )


def _searched(
    dataset: ICMDataset, engine: Engine, settings: Settings, sample: Sequence[ICMDataset], times: float
) -> tuple[dict[str, int], int]:
    """Usage and bytes of the trace of so many times what is searched here."""
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "plan.trace.jsonl"
        result = run_labeling(dataset, engine, settings.search, trace_path=trace, batches=sample)
        size = trace.stat().st_size
    return {name: round(spent * times) for name, spent in result.record.usage.items()}, round(size * times)


def _offline_if_unreachable() -> None:
    """Ask the hub once whether it is there: its clients retry each file for up to half a minute."""
    from datasets import config as datasets_config
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), HUB_TIMEOUT_SECONDS).close()
    except OSError:
        constants.HF_HUB_OFFLINE = datasets_config.HF_HUB_OFFLINE = True


class _Recorder(AccountingEngine):
    """An accounting engine that remembers the largest tree."""

    largest_tree = 0
    longest_prompt = 0

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        self.largest_tree = max(self.largest_tree, tree.tree_tokens)
        self.longest_prompt = max(self.longest_prompt, tree.longest_prompt)
        return super().score(tree, label_ids)


class _Planner:
    """Finds data, tokenizer and model shape, and notes what had to be assumed."""

    def __init__(self, settings: Settings, on_data: Callable[[TaskData], None]) -> None:
        self._settings = settings
        self._on_data = on_data
        self._engine: EngineConfig = settings.engine
        self.writing: Writing | None = None
        self.assumptions: list[str] = ["one proposal in six changes a label; the real share is known only afterwards"]

    @cached_property
    def dataset(self) -> ICMDataset:
        """The data, or as many claims of a usual length."""
        try:
            data = load_task(self._settings.data, stand_ins)
        except PrerequisiteError as error:
            count = self._settings.data.max_examples or ASSUMED_EXAMPLES
            self.writing = _assumed_writing(self._settings, count)
            self.assumptions.append(f"{count} claims of {STAND_IN_CHARACTERS} characters ({error})")
            texts = (f"Question: {number:06d}\nClaim: ".ljust(STAND_IN_CHARACTERS, "x") for number in range(count))
            return ICMDataset([ICMExample(text) for text in texts], LabelSpace(), "assumed")
        self._on_data(data)
        self.writing = _writing(data, self._settings.data, self._settings.generation)
        if self.writing:
            self.assumptions.append(f"solutions of {STAND_IN_CHARACTERS} characters each, all distinct")
        check_rules(self._settings.search, data.dataset)
        if data.dataset.start:
            self.assumptions.append("labels are found anew: going on from those of --start mostly costs less")
        return replace(data.dataset, start={})

    @cached_property
    def cache_tokens(self) -> float:
        """Tokens of prefixes that the transformers engine keeps; on a GPU, an engine decides when it starts."""
        on_gpu = gpus() > 0 and self._engine.device in ("auto", "cuda")
        if self.shape is None or on_gpu or not _on_transformers(self._engine):
            return math.inf
        return self._engine.kv_cache_gib * GIB / self.shape.kv_bytes_per_token

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, or a count of characters."""
        from transformers import AutoTokenizer

        try:
            folder, revision = self._files
            return AutoTokenizer.from_pretrained(folder, revision=revision)
        except ICMError:
            raise
        except (OSError, ValueError):
            self.assumptions.append(
                f"{CHARACTERS_PER_TOKEN} characters a token (the tokenizer of {self._engine.model} cannot be reached)"
            )
            return CharacterTokenizer()

    @cached_property
    def _files(self) -> tuple[str, str | None]:
        return model_files(self._engine)

    @cached_property
    def context(self) -> int:
        """Context length in tokens."""
        if (config := model_config(self._engine)) is not None:
            return context_length(config, self._engine.max_model_len)
        if self._engine.max_model_len is None:
            self.assumptions.append(
                f"a context of {ASSUMED_CONTEXT:,} tokens (set --max-model-len to plan for another)"
            )
        return self._engine.max_model_len or ASSUMED_CONTEXT

    @property
    def shape(self) -> ModelShape | None:
        """The model's shape."""
        return model_shape(self._engine)

    def needs(self, prefixes: int, tokens: int, seconds: float | None) -> list[Need]:
        """What GPUs would have to hold, and for how long; nothing for a model that runs on a CPU, or elsewhere."""
        engine = self._engine
        if self.shape is None or engine.engine == "server" or engine.device in ("cpu", "mps"):
            return []
        if seconds is not None and not gpus():
            return []
        self.assumptions.append(RATES)
        own = engine.tensor_parallel_size * engine.pipeline_parallel_size
        return [inference(self.shape, engine, prefixes, tokens, cards, starts=1) for cards in sorted({1, 4, own})]

    def fleet(
        self,
        workers: WorkersConfig,
        batches: Sequence[ICMDataset],
        needs: Sequence[Need],
        seconds: float | None,
        trace_bytes: int,
    ) -> Fleet:
        """The run over several engines, each at the rate of this machine or of as many H100s as it is split over."""
        engine, start = self._engine, 0.0
        cards = engine.tensor_parallel_size * engine.pipeline_parallel_size if needs or gpus() else 0
        if seconds is None and needs:
            own = next(need for need in needs if need.cards == cards)
            seconds, start = own.tokens / own.rate, own.idle
        count = workers_here(workers, cards)
        return plan_fleet(batches, self._settings.search.restarts, count, cards, seconds, start, trace_bytes)

    def seconds(self, tokens: int, dataset: ICMDataset) -> float | None:
        """Time for `tokens`, from scoring a few short prompts; None where the model is not in a folder here."""
        if model_config(self._engine) is None or not self._runs_here():
            return None
        from icm.engines import create_engine

        try:
            with create_engine(self._engine) as engine:
                return tokens / _rate(engine, dataset)
        except PrerequisiteError as error:
            self.assumptions.append(f"nothing of the time ({error})")
            return None

    def _runs_here(self) -> bool:
        """Whether the model is a local folder and the device is present."""
        config = self._engine
        wants_gpu = config.device == "cuda" or config.tensor_parallel_size * config.pipeline_parallel_size > 1
        return Path(self._files[0]).is_dir() and (gpus() > 0 or not wants_gpu)


def _rate(engine: Engine, dataset: ICMDataset) -> float:
    """Tokens a second, behind a context that no cache has seen yet."""
    encoder = PromptEncoder(engine.tokenizer, dataset.label_space)
    queries = [encoder.query(example) for example in dataset]
    count = max(1, round(CALIBRATION_TOKENS / float(np.mean([len(query) for query in queries]))))
    for context in ((), queries[-1]):  # the first time warms up
        before = (engine.usage.computed_tokens, engine.usage.seconds)
        engine.score_labels(shared_context_tree(encoder.prefix + context, queries[:count]), encoder.labels)
    return (engine.usage.computed_tokens - before[0]) / (engine.usage.seconds - before[1])


def _on_transformers(config: EngineConfig) -> bool:
    from icm.engines import choose_engine

    try:
        return choose_engine(config) == "transformers"
    except PrerequisiteError:  # planned for another machine
        return False


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min {rest} s"
