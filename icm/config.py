"""Settings of a labelling run, as data. Defaults are stated here and nowhere else."""

from dataclasses import dataclass, replace
from typing import Literal

from icm.errors import ConfigError
from icm.secrets import refuse_secrets

LabelSource = Literal["labels", "gold", "random", "perturbed"]
"""Whose labels the same examples bear: those found, gold, random ones, or gold with as many errors as those found."""


Algorithm = Literal["icm", "auto", "bootstrap", "random", "zero-shot"]
"""A labeler."""

MOST_REPEATS = 10_000
"""Of anything that is done again and again: more is a slip of the finger that would run for ever."""


def _check(config: object, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: found {getattr(config, name)}, expected {expected}")


@dataclass(frozen=True)
class EngineConfig:
    """Which model scores, and on what.

    Attributes:
        model: hub name, local folder, or `embedded[:NAME]` (see `icm.models`); for `engine: server` any name that the
            server lists.
        revision: hub revision (branch, tag or commit).
        adapter: folder of a LoRA adapter to apply to the model.
        engine: `auto` is vLLM where a CUDA GPU is present, else transformers.
        device: `auto`, `cuda`, `mps` or `cpu`.
        dtype: `auto` is bfloat16, or float32 on a CPU without bfloat16 instructions.
        max_model_len: context length in tokens; None takes the model's own.
        tensor_parallel_size: GPUs over which vLLM splits each layer.
        pipeline_parallel_size: GPUs over which vLLM splits the layers.
        gpu_memory_utilization: share of GPU memory that may be used.
        kv_cache_gib: memory for cached prefixes in GiB, where no CUDA GPU is used; there it is what
            `gpu_memory_utilization` leaves beside the model.
        enforce_eager: vLLM without compilation: starts faster, runs slower.
        deterministic: on a GPU, the same bits whatever is computed together: slower (transformers: prompt parts one by
            one; vLLM: VLLM_BATCH_INVARIANT). A CPU always keeps them.
        base_url: address of an OpenAI-compatible server, for `engine: server`.
        tokenizer: for `engine: server`, whose tokenizer the served model has, where its name does not say (an alias, an
            Ollama tag): hub name, local folder or `embedded[:NAME]`.
    """

    model: str = "embedded"
    revision: str | None = None
    adapter: str | None = None
    engine: Literal["auto", "vllm", "transformers", "server"] = "auto"
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float = 4.0
    enforce_eager: bool = False
    deterministic: bool = False
    base_url: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        refuse_secrets({name: getattr(self, name) for name in ("model", "adapter", "tokenizer", "base_url")}, "engine")
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "kv_cache_gib", "gpu_memory_utilization"):
            _check(self, name, getattr(self, name) > 0, "a number above 0")
        _check(self, "gpu_memory_utilization", self.gpu_memory_utilization <= 1, "at most 1")
        _check(self, "max_model_len", self.max_model_len is None or self.max_model_len > 0, "a number above 0 or null")

    @property
    def identity(self) -> dict[str, str | int | float | None]:
        """What decides the scores and when the order is redrawn, by name; an interrupted run continues only with the
        same."""
        names = ("model", "revision", "adapter", "device", "dtype", "max_model_len", "kv_cache_gib")
        found = {name: getattr(self, name) for name in names}
        # Named only where they are set, so that traces from before there were any go on.
        given = {"tokenizer": self.tokenizer, "deterministic": self.deterministic or None}
        return found | {name: value for name, value in given.items() if value is not None}

    @property
    def gpu_identity(self) -> dict[str, int | float]:
        """What decides beside `identity`, on a GPU, how much is kept and so when the order is redrawn."""
        names = ("gpu_memory_utilization", "tensor_parallel_size", "pipeline_parallel_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class WorkersConfig:
    """How many engines work at once, and where. It decides nothing of the result.

    Attributes:
        workers: engines, each a process with as many GPUs as it is split over, or a share of the CPUs; `auto` is as
            many as there is room for. One without `ray_address` runs in the command's own process.
        ray_address: `HOST:PORT` of a running Ray cluster whose machines they run on; None is this machine.
    """

    workers: int | Literal["auto"] = 1
    ray_address: str | None = None

    def __post_init__(self) -> None:
        _check(self, "workers", self.workers == "auto" or 0 < self.workers <= MOST_REPEATS, "auto or a number above 0")

    @property
    def here(self) -> bool:
        """Whether the command itself is the one worker."""
        return self.workers == 1 and self.ray_address is None


@dataclass(frozen=True)
class GenerationConfig:
    """Sampling of candidate solutions, for tasks that need the model to write claims (gsm8k without given ones).

    Attributes:
        generation_temperature: sampling temperature of a question's first candidate; 0 is greedy.
        generation_top_p: sample from the likeliest tokens that together have this probability; of the first candidate.
        generation_max_tokens: longest solution in tokens.
        generation_last_temperature: temperature of the last candidate; those between rise evenly, so that they differ.
        generation_last_top_p: likewise.
    """

    generation_temperature: float = 0.2
    generation_top_p: float = 0.9
    generation_max_tokens: int = 512
    generation_last_temperature: float = 1.0
    generation_last_top_p: float = 0.95

    def __post_init__(self) -> None:
        for name in ("generation_temperature", "generation_last_temperature"):
            _check(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("generation_top_p", "generation_last_top_p"):
            _check(self, name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        _check(self, "generation_max_tokens", self.generation_max_tokens > 0, "a number above 0")

    def schedule(self, candidates: int) -> "tuple[GenerationConfig, ...]":
        """The sampling of each of a question's candidates."""
        shares = [place / max(1, candidates - 1) for place in range(candidates)]
        return tuple(
            replace(
                self,
                generation_temperature=_between(self.generation_temperature, self.generation_last_temperature, share),
                generation_top_p=_between(self.generation_top_p, self.generation_last_top_p, share),
            )
            for share in shares
        )

    @property
    def sampler(self) -> dict[str, float]:
        """What decides one sample."""
        names = ("generation_temperature", "generation_top_p", "generation_max_tokens")
        return {name: getattr(self, name) for name in names}


def _between(first: float, last: float, share: float) -> float:
    return round(first + (last - first) * share, 6)


@dataclass(frozen=True)
class SearchConfig:
    """Algorithms 1 and 2 and their neighbours. Published values (arXiv 2506.10139) come with `--preset paper`.

    Attributes:
        algorithm: `icm`; a baseline under the same file format, `bootstrap`, `random`, `zero-shot`; or `auto`, that of
            `zero-shot`, `bootstrap` and `icm` which first finds coherent labels.
        alpha: weight of mutual predictability against inconsistency in U(D) = alpha·P(D) - I(D).
        objective: P(D) as the mean over examples (the published code) or the sum (the paper).
        initial_temperature: T_0; the paper's 10 accepts nearly everything, which suits a start from random labels.
        final_temperature: T_min.
        schedule: `log` T_0/(1+beta·ln n); `geometric` T_0·cooling_rate^n; `linear` from T_0 to T_min.
        beta: of the log schedule.
        cooling_rate: of the geometric schedule. `icm run` takes it as beta where the schedule is log.
        initial_examples: K, examples labelled before the first iteration.
        init: how those K get their labels: at `random` on random examples (the paper), or as the `zero-shot` answers
            that the model is surest of, balanced; `bootstrap` goes on from these to labels of all examples, so that the
            search need not grow one example at a time.
        max_iterations: N_iter.
        priority_weight: sampling weight of unlabelled examples that share a rule with a labelled one.
        consistency: count inconsistent pairs in U and fix them where U rises by it.
        rules: consistency rules besides the task's own: `at-most-one`, `exactly-one` (True in a group), or the import
            path `package.module:RuleClass` of your own.
        max_fix_steps: M of Algorithm 2, which is run without `joint_proposals`.
        shots: examples in a context that is asked about all others; at least one a label. None is leave-one-out as
            published: every label has a context of its own, all other labelled examples.
        contexts: such contexts under each order; a label's answers are averaged over those that it is not in.
        calibration: of the label log-odds: `none`, `batch` (centred over what a context was asked, or over the
            leave-one-out sweep, as if labels were equally frequent), `prototypical` (between the groups that these
            answers fall into, however large each is: where one label is rarer), `contextual` (content-free query).
            Claims that all questions are asked are each calibrated by themselves.
        refresh_every: iterations between two draws of the demonstration order; fewer where the engine has no room to
            keep the prompt tree.
        joint_proposals: labelled examples are proposed the labels that earlier orders preferred on average, and all of
            them at once at each fresh order; pairs that a proposal makes inconsistent are fixed before it is scored,
            by those preferences. False is as published: the present order's label, one example at a time, and
            Algorithm 2 with a sweep for each option.
        final_orders: fresh orders over which the final utility is averaged.
        lookahead: proposals for this many iterations computed in one batch. Changes the cost, never the result: with an
            engine that keeps prefixes it saves calls, not tokens.
        early_stop: stop when two fresh orders and the draws between change nothing (without `joint_proposals` as many
            draws as there are examples), or when labels of all examples are worth no more than a coin's under an order
            that they were not found with.
        restarts: independent searches; the best final utility is kept.
        bootstrap_rounds: rounds of relabelling for `bootstrap`, and for `init: bootstrap`.
        batch_size: examples labelled together; larger data sets are split into such batches.
        seed: all randomness is drawn from (seed, iteration).
    """

    algorithm: Algorithm = "icm"
    alpha: float = 50.0
    objective: Literal["mean", "sum"] = "mean"
    initial_temperature: float = 0.1
    final_temperature: float = 0.01
    schedule: Literal["log", "geometric", "linear"] = "log"
    beta: float = 0.99
    cooling_rate: float = 0.98
    initial_examples: int = 8
    init: Literal["random", "zero-shot", "bootstrap"] = "bootstrap"
    max_iterations: int = 1000
    priority_weight: float = 100.0
    consistency: bool = True
    rules: tuple[str, ...] = ()
    max_fix_steps: int = 10
    shots: int | None = 4
    contexts: int = 4
    calibration: Literal["none", "batch", "contextual", "prototypical"] = "batch"
    refresh_every: int = 8
    joint_proposals: bool = True
    final_orders: int = 2
    lookahead: int = 1
    early_stop: bool = True
    restarts: int = 1
    bootstrap_rounds: int = 3
    batch_size: int = 256
    seed: int = 42

    def __post_init__(self) -> None:
        above_zero = ("alpha", "initial_temperature", "final_temperature", "initial_examples", "max_iterations")
        more = ("priority_weight", "refresh_every", "final_orders", "lookahead", "restarts", "batch_size")
        for name in (*above_zero, *more, "bootstrap_rounds"):
            _check(self, name, getattr(self, name) > 0, "a number above 0")
        _check(self, "contexts", self.contexts > 1, "at least 2: a label is judged by contexts that it is not in")
        _check(self, "shots", self.shots is None or self.shots > 0, "a number above 0 or null")
        for name in ("beta", "max_fix_steps", "seed"):
            _check(self, name, getattr(self, name) >= 0, "a number of at least 0")
        for name in ("final_orders", "lookahead", "restarts", "bootstrap_rounds", "max_fix_steps"):
            _check(self, name, getattr(self, name) <= MOST_REPEATS, f"at most {MOST_REPEATS:,}")
        _check(self, "cooling_rate", 0 < self.cooling_rate <= 1, "above 0 and at most 1")
        coolest = self.final_temperature <= self.initial_temperature
        _check(self, "final_temperature", coolest, f"at most initial_temperature {self.initial_temperature}")
