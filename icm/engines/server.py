"""Scores a prompt tree on an OpenAI-compatible completions server (`vllm serve`, Together AI, OpenRouter, …)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from icm.config import EngineConfig, GenerationConfig
from icm.engines.base import Engine, Usage
from icm.engines.common import check_lengths, check_room, context_length, cut_at, model_files
from icm.errors import ConfigError, PrerequisiteError
from icm.http import (
    JsonClient,
    NoAnswer,
    NothingThere,
    Refused,
    Reply,
    UnusableReply,
    brief,
    check_address,
    key_name,
    read_count,
    read_log_prob,
    server_key,
)
from icm.markdown import local_path
from icm.models import is_embedded, resolve_model
from icm.prompts import PromptTree, prompt_ids

_TRIES = 6
_FIRST_WAIT = 0.5  # seconds before the first repeat; doubled each time
_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
_CONCURRENCY = 8
_MOST_TOKEN_IDS = 128  # that a vLLM server takes in one request
_TOP_LOGPROBS = 20  # asked of servers that cannot be asked for the label tokens themselves

# Any: what a server sends; it is checked where it is read.
_Json = dict[str, Any]
_Completion = tuple[_Json, _Json]  # first choice, usage


def _models(reply: Any) -> list[_Json]:
    entries = reply.get("data", []) if isinstance(reply, dict) else reply
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("id"), str) for e in entries):
        raise UnusableReply(f"expected a list of models, found {brief(reply)}")
    return entries


def _completion(reply: Any) -> _Completion:
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        if isinstance(choice["text"], str) and isinstance(usage, dict):
            read_count(usage, "completion_tokens")
            read_count(usage.get("prompt_tokens_details") or {}, "cached_tokens")
            return choice, usage
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    raise UnusableReply(f"expected a completion with choices[0].text and usage, found {brief(reply)}")


def _top_log_probs(choice: _Json) -> dict[str, object]:
    """Token text → log-probability of the first token, in the form of completions or in that of chats.

    Raises:
        UnusableReply: none are there.
    """
    try:
        log_probs = choice["logprobs"]
        if "content" not in log_probs:
            return dict(log_probs["top_logprobs"][0])
        # Likeliest first: of two tokens that read alike the first one counts.
        entries = reversed(log_probs["content"][0]["top_logprobs"])
        return {entry["token"]: entry["logprob"] for entry in entries}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        log_probs = choice.get("logprobs")
        raise UnusableReply(f"found {brief(log_probs) if log_probs else 'none'}") from None


class ServerEngine(Engine):
    """Prompts in tree order to a server, a few at a time.

    vLLM servers get token ids and are asked for exactly the label tokens. Others get text and their most likely
    tokens are searched for the labels; one that is missing is an error, never a zero. So they score no verbaliser
    whose tokens are not among the likeliest, and split a text that ends within a word as they like.
    """

    name = "server"

    def __init__(self, config: EngineConfig) -> None:
        self._url = _base_url(config.base_url)
        self._key_name = key_name(self._url)
        self._http = JsonClient(self._url, server_key(self._url), _TRIES, _FIRST_WAIT, _TIMEOUT)
        self.cache_tokens = math.inf
        self.usage = Usage()
        with self._closing_on_error():
            served = self._served(config.model)
            self._model = str(served["id"])
            self._vllm = served.get("owned_by") == "vllm"
            self.tokenizer: Any = _tokenizer(config, served)
            self.context_length = self._context(config, served)

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _served(self, name: str) -> _Json:
        """The server's entry of the model: by its name, or by the folder that the name stands for on this machine."""
        models = self._ask("GET", "/models", None, _models)
        known = {entry["id"]: entry for entry in reversed(models)}
        if name in known:
            return known[name]
        folder = resolve_model(name) if is_embedded(name) else str(local_path(name))
        if folder in known:
            return known[folder]
        names = ", ".join(known_name[:100] for known_name in [entry["id"] for entry in models][:5]) or "nothing"
        raise ConfigError(
            f"model {name}: not served by {self._url}, which serves {names}; give one of these as --model"
        )

    def _context(self, config: EngineConfig, served: Mapping[str, Any]) -> int:
        """Longest prompt, one position left for the token behind it: the least of what server, model and user say."""
        stated = served.get("max_model_len")
        if stated is not None and (isinstance(stated, bool) or not isinstance(stated, int) or stated < 2):
            raise PrerequisiteError(
                f"server {self._url}/models: max_model_len: expected a count of tokens, found {brief(stated)}"
            )
        own = _own_context(config, stated)
        if own is None:
            raise ConfigError(
                f"model {config.model}: server {self._url} does not say how long its context is; give --max-model-len"
            )
        return min(own, stated or own) - 1

    def _ask(self, method: str, path: str, body: object, read: Callable[[object], Reply]) -> Reply:
        """A reply of the server, with errors that name it. Called from several threads."""
        try:
            return self._http.ask(method, path, body, read)
        except Refused as error:
            if error.status in (401, 403):
                raise PrerequisiteError(f"server {self._url}: status {error.status}; set {self._key_name}") from None
            raise ConfigError(f"server {self._url}: {error}") from None
        except NothingThere as error:
            raise PrerequisiteError(f"server {self._url}: {error}; start the server, or correct --base-url") from None
        except NoAnswer as error:
            raise PrerequisiteError(
                f"server {self._url}{path}: failed {_TRIES} times, last: {error}; wait if the server is still "
                "loading (its own log says), restart it if it has died, else correct --base-url"
            ) from None

    def score(self, tree: PromptTree, label_ids: Sequence[int]) -> NDArray[np.float64]:
        """See `Engine.score`.

        Raises:
            PrerequisiteError: the server keeps failing, or does not return a label's log-probability.
        """
        check_lengths(tree, self.context_length)
        requests = list(tree.requests(label_ids, _MOST_TOKEN_IDS if self._vllm else len(label_ids)))
        asked = [[label_ids[place] for place in places] for _, _, places in requests]
        prompts = [prompt for _, prompt, _ in requests]
        bodies = [
            {**self._label_request(ids), "prompt": self._prompt(prompt)}
            for ids, prompt in zip(asked, prompts, strict=True)
        ]
        scores = np.full((tree.queries, len(label_ids)), np.nan)
        replies = self._complete(bodies, prompts)
        for (query, _, places), ids, (choice, _) in zip(requests, asked, replies, strict=True):
            scores[query, places] = self._label_log_probs(choice, ids)
        return scores

    def _prompt(self, ids: Sequence[int]) -> list[int] | str:
        return list(ids) if self._vllm else self.tokenizer.decode(ids, skip_special_tokens=True)

    def _label_request(self, labels: list[int]) -> _Json:
        request = {"max_tokens": 1, "temperature": 0, "logprobs": _TOP_LOGPROBS}
        if not self._vllm:
            return request
        return {**request, "logprobs": 1, "logprob_token_ids": labels, "return_tokens_as_token_ids": True}

    def _label_log_probs(self, choice: _Json, labels: list[int]) -> list[float]:
        names = [f"token_id:{label}" if self._vllm else self.tokenizer.decode([label]) for label in labels]
        try:
            listed = _top_log_probs(choice)
            if missing := [name for name in names if name not in listed]:
                raise UnusableReply(f"{missing} not among those found, {brief(listed)}")
            values = [read_log_prob(listed[name]) for name in names]
            if -math.inf in values:
                raise UnusableReply(f"minus infinity in {brief(listed)}")
            return values
        except UnusableReply as error:
            raise PrerequisiteError(
                f"server {self._url}: expected the log-probabilities of {names}: {self._http.shown(str(error))}; "
                "use a server that returns them, such as `vllm serve`"
            ) from None

    def generate(
        self, prompts: Sequence[str], config: GenerationConfig, seed: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """See `Engine.generate`."""
        ids = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        check_room(max(map(len, ids), default=0), config.generation_max_tokens, self.context_length)
        ask = {
            "max_tokens": config.generation_max_tokens,
            "temperature": config.generation_temperature,
            "top_p": config.generation_top_p,
            **({"stop": list(stop)} if stop else {}),
        }
        bodies = [{**ask, "prompt": prompt, "seed": seed + row} for row, prompt in enumerate(prompts)]
        replies = self._complete(bodies, ids)
        self.usage.generated_tokens += sum(read_count(usage, "completion_tokens") for _, usage in replies)
        return [cut_at(choice["text"], stop) for choice, _ in replies]

    def _complete(self, bodies: Sequence[_Json], prompts: Sequence[Sequence[int]]) -> list[_Completion]:
        """Send requests in order, a few at a time. The first failure for good drops those not yet sent."""
        started = time.perf_counter()
        pool = ThreadPoolExecutor(_CONCURRENCY)
        try:
            replies = list(pool.map(self._completed, bodies))
        finally:
            pool.shutdown(cancel_futures=True)
            self.usage.failures = self._http.failures
            self.usage.seconds += time.perf_counter() - started
        for prompt, (_, usage) in zip(prompts, replies, strict=True):
            self._count(len(prompt), usage)
        return replies

    def _completed(self, body: _Json) -> _Completion:
        return self._ask("POST", "/completions", {**body, "model": self._model}, _completion)

    def _count(self, tokens: int, usage: Mapping[str, Any]) -> None:
        cached = read_count(usage.get("prompt_tokens_details") or {}, "cached_tokens")
        self.usage.prompts += 1
        self.usage.prompt_tokens += tokens
        self.usage.computed_tokens += max(0, tokens - cached)

    def close(self) -> None:
        """See `Engine.close`."""
        self._http.close()


def _base_url(url: str | None) -> str:
    """The address, with `/v1` where no path is given."""
    address = check_address(url)
    return address if urlsplit(address).path else f"{address}/v1"


def _tokenizer(config: EngineConfig, served: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    folder, revision = model_files(config)
    try:
        return AutoTokenizer.from_pretrained(folder, revision=revision)
    except Exception as error:  # what a folder or hub that holds no tokenizer makes of it
        said = served.get("root")
        of = f"; the server says it is {said[:200]}" if isinstance(said, str) and said != config.model else ""
        reason = " ".join(str(error).split())[:150]
        raise ConfigError(
            f"tokenizer: none can be had from {config.tokenizer or config.model}{of}; give --tokenizer NAME, a hub "
            f"name or a folder with the tokenizer of the served model ({reason})"
        ) from None


def _own_context(config: EngineConfig, stated: int | None) -> int | None:
    """What the model's configuration and the user say; a tokenizer's folder may have no configuration."""
    from transformers import AutoConfig

    folder, revision = model_files(config)
    try:
        model_config = AutoConfig.from_pretrained(folder, revision=revision)
    except (OSError, ValueError):
        return config.max_model_len or stated
    return context_length(model_config, config.max_model_len)
