"""Scores a prompt tree on an OpenAI-compatible completions server (`vllm serve`, Together AI, OpenRouter, …)."""

import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from icm.config import EngineConfig, GenerationConfig
from icm.engines.base import Engine, Usage
from icm.engines.common import check_lengths, check_room, context_length, cut_at
from icm.errors import ConfigError, PrerequisiteError
from icm.models import resolve_model
from icm.prompts import PromptTree

_ATTEMPTS = 6
_FIRST_WAIT = 0.5  # seconds before the first repeat; doubled each time
_LONGEST_WAIT = 30.0
_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
_CONCURRENCY = 8
_TOP_LOGPROBS = 20  # asked of servers that cannot be asked for the label tokens themselves
_REPEATABLE = {408, 409, 425, 429, *range(500, 600)}
_KEYS = {"api.together.xyz": "TOGETHER_API_KEY", "openrouter.ai": "OPENROUTER_API_KEY"}

_Reply = tuple[dict[str, Any], dict[str, Any]]  # first choice, usage


class _BadReplyError(Exception):
    """A reply that another attempt may mend; the message goes into the final error."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass
class CompletionsClient:
    """`POST /completions` with bounded, backed-off repeats. Used from several threads.

    Attributes:
        base_url: address up to and including `/v1`.
        failures: requests that failed and were repeated or given up.
    """

    base_url: str
    failures: int = 0
    _http: httpx.Client = field(init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        key = os.environ.get(self.key_name)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.base_url, headers=headers, timeout=_TIMEOUT)

    @property
    def key_name(self) -> str:
        """Environment variable that holds the key for this host."""
        return _KEYS.get(urlsplit(self.base_url).hostname or "", "OPENAI_API_KEY")

    def models(self) -> list[dict[str, Any]]:
        """Entries of `GET /models`."""
        reply = self._repeat("GET", "/models", None)
        entries = reply if isinstance(reply, list) else reply.get("data", [])
        return [entry for entry in entries if isinstance(entry, dict)]

    def complete(self, body: Mapping[str, Any]) -> _Reply:
        """First choice and usage of one completion."""
        reply = self._repeat("POST", "/completions", body, _check_choice)
        return reply["choices"][0], reply.get("usage") or {}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _repeat(self, method: str, path: str, body: Any, check: Any = None) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                reply = self._once(method, path, body)
                if check is not None:
                    check(reply)
                return reply
            except _BadReplyError as error:
                last, wait = error, error.wait
            except httpx.TransportError as error:
                last, wait = _BadReplyError(f"{type(error).__name__}: {error}"), None
            with self._lock:
                self.failures += 1
            if attempt + 1 < _ATTEMPTS:
                backoff = _FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.0)
                time.sleep(min(_LONGEST_WAIT, wait if wait is not None else backoff))
        raise PrerequisiteError(f"server {self.base_url}{path}: failed {_ATTEMPTS} times, last: {last}")

    def _once(self, method: str, path: str, body: Any) -> Any:
        response = self._http.request(method, path, json=body)
        if response.status_code in _REPEATABLE:
            raise _BadReplyError(f"status {response.status_code}", _retry_after(response))
        if response.status_code in (401, 403):
            raise PrerequisiteError(f"server {self.base_url}: status {response.status_code}; set {self.key_name}")
        if response.is_error:
            raise ConfigError(f"server {self.base_url}: status {response.status_code}: {response.text[:300]}")
        try:
            return response.json()
        except ValueError as error:
            raise _BadReplyError(f"broken JSON ({error})") from None


def _check_choice(reply: Any) -> None:
    try:
        reply["choices"][0]["text"]
    except (KeyError, IndexError, TypeError):
        raise _BadReplyError(f"no completion in {str(reply)[:100]!r}") from None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait. The HTTP-date form is left to the back-off."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else None


class ServerEngine(Engine):
    """Prompts in tree order to a server, a few at a time.

    vLLM servers get token ids and are asked for exactly the label tokens. Others get text and their most likely
    tokens are searched for the labels; one that is missing is an error, never a zero.
    """

    name = "server"

    def __init__(self, config: EngineConfig) -> None:
        self._client = CompletionsClient(_base_url(config.base_url))
        if config.adapter is not None:
            raise ConfigError("engine server: the server loads adapters; name the adapter it serves as --model")
        folder = resolve_model(config.model, config.revision)
        self.cache_tokens = math.inf
        self.usage = Usage()
        with self._closing_on_error():
            served = self._served(config.model, folder)
            self._model = str(served["id"])
            self._vllm = served.get("owned_by") == "vllm"
            self.context_length = _context(folder, config, served)
            self.tokenizer: Any = _tokenizer(folder, config)

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _served(self, name: str, folder: str) -> dict[str, Any]:
        models = self._client.models()
        for entry in models:
            if entry.get("id") in (name, folder):
                return entry
        known = ", ".join(str(entry.get("id")) for entry in models[:5]) or "nothing"
        raise ConfigError(f"model {name}: not served by {self._client.base_url}, which serves {known}")

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        """See `Engine.score`.

        Raises:
            PrerequisiteError: the server keeps failing, or does not return a label's log-probability.
        """
        check_lengths(tree, self.context_length)
        labels = list(label_ids)
        queries = [query for query, _ in tree.paths()]
        prompts = [prompt for _, prompt in tree.paths()]
        ask = self._label_request(labels)
        replies = self._complete([{**ask, "prompt": self._prompt(prompt)} for prompt in prompts], prompts)
        scores = np.full((tree.queries, len(labels)), np.nan)
        for query, (choice, _) in zip(queries, replies, strict=True):
            scores[query] = self._label_log_probs(choice, labels)
        return scores

    def _prompt(self, ids: Sequence[int]) -> list[int] | str:
        return list(ids) if self._vllm else self.tokenizer.decode(ids, skip_special_tokens=True)

    def _label_request(self, labels: list[int]) -> dict[str, Any]:
        request = {"max_tokens": 1, "temperature": 0, "logprobs": _TOP_LOGPROBS}
        if not self._vllm:
            return request
        return {**request, "logprobs": 1, "logprob_token_ids": labels, "return_tokens_as_token_ids": True}

    def _label_log_probs(self, choice: dict[str, Any], labels: list[int]) -> list[float]:
        names = [f"token_id:{label}" if self._vllm else self.tokenizer.decode([label]) for label in labels]
        try:
            found = choice["logprobs"]["top_logprobs"][0]
            return [float(found[name]) for name in names]
        except (KeyError, IndexError, TypeError):
            found = (choice.get("logprobs") or {}).get("top_logprobs") or "none"
            raise PrerequisiteError(
                f"server {self._client.base_url}: expected the log-probabilities of {names}, found {str(found)[:200]}; "
                "use a server that returns them, such as `vllm serve`"
            ) from None

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """See `Engine.generate`."""
        ids = [self.tokenizer(prompt).input_ids for prompt in prompts]
        check_room(max(map(len, ids), default=0), config.generation_max_tokens, self.context_length)
        ask = {
            "max_tokens": config.generation_max_tokens,
            "temperature": config.generation_temperature,
            "top_p": config.generation_top_p,
            **({"stop": list(stop)} if stop else {}),
        }
        bodies = [{**ask, "prompt": prompt, "seed": seed + row} for row, prompt in enumerate(prompts)]
        replies = self._complete(bodies, ids)
        self.usage.generated_tokens += sum(int(usage.get("completion_tokens") or 0) for _, usage in replies)
        return [cut_at(choice["text"], stop) for choice, _ in replies]

    def _complete(self, bodies: Sequence[dict[str, Any]], prompts: Sequence[Sequence[int]]) -> list[_Reply]:
        """Send requests in order, a few at a time. The first failure for good drops those not yet sent."""
        started = time.perf_counter()
        pool = ThreadPoolExecutor(_CONCURRENCY)
        try:
            replies = list(pool.map(self._client.complete, ({**body, "model": self._model} for body in bodies)))
        finally:
            pool.shutdown(cancel_futures=True)
            self.usage.failures = self._client.failures
            self.usage.seconds += time.perf_counter() - started
        for prompt, (_, usage) in zip(prompts, replies, strict=True):
            self._count(len(prompt), usage)
        return replies

    def _count(self, tokens: int, usage: Mapping[str, Any]) -> None:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.usage.prompts += 1
        self.usage.prompt_tokens += tokens
        self.usage.computed_tokens += tokens - int(cached)

    def close(self) -> None:
        """See `Engine.close`."""
        self._client.close()


def _base_url(url: str | None) -> str:
    parts = urlsplit(url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url: found {url!r}, expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ConfigError("base_url: holds a user name, password or query; keys belong in the environment")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")  # type: ignore[union-attr]


def _tokenizer(folder: str, config: EngineConfig) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, revision=config.revision)


def _context(folder: str, config: EngineConfig, served: Mapping[str, Any]) -> int:
    """Longest prompt, one position left for the token behind it."""
    from transformers import AutoConfig

    own = context_length(AutoConfig.from_pretrained(folder, revision=config.revision), config.max_model_len)
    return min(own, int(served.get("max_model_len") or own)) - 1
