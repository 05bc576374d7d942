"""Scores a prompt tree with vLLM in this process: token-id prompts in tree order over its prefix cache."""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from icm.config import EngineConfig, GenerationConfig
from icm.doors.signals import kill
from icm.engines.adapters import Adapter, read_adapter
from icm.engines.base import Engine, Usage
from icm.engines.common import check_lengths, check_room, context_length, loading
from icm.engines.guard import guarded
from icm.engines.worker_output import WorkerOutput
from icm.errors import PrerequisiteError
from icm.models import resolve_model
from icm.prompts import PromptTree, Segment, prompt_ids

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest
    from vllm.platforms.interface import Platform

# Tokens cached as one: the smallest of each platform, as demonstrations have 20 to 200 tokens.
_BLOCK_SIZE = {"cpu": 32, "cuda": 16}
_MOST_TOKEN_IDS = 128  # that vLLM takes in one request
_LONGEST_READ = 1024  # tokens: vLLM makes float32 logits of all that it computes of such a prompt
_GIB = 1024**3
_GRACE = 5.0  # seconds for vLLM's processes to end by themselves


class VLLMEngine(Engine):
    """vLLM with prefix caching. Its workers are child processes; `close` waits until they are gone."""

    name = "vllm"

    def __init__(self, config: EngineConfig, adapters: Iterable[str] = ()) -> None:
        """Args: config: what to start with. adapters: those that `adapt` will be asked for."""
        folder = resolve_model(config.model, config.revision)
        set_environment(config)
        platform, LLM = _import_vllm()
        _check_device(config, platform)
        self.device: str = platform.device_type
        if platform.is_cpu():
            _set_threads(config)
        found = {name: read_adapter(name) for name in dict.fromkeys([config.adapter, *adapters]) if name is not None}
        self._requests = _lora_requests(found)
        self.adapt(config.adapter)
        own_context = _own_context(folder, config)
        before = _children()
        self._output = WorkerOutput()
        try:
            with self._output.taken(), guarded():
                self._llm = LLM(model=folder, **_arguments(config, found.values()), **_memory(config, platform))
        except BaseException as error:
            kill(_children() - before)
            if isinstance(error, Exception):
                cause = self._output.cause(error)
                raise PrerequisiteError(f"vLLM did not start with model {config.model}: {cause}") from error
            raise
        self._processes = _children() - before
        self.tokenizer = self._llm.get_tokenizer()
        vllm_config = self._llm.llm_engine.vllm_config
        # Where memory holds less than the model's context, vLLM has shortened it. It keeps one position for the token
        # that follows the prompt.
        self.context_length = min(own_context, vllm_config.model_config.max_model_len) - 1
        cache = vllm_config.cache_config
        self.cache_tokens: float = (cache.num_gpu_blocks or 0) * cache.block_size  # on a CPU too
        self.usage = Usage()

    def adapt(self, adapter: str | None) -> bool:
        """See `Engine.adapt`."""
        if adapter is not None and adapter not in self._requests:
            return False
        self._adapter = None if adapter is None else self._requests[adapter]
        return True

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        """See `Engine.score`."""
        check_lengths(tree, self.context_length)
        started = time.perf_counter()
        scores = np.full((tree.queries, len(label_ids)), np.nan)
        spelt = tree.spelt(label_ids)
        # With LoRA vLLM fails at log-probabilities of prompts, or gets them wrong (vllm-project/vllm#29955, #51594).
        if not self._requests and _spares_most(tree, label_ids, spelt):
            self._ask_longest(tree, label_ids, scores, spelt)
        self._ask(tree, label_ids, scores, ~np.isnan(scores))
        self.usage.seconds += time.perf_counter() - started
        return scores

    def _ask(
        self,
        tree: PromptTree,
        label_ids: Sequence[int],
        scores: NDArray[np.float64],
        known: NDArray[np.bool_],
        **more: Any,
    ) -> list[tuple[Segment, Any]]:
        """Fill in what is not known, each prompt's own. Returns the prompts with vLLM's outputs."""
        from vllm import SamplingParams

        requests = list(tree.requests(label_ids, _MOST_TOKEN_IDS, known))
        asked = [[label_ids[place] for place in places] for _, _, places in requests]
        params = [
            SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=a, detokenize=False, **more) for a in asked
        ]
        outputs = self._run([prompt for _, prompt, _ in requests], params)
        for (query, _, places), ids, output in zip(requests, asked, outputs, strict=True):
            found = output.outputs[0].logprobs[0]
            scores[query, places] = [found[token].logprob for token in ids]
        return [(prompt, output) for (_, prompt, _), output in zip(requests, outputs, strict=True)]

    def _ask_longest(
        self, tree: PromptTree, label_ids: Sequence[int], scores: NDArray[np.float64], spelt: NDArray[np.bool_]
    ) -> None:
        """Ask for what no longer prompt spells, and read the rest off the tokens of those prompts.

        Of tokens from its prefix cache vLLM has no log-probabilities: mostly another of these prompts computed them.
        What only an earlier call computed stays NaN.
        """
        rows = {path: query for query, path in tree.paths()}
        place = {token: number for number, token in enumerate(label_ids)}
        shortest = min(map(len, rows))
        # Unless told otherwise, vLLM leaves its cache aside for such prompts.
        more = {"prompt_logprobs": 0, "skip_reading_prefix_cache": False, "flat_logprobs": True}
        for prompt, output in self._ask(tree, label_ids, scores, spelt, **more):
            # Up to the last token; for cached ones vLLM's runners put in anything (V1) or nothing (V2).
            found = output.prompt_logprobs.logprobs
            for end in range(max(shortest, output.num_cached_tokens + 1, len(prompt) - len(found)), len(prompt)):
                if prompt[:end] in rows and prompt[end] in place:
                    scores[rows[prompt[:end]], place[prompt[end]]] = found[end - len(prompt)]

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """See `Engine.generate`."""
        from vllm import SamplingParams

        started = time.perf_counter()
        ids = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        check_room(max(map(len, ids), default=0), config.generation_max_tokens, self.context_length)
        params = [
            SamplingParams(
                max_tokens=config.generation_max_tokens,
                temperature=config.generation_temperature,
                top_p=config.generation_top_p,
                seed=seed + row,
                stop=list(stop),
            )
            for row in range(len(prompts))
        ]
        outputs = self._run(ids, params)
        self.usage.generated_tokens += sum(len(output.outputs[0].token_ids) for output in outputs)
        self.usage.seconds += time.perf_counter() - started
        return [output.outputs[0].text for output in outputs]

    def _run(self, prompts: Sequence[Sequence[int]], params: "SamplingParams | list[SamplingParams]") -> list[Any]:
        """vLLM's outputs, whose types call optional what was asked for."""
        if not prompts:
            return []
        asked: list[TokensPrompt] = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            outputs: list[Any] = self._llm.generate(asked, params, use_tqdm=False, lora_request=self._adapter)
        except Exception as error:
            self.close()
            raise PrerequisiteError(f"vLLM stopped at work: {self._output.cause(error)}") from error
        tokens = sum(map(len, prompts))
        self.usage.prompts += len(prompts)
        self.usage.prompt_tokens += tokens
        self.usage.computed_tokens += tokens - sum(output.num_cached_tokens or 0 for output in outputs)
        return outputs

    def close(self) -> None:
        """See `Engine.close`."""
        if hasattr(self, "_llm"):
            engine = self._llm.llm_engine
            del self._llm
            with suppress(Exception):  # of an engine that is dead already
                engine.engine_core.shutdown()
            _end(self._processes)


