"""Scores a prompt tree with a Hugging Face model on CUDA, MPS or the CPU, each node once."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from icm.config import EngineConfig, GenerationConfig
from icm.engines.adapters import applying, read_adapter
from icm.engines.base import Engine, Usage
from icm.engines.batching import BatchedPack
from icm.engines.common import (
    check_lengths,
    check_room,
    context_length,
    cut_at,
    kv_numbers_per_token,
    loading,
    path_key,
)
from icm.engines.devices import check_cuda, gpus
from icm.engines.kv_cache import NodeKV, NodeStore
from icm.engines.packing import ATTENTION, Pack, PackedNode
from icm.errors import ConfigError, PrerequisiteError
from icm.models import resolve_model
from icm.prompts import PromptTree, Segment, prompt_ids, shared_context_tree

_GIB = 1024**3
_PASS_TOKENS = 512  # from here on, reading the weights is a small part of a pass,
_FEWEST_TOKENS = 128  # and below this a large one
_BATCH_TOKENS = 4096  # of a pass on a GPU, where a pass takes the same few milliseconds with fewer
_CACHE_SHARE = 0.75  # of the GPU memory that may be used beside the model; the rest is for what a pass computes
_HEAD_ROWS = 32  # label tokens at a time: their products take as much memory as so many hidden states
_TRIAL = shared_context_tree(
    tuple(range(40)), [tuple(token % 100 for token in range(length)) for length in (2, 5, 24, 61, 127, 300)]
)


class LabelHead(nn.Module):
    """The model's output layer, with the label rows in float32.

    A bfloat16 logit of magnitude 16 moves in steps of 1/8, coarser than the log-odds that the search compares.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head
        self.label_ids: list[int] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., vocabulary] in float32."""
        logits: torch.Tensor = self.head(hidden).float()
        if self.label_ids:
            # A product and a sum, as float32 matrix products give a row other bits when other rows are beside it.
            for start in range(0, len(self.label_ids), _HEAD_ROWS):
                ids = self.label_ids[start : start + _HEAD_ROWS]
                labels = (hidden.float()[..., None, :] * self.head.weight[ids].float()).sum(-1)
                if self.head.bias is not None:
                    labels += self.head.bias[ids].float()
                logits[..., ids] = labels
        return logits


@dataclass(frozen=True)
class _Visit:
    """A node to visit: its name, the tokens to run, and the keys and values of the nodes above those.

    A small tree of queries behind a query is one visit: `parents` say how its tokens hang together (see `PackedNode`),
    and `ends` are the places of the tokens that end a query, with its number.
    """

    node: PromptTree
    key: bytes
    segment: Segment
    path: tuple[NodeKV, ...] = ()
    parents: tuple[int, ...] | None = None
    more_ends: tuple[tuple[int, int], ...] = ()

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        return self.more_ends or (() if self.node.query is None else ((len(self.segment) - 1, self.node.query),))

    def children(self, kv: NodeKV) -> list["_Visit"]:
        """Visits of the children, last one first: they go on a stack."""
        if self.node.query is not None and (behind := _queries_behind(self.node)):
            segment, parents, ends = behind
            whole = PromptTree(segment, query=ends[0][1])
            return [_Visit(whole, path_key(self.key, segment), segment, (*self.path, kv), parents, ends)]
        return [self._child(child, kv) for child in reversed(self.node.children)]

    def _child(self, child: PromptTree, kv: NodeKV) -> "_Visit":
        key = path_key(self.key, child.segment)
        if child.query is not None and not child.segment:  # asks for what follows this node: run its tokens again
            return _Visit(child, key, self.segment, self.path)
        return _Visit(child, key, child.segment, (*self.path, kv) if kv else self.path)


def _queries_behind(node: PromptTree) -> tuple[Segment, tuple[int, ...], tuple[tuple[int, int], ...]] | None:
    """All nodes below as one tree of tokens: tokens, parents and ends (see `_Visit`). None if one of them is no query,
    has no tokens, or if they are too many for a pass."""
    segment: list[int] = []
    parents: list[int] = []
    ends: list[tuple[int, int]] = []
    stack = [(child, -1) for child in reversed(node.children)]
    while stack:
        below, parent = stack.pop()
        if below.query is None or not below.segment or len(segment) + len(below.segment) > _PASS_TOKENS:
            return None
        parents += [parent, *range(len(segment), len(segment) + len(below.segment) - 1)]
        segment += below.segment
        ends.append((len(segment) - 1, below.query))
        stack.extend((child, len(segment) - 1) for child in reversed(below.children))
    return tuple(segment), tuple(parents), tuple(ends)


class TransformersEngine(Engine):
    """Walks the tree depth first and keeps the contexts, nodes with children and no query, between calls.

    A score is a function of the segments on its path and of the queries right behind its query (tokens of labels, which
    are computed together) alone: alone or with others, computed or kept. To the last bit, but for a GPU without
    `deterministic`, where nodes are batched.
    """

    name = "transformers"

    def __init__(self, config: EngineConfig) -> None:
        self.device = pick_device(config.device)
        folder = resolve_model(config.model, config.revision)
        with loading(config.model):
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, revision=config.revision)
            self._model = _load(folder, config, self.device)
        self.dtype: torch.dtype = self._model.dtype
        self._head = LabelHead(self._model.get_output_embeddings())
        self._model.set_output_embeddings(self._head)
        self.context_length = context_length(self._model.config, config.max_model_len)
        capacity = _cache_bytes(config, self.device)
        self._store = NodeStore(capacity)
        self.cache_tokens = capacity / (kv_numbers_per_token(self._model.config) * self.dtype.itemsize)
        text = self._model.config.get_text_config()
        key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        self._heads_a_key = text.num_attention_heads // key_heads
        self._batched = self.device.type == "cuda" and not config.deterministic
        self._pass_tokens = _BATCH_TOKENS if self._batched else 0
        # Small products leave the threads of one pass waiting for each other, so each thread has a pass of its own.
        self._workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._threads = ThreadPoolExecutor(self._workers, "pass", torch.set_num_threads, (1,))
        if not self._batched and self.context_length >= _TRIAL.longest_prompt and self._packing_keeps_bits():
            self._pass_tokens = _PASS_TOKENS
        self.usage = Usage()

    def _packing_keeps_bits(self) -> bool:
        """Whether the matrix products of this machine give a row the same bits whatever rows are beside it."""
        self.usage = Usage()
        alone = self.score(_TRIAL, [1, 2])
        self._store.clear()
        self._pass_tokens = _PASS_TOKENS
        together = self.score(_TRIAL, [1, 2])
        self._store.clear()
        self._pass_tokens = 0
        return np.array_equal(alone, together)

    @torch.inference_mode()
    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        """See `Engine.score`."""
        check_lengths(tree, self.context_length)
        started = time.perf_counter()
        self._head.label_ids = list(label_ids)
        scores = np.full((tree.queries, len(label_ids)), np.nan)
        stack = [_Visit(tree, path_key(b"", tree.segment), tree.segment)]
        while stack:
            passes = _shares(self._next_visits(stack), self._workers)
            run = self._threads.map if len(passes) > 1 else map
            # The last pass first, so that the children come off the stack in visiting order.
            for visits, kept, log_probs in reversed(list(run(self._run, passes))):
                self._finish(visits, kept, log_probs, stack, scores)
        self.usage.prompts += tree.queries
        self.usage.prompt_tokens += tree.prompt_tokens
        self.usage.seconds += time.perf_counter() - started
        return scores

    def _next_visits(self, stack: list[_Visit]) -> list[_Visit]:
        """Take nodes to compute from the stack until every worker has a full pass; a kept node makes way for its
        children."""
        visits: list[_Visit] = []
        tokens = 0
        while stack and (not visits or tokens + len(stack[-1].segment) <= self._workers * self._pass_tokens):
            visit = stack.pop()
            if visit.node.query is not None and not visit.segment:
                raise ValueError(f"query {visit.node.query}: a prompt without tokens")
            kept = self._store.get(visit.key) if visit.node.query is None else None
            if kept is not None or not visit.segment:
                stack.extend(visit.children(kept or []))
            else:
                visits.append(visit)
                tokens += len(visit.segment)
        return visits

    @torch.inference_mode()
    def _run(self, visits: list[_Visit]) -> tuple[list[_Visit], list[NodeKV], NDArray[np.float64]]:
        """Compute the nodes of one pass. Returns them, their keys and values (empty without children), and the label
        log-probabilities of those that are queries."""
        nodes = [PackedNode(visit.segment, visit.path, bool(visit.node.children), visit.parents) for visit in visits]
        begins = [0, *accumulate(len(node.segment) for node in nodes)]
        asked = [begin + place for begin, visit in zip(begins, visits, strict=False) for place, _ in visit.ends]
        last = torch.tensor(asked, dtype=torch.long, device=self.device)
        if begins[-1] == 1:  # a single row goes through other kernels than two, so it never goes alone
            nodes.append(PackedNode(nodes[0].segment, (), keep=False))
        pack = BatchedPack(nodes, self._heads_a_key) if self._batched else Pack(nodes)
        logits = self._model(**pack.inputs(self.device), use_cache=False, logits_to_keep=last, pack=pack).logits[0]
        log_probs = torch.log_softmax(logits.float(), dim=-1)[:, self._head.label_ids]
        return visits, [node.kv for node in nodes[: len(visits)]], as_doubles(log_probs)

    def _finish(
        self,
        visits: list[_Visit],
        kept: list[NodeKV],
        log_probs: NDArray[np.float64],
        stack: list[_Visit],
        scores: NDArray[np.float64],
    ) -> None:
        """Note what a pass found: scores of the queries, children on the stack."""
        self.usage.computed_tokens += sum(len(visit.segment) for visit in visits)
        asked = [query for visit in visits for _, query in visit.ends]
        scores[asked] = log_probs
        for visit, kv in zip(reversed(visits), reversed(kept), strict=True):
            if visit.node.children:
                if visit.node.query is None:  # what has a query is computed each time
                    self._store.put(visit.key, kv)
                stack.extend(visit.children(kv))

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """See `Engine.generate`."""
        started = time.perf_counter()
        self._head.label_ids = []
        # Generation needs attention that extends a cache, and `packed_attention` has none.
        self._model.set_attn_implementation("sdpa")
        try:
            return [self._continue(prompt, config, seed + row, list(stop)) for row, prompt in enumerate(prompts)]
        finally:
            self._model.set_attn_implementation(ATTENTION)
            self.usage.seconds += time.perf_counter() - started

    def _continue(self, prompt: str, config: GenerationConfig, seed: int, stop: list[str]) -> str:
        ids = torch.tensor([prompt_ids(self.tokenizer, prompt)], device=self.device)
        length = ids.shape[1]
        check_room(length, config.generation_max_tokens, self.context_length)
        torch.manual_seed(seed)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=config.generation_max_tokens,
            do_sample=config.generation_temperature > 0,
            temperature=config.generation_temperature or None,
            top_p=config.generation_top_p,
            stop_strings=stop or None,
            tokenizer=self.tokenizer,
        )[0, length:]
        self.usage.computed_tokens += length + len(output)
        self.usage.generated_tokens += len(output)
        return cut_at(str(self.tokenizer.decode(output, skip_special_tokens=True)), stop)

    def close(self) -> None:
        """See `Engine.close`."""
        self._threads.shutdown()
        self._store.clear()
        self._model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _shares(visits: Sequence[_Visit], count: int) -> list[list[_Visit]]:
    """The visits in at most `count` runs of neighbours, with about equally many tokens each and not too few."""
    ends = list(accumulate(len(visit.segment) for visit in visits))
    count = min(count, 1 + sum(ends[-1:]) // _FEWEST_TOKENS)
    owners = [(end - 1) * count // ends[-1] for end in ends]
    return [
        [visit for visit, owner in zip(visits, owners, strict=True) if owner == share]
        for share in dict.fromkeys(owners)
    ]


def as_doubles(values: torch.Tensor) -> NDArray[np.float64]:
    """A tensor of any device as an array. MPS has no float64: the processor widens (pytorch/pytorch#122602)."""
    return values.cpu().double().numpy()


def pick_device(name: str) -> torch.device:
    """The device that a setting means. Raises PrerequisiteError if it is not present."""
    available = {"cuda": gpus() > 0, "mps": torch.backends.mps.is_available(), "cpu": True}
    found = next(device for device, present in available.items() if present) if name == "auto" else name
    if not available[found]:
        raise PrerequisiteError(f"device {name}: not present on this machine; use --device cpu or --device auto")
    if found == "cuda":
        check_cuda()
    return torch.device(found)


def _cache_bytes(config: EngineConfig, device: torch.device) -> int:
    """Room for keys and values, now that the model is loaded."""
    if device.type != "cuda":
        return int(config.kv_cache_gib * _GIB)
    free, total = torch.cuda.mem_get_info(device)
    usable = free - (1 - config.gpu_memory_utilization) * total
    if usable < _GIB:
        raise PrerequisiteError(
            f"model {config.model}: {free / _GIB:.1f} of {total / _GIB:.1f} GiB of GPU memory are free beside it, of "
            f"which --gpu-memory-utilization {config.gpu_memory_utilization} allows {max(usable, 0) / _GIB:.1f}; at "
            "least 1 is needed: end other programs on the GPU, or raise it"
        )
    return int(_CACHE_SHARE * usable)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that a setting means on that device."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return torch.bfloat16


def _check_architecture(model: str, config: PreTrainedConfig) -> None:
    """Raise ConfigError for models that cannot be run node by node with this attention function."""
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    ropes = getattr(text, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type") for rope in (ropes, *ropes.values()) if isinstance(rope, dict)}
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    reasons = {
        f"{sorted(layers)} layers": not layers <= {"full_attention", "sliding_attention"},
        # Their angles depend on the longest prompt in a pass, so a node's keys would depend on other nodes.
        "positions that depend on the prompt's length": bool(kinds & {"longrope", "dynamic"}),
        "attention of its own": not getattr(architecture, "_supports_attention_backend", False)
        or hasattr(text, "v_head_dim"),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"model {model}: has {reason}, which --engine transformers lacks; use --engine vllm")


def _load(folder: str, config: EngineConfig, device: torch.device) -> Any:
    """The model in evaluation mode, with the adapter merged into it; transformers has no type that can `generate`."""
    _check_architecture(config.model, AutoConfig.from_pretrained(folder, revision=config.revision))
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        revision=config.revision,
        dtype=pick_dtype(config.dtype, device),
        attn_implementation=ATTENTION,
        use_safetensors=True,
    )
    if config.adapter:
        from peft import PeftModel

        adapter = read_adapter(config.adapter)
        with applying(adapter, config.model):
            model = PeftModel.from_pretrained(model, str(adapter.folder)).merge_and_unload()
    return model.to(device).eval()
