"""Zero-shot chat through an OpenAI-compatible server: bounded retries, rate limit, cache by content, counted cost."""

import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from eval.conditions.answers import Answer, Batch, prompt_hash
from eval.conditions.in_context import ITEMS_PER_BATCH, chat_messages, label_words
from eval.conditions.pool import EnginePool
from eval.settings import ServerConfig
from icm.errors import ConfigError, PrerequisiteError
from icm.examples import ICMExample, LabelSpace
from icm.files import fingerprint, parse_object, write_json
from icm.models import models_cache

_LONGEST_WAIT = 60.0
_TOP_LOGPROBS = 20
_RETRIED_STATUS = {408, 409, 425, 429}
_UNSUPPORTED_STATUS = {400, 422}


@dataclass(frozen=True)
class Reply:
    """One reply of the server, as it is cached.

    Attributes:
        text: the reply.
        first_token: (token text, natural-log probability) of the likeliest first tokens; empty if the server
            gives none.
        input_tokens, output_tokens: as the server counts them.
    """

    text: str
    first_token: tuple[tuple[str, float], ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0


class _Unusable(Exception):
    """An answer that is worth asking again for: broken, or empty."""


class ChatClient:
    """Asks one model on one server. Safe to use from several threads.

    Attributes:
        requests: HTTP requests sent, retries included.
    """

    def __init__(self, server: ServerConfig, model: str) -> None:
        self._server, self._model = server, model
        # Retries are counted and cover broken bodies, which the library's own retries do not.
        self._client = openai.OpenAI(
            base_url=server.base_url, api_key=_api_key(server), timeout=server.timeout, max_retries=0
        )
        self._limit = _RateLimit(server.requests_per_minute)
        self._lock = threading.Lock()
        self._log_probs = True
        self.requests = 0

    def ask(self, messages: Sequence[dict[str, str]]) -> Reply:
        """One usable reply.

        Raises:
            ConfigError: the server refuses the request itself (key, model name, parameters): no item could succeed.
            OSError: every try failed; the message is the last failure.
        """
        for attempt in range(self._server.max_retries + 1):
            self._limit.wait()
            with self._lock:
                self.requests += 1
                log_probs = self._log_probs
            try:
                return _reply(self._create(messages, log_probs))
            except openai.APIStatusError as error:
                failure: Exception = error
                if log_probs and error.status_code in _UNSUPPORTED_STATUS:
                    # Some servers refuse the request for log-probabilities; the reply's text is enough.
                    self._log_probs = False
                    continue
                if error.status_code < 500 and error.status_code not in _RETRIED_STATUS:
                    raise ConfigError(f"{self._server.base_url}: {self._model}: {_short(error)}") from None
            except (openai.APIError, json.JSONDecodeError, _Unusable) as error:
                failure = error
            if attempt < self._server.max_retries:
                time.sleep(_wait(failure, self._server.retry_delay * 2**attempt))
        raise OSError(f"no answer after {self._server.max_retries + 1} tries: {_short(failure)}")

    def _create(self, messages: Sequence[dict[str, str]], log_probs: bool) -> Any:
        return self._client.chat.completions.create(
            model=self._model,
            messages=list(messages),  # type: ignore[arg-type]
            max_tokens=self._server.max_tokens,
            temperature=0,
            logprobs=True if log_probs else openai.omit,
            top_logprobs=_TOP_LOGPROBS if log_probs else openai.omit,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _RateLimit:
    """Spaces requests evenly over a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        time.sleep(start - now)


@dataclass(frozen=True)
class ServerChat:
    """Zero-shot chat on a server.

    Attributes:
        server: where to ask.
        model: the server's name for the model.
    """

    server: ServerConfig
    model: str
    label_space: LabelSpace

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`. An item that got no usable reply is an `Answer` with `error`."""
        client = ChatClient(self.server, self.model)
        try:
            with ThreadPoolExecutor(self.server.concurrency) as workers:
                for start in range(0, len(examples), ITEMS_PER_BATCH):
                    part = examples[start : start + ITEMS_PER_BATCH]
                    before, started = client.requests, time.perf_counter()
                    done = list(workers.map(lambda example: self._one(client, example), part))
                    seconds = time.perf_counter() - started
                    yield Batch(
                        tuple(answer for answer, _ in done),
                        self._usage([usage for _, usage in done])
                        | {"requests": client.requests - before, "seconds": seconds},
                    )
        finally:
            client.close()

    def _one(self, client: ChatClient, example: ICMExample) -> tuple[Answer, dict[str, float]]:
        messages = chat_messages(example, self.label_space)
        cached = _cache_path(self.server, self.model, messages)
        if cached.exists():
            return self._answer(example, messages, _read_reply(cached)), {"cached": 1}
        try:
            reply = client.ask(messages)
        except OSError as error:
            return Answer(example.id, prompt_hash=prompt_hash(messages), error=str(error)), {"failures": 1}
        write_json(cached, asdict(reply))
        usage: dict[str, float] = {
            "prompts": 1,
            "prompt_tokens": reply.input_tokens,
            "generated_tokens": reply.output_tokens,
        }
        return self._answer(example, messages, reply), usage

    def _answer(self, example: ICMExample, messages: Any, reply: Reply) -> Answer:
        answer = Answer(example.id, prompt_hash=prompt_hash(messages))
        words = label_words(self.label_space)
        log_probs = _label_log_probs(reply.first_token, words)
        if log_probs is not None:
            return replace(answer, log_probs=log_probs)
        found = _label_in(reply.text, words)
        if found is None:
            return replace(answer, error=f"no single label in the reply {reply.text[:60]!r}")
        return replace(answer, label=self.label_space.labels[found])

    def _usage(self, parts: Sequence[dict[str, float]]) -> dict[str, float]:
        total = {key: sum(part.get(key, 0) for part in parts) for key in {key for part in parts for key in part}}
        if self.server.price_input is not None and self.server.price_output is not None:
            input_cost = total.get("prompt_tokens", 0) * self.server.price_input
            total["dollars"] = (input_cost + total.get("generated_tokens", 0) * self.server.price_output) / 1e6
        return total


def _api_key(server: ServerConfig) -> str:
    if server.api_key_env is None:
        return "none"
    key = os.environ.get(server.api_key_env)
    if not key:
        raise PrerequisiteError(f"environment variable {server.api_key_env} is not set; it holds the server's key")
    return key


def check_key(server: ServerConfig) -> None:
    """Raise PrerequisiteError if the server's key is not in the environment."""
    _api_key(server)


def _reply(completion: Any) -> Reply:
    """What a completion says. Servers leave fields out or answer with something else: that is asked again."""
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise _Unusable("the server's answer is not a chat completion")
    choice, usage = completion.choices[0], completion.usage
    text = (choice.message.content if choice.message else None) or ""
    if not text.strip():
        raise _Unusable("empty reply")
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    first = tuple((entry.token, entry.logprob) for entry in (tokens[0].top_logprobs or ())) if tokens else ()
    return Reply(text, first, *((usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)))


def _label_log_probs(first_token: Sequence[tuple[str, float]], words: Sequence[str]) -> tuple[float, ...] | None:
    """Log-probability of each label's beginning; None if a label is not among the listed tokens: absent is not
    improbable by a known amount."""
    totals = []
    for word in words:
        others = [other.lower() for other in words if other != word]
        own = [
            log_prob
            for token, log_prob in first_token
            if _begins(word.lower(), token) and not any(_begins(other, token) for other in others)
        ]
        totals.append(math.log(sum(map(math.exp, own))) if own and max(own) > -700 else None)
    return None if None in totals else tuple(total for total in totals if total is not None)


def _begins(word: str, token: str) -> bool:
    text = token.strip().lower()
    return bool(text) and word.startswith(text)


def _label_in(text: str, words: Sequence[str]) -> int | None:
    """The one label that the reply names, as a whole word; None if it names none or several."""
    found = [k for k, word in enumerate(words) if _spaced(word) in _spaced(text)]
    return found[0] if len(found) == 1 else None


def _spaced(text: str) -> str:
    return f" {' '.join(''.join(c if c.isalnum() else ' ' for c in text.lower()).split())} "


def _wait(failure: Exception, backoff: float) -> float:
    """Seconds to wait: the server's Retry-After, else the back-off with jitter, so that threads do not ask at once."""
    response = getattr(failure, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    seconds = float(asked) if asked.replace(".", "", 1).isdigit() else backoff * random.uniform(0.75, 1.25)
    return min(seconds, _LONGEST_WAIT)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _cache_path(server: ServerConfig, model: str, messages: Any) -> Any:
    key = fingerprint([server.base_url, model, server.max_tokens, _TOP_LOGPROBS, messages])
    return models_cache().parent / "responses" / f"{key}.json"


def _read_reply(path: Any) -> Reply:
    row = parse_object(path.read_text(encoding="utf-8"), str(path))
    return Reply(**{**row, "first_token": tuple((token, log_prob) for token, log_prob in row["first_token"])})