def _spares_most(tree: PromptTree, label_ids: Sequence[int], spelt: NDArray[np.bool_]) -> bool:
    """Whether two of three prompts need not be asked; for fewer, reading prompts takes longer on a CPU."""
    every, own = (sum(1 for _ in tree.requests(label_ids, _MOST_TOKEN_IDS, known)) for known in (None, spelt))
    return tree.longest_prompt <= _LONGEST_READ and 3 * own <= every


def _children() -> set[psutil.Process]:
    """Processes below this one, Python's own resource tracker among them, which lives as long as this process."""
    resource_tracker.ensure_running()
    return set(psutil.Process().children(recursive=True))


def _end(processes: Iterable[psutil.Process]) -> None:
    """Wait until processes are gone. vLLM's shutdown returns while its workers still hold their memory."""
    kill(psutil.wait_procs(processes, timeout=_GRACE)[1])


def set_environment(config: EngineConfig) -> None:
    """What vLLM reads at import."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # vLLM forks unless it sees that CUDA has started, and sees only part of that (vllm-project/vllm#8893, #15681).
    # The guard's mark is borne by what is spawned.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # FlashInfer's sampler, which scoring does not use, is compiled with nvcc at the first start.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if config.deterministic:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"


def _set_threads(config: EngineConfig) -> None:
    """Without a thread list vLLM's CPU worker runs on one thread, four times slower."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        ranks = config.tensor_parallel_size * config.pipeline_parallel_size
        share = max(1, len(cores) // ranks)
        groups = [cores[rank * share : (rank + 1) * share] or cores for rank in range(ranks)]
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "|".join(",".join(map(str, group)) for group in groups))
        os.environ.setdefault("OMP_NUM_THREADS", str(share))


def _import_vllm() -> "tuple[Platform, type[LLM]]":
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise PrerequisiteError(
            f"engine vllm: cannot import vllm ({error}); install icm[vllm] for a CUDA GPU or icm[cpu], "
            "or use --engine transformers"
        ) from None
    return current_platform, LLM


def _check_device(config: EngineConfig, platform: "Platform") -> None:
    wanted = config.device if config.device != "auto" else platform.device_type
    if wanted != platform.device_type:
        raise PrerequisiteError(
            f"device {wanted}: the installed vllm runs on {platform.device_type}; use --device {platform.device_type} "
            f"or --engine transformers, or install {'icm[cpu]' if wanted == 'cpu' else 'icm[vllm]'}"
        )


def _own_context(folder: str, config: EngineConfig) -> int:
    from transformers import AutoConfig

    with loading(config.model):
        return context_length(AutoConfig.from_pretrained(folder, revision=config.revision), config.max_model_len)


def _arguments(config: EngineConfig, adapters: Collection[Adapter]) -> dict[str, Any]:
    ranks = [adapter.vllm_rank for adapter in adapters]
    return {
        "revision": config.revision,
        "dtype": config.dtype,
        "max_model_len": config.max_model_len or -1,  # at most the model's, as far as memory goes
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "enforce_eager": config.enforce_eager,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "load_format": "safetensors",
        # Logits in bfloat16 are 1/16 to 1/8 apart: coarser than what the search compares, with ties.
        "hf_overrides": {"head_dtype": "float32"},
        **({"enable_lora": True, "max_lora_rank": max(ranks)} if ranks else {}),
    }


def _memory(config: EngineConfig, platform: "Platform") -> dict[str, Any]:
    if platform.is_cpu():
        return {"block_size": _BLOCK_SIZE["cpu"], "kv_cache_memory_bytes": int(config.kv_cache_gib * _GIB)}
    return {"block_size": _BLOCK_SIZE["cuda"], "gpu_memory_utilization": config.gpu_memory_utilization}


def _lora_requests(adapters: Mapping[str, Adapter]) -> "dict[str, LoRARequest]":
    if not adapters:
        return {}
    from vllm.lora.request import LoRARequest

    return {
        name: LoRARequest(name, number, str(adapter.folder.resolve()))
        for number, (name, adapter) in enumerate(adapters.items(), start=1)
    }
