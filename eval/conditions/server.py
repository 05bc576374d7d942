"""Zero-shot chat through an OpenAI-compatible server: bounded retries, rate limit, cache by content, counted cost."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eval.conditions.answers import Answer, Batch, prompt_hash
from eval.conditions.base import parts
from eval.conditions.chat import Messages, chat_messages, label_words
from eval.conditions.pool import EnginePool
from eval.settings import ServerConfig
from icm.errors import ConfigError, DataError, PrerequisiteError
from icm.examples import ICMExample, LabelSpace
from icm.files import fingerprint, read_object, write_json
from icm.http import (
    JsonClient,
    NoAnswer,
    Refused,
    UnusableReply,
    brief,
    read_count,
    read_log_prob,
    server_key,
)
from icm.models import cache_folder

_TOP_LOGPROBS = 20
_UNSUPPORTED_STATUS = {400, 422}


@dataclass(frozen=True)
class Reply:
    """One reply of the server, as it is cached.

    Attributes:
        text: the reply.
        first_token: (token text, natural-log probability) of the likeliest first tokens; empty if the server
            gives none.
        input_tokens, output_tokens: as the server counts them.
        cut: whether the server ended it at its longest length rather than the model.
    """

    text: str
    first_token: tuple[tuple[str, float], ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cut: bool = False


_REPLY = TypeAdapter(Reply)


class ChatClient:
    """Asks one model on one server. Safe to use from several threads."""

    def __init__(self, server: ServerConfig, model: str) -> None:
        self._server, self._model = server, model
        tries, rate = server.max_retries + 1, server.requests_per_minute
        self._http = JsonClient(server.base_url, check_key(server), tries, server.retry_delay, server.timeout, rate)
        self._log_probs = True

    @property
    def requests(self) -> int:
        """HTTP requests sent, retries included."""
        return self._http.requests

    def ask(self, messages: Messages) -> Reply:
        """One usable reply.

        Raises:
            ConfigError: the server refuses the request itself (key, model name, parameters): no item could succeed.
            NoAnswer: every try failed.
        """
        log_probs = self._log_probs
        body = {"model": self._model, "messages": messages, "max_tokens": self._server.max_tokens, "temperature": 0}
        more = {"logprobs": True, "top_logprobs": _TOP_LOGPROBS} if log_probs else {}
        try:
            return self._http.ask("POST", "/chat/completions", body | more, _reply)
        except Refused as error:
            if log_probs and error.status in _UNSUPPORTED_STATUS:
                # Some servers refuse the request for log-probabilities; the reply's text is enough.
                self._log_probs = False
                return self.ask(messages)
            raise ConfigError(f"{self._server.base_url}: {self._model}: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


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

    def __post_init__(self) -> None:
        longest = max(label_words(self.label_space), key=lambda word: len(word.split()))
        least, most = len(longest.split()), self.server.max_tokens
        if least > most:
            raise ConfigError(f"server.max_tokens: found {most}, expected at least {least}, for the reply {longest!r}")

    def answer(self, examples: Sequence[ICMExample], engines: EnginePool) -> Iterator[Batch]:
        """See `Condition.answer`. An item that got no usable reply is an `Answer` with `error`."""
        client = ChatClient(self.server, self.model)
        try:
            with ThreadPoolExecutor(self.server.concurrency) as workers:
                for part in parts(examples):
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
        except NoAnswer as error:
            failure = f"no answer after {self.server.max_retries + 1} tries of {self.server.base_url}: {error}"
            return Answer(example.id, prompt_hash=prompt_hash(messages), error=failure), {"failures": 1}
        write_json(cached, asdict(reply))
        usage: dict[str, float] = {
            "prompts": 1,
            "prompt_tokens": reply.input_tokens,
            "generated_tokens": reply.output_tokens,
        }
        return self._answer(example, messages, reply), usage

    def _answer(self, example: ICMExample, messages: Messages, reply: Reply) -> Answer:
        answer = Answer(example.id, prompt_hash=prompt_hash(messages))
        words = label_words(self.label_space)
        log_probs = _label_log_probs(reply.first_token, words)
        if log_probs is not None:
            return replace(answer, log_probs=log_probs)
        found = None if reply.cut and _goes_on(reply.text, words) else _label_in(reply.text, words)
        if found is None:
            why = f", which ends after its longest length (server.max_tokens {self.server.max_tokens})" * reply.cut
            return replace(answer, error=f"no single label in the reply {reply.text[:60]!r}{why}")
        return replace(answer, label=self.label_space.labels[found])

    def _usage(self, costs: Sequence[dict[str, float]]) -> dict[str, float]:
        total = {key: sum(cost.get(key, 0) for cost in costs) for key in {key for cost in costs for key in cost}}
        if self.server.price_input is not None and self.server.price_output is not None:
            input_cost = total.get("prompt_tokens", 0) * self.server.price_input
            total["dollars"] = (input_cost + total.get("generated_tokens", 0) * self.server.price_output) / 1e6
        return total


def check_key(server: ServerConfig) -> str | None:
    """The server's key. Raises PrerequisiteError if it is not in the environment, ConfigError if it is another's."""
    key = server_key(server.base_url, server.api_key_env) if server.api_key_env else None
    if server.api_key_env and not key:
        raise PrerequisiteError(f"environment variable {server.api_key_env} is not set; it holds the server's key")
    return key


def _reply(completion: Any) -> Reply:  # Any: JSON of a server
    """What a completion says. Servers leave fields out or answer with something else: that is asked again."""
    try:
        choice, usage = completion["choices"][0], completion.get("usage") or {}
        text = choice["message"]["content"] or ""
        if not text.strip():
            raise UnusableReply("empty reply")
        tokens = (choice.get("logprobs") or {}).get("content") or []
        listed = (tokens[0].get("top_logprobs") or []) if tokens else []
        first = [(str(entry["token"]), read_log_prob(entry["logprob"])) for entry in listed]
        asked, given = (read_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
        cut = choice.get("finish_reason") == "length"
        return Reply(text, tuple(entry for entry in first if math.isfinite(entry[1])), asked, given, cut)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnusableReply(f"expected a chat completion, found {brief(completion)}") from None


def _label_log_probs(first_token: Sequence[tuple[str, float]], words: Sequence[str]) -> tuple[float, ...] | None:
    """Log-probability of each label's beginning, which is all that a chat server lists; None if a label's is not
    there (absent is not improbable by a known amount) or begins another label too: then the reply's text counts."""
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


def _goes_on(text: str, words: Sequence[str]) -> bool:
    """Whether the reply can be the beginning of a longer label."""
    said = " ".join(text.lower().split())
    return any(word.lower().startswith(said) and word.lower() != said for word in words)


def _label_in(text: str, words: Sequence[str]) -> int | None:
    """The one label that the reply names, in whole words; None if it names none or several. "Very positive" names no
    label "positive"."""
    left, found = _spaced(text), []
    for place in sorted(range(len(words)), key=lambda place: -len(words[place])):
        if _spaced(words[place]) in left:
            found.append(place)
            left = left.replace(_spaced(words[place]), " | ")
    return found[0] if len(found) == 1 else None


def _spaced(text: str) -> str:
    return f" {' '.join(''.join(c if c.isalnum() else ' ' for c in text.lower()).split())} "


def _cache_path(server: ServerConfig, model: str, messages: Messages) -> Path:
    key = fingerprint([server.base_url, model, server.max_tokens, _TOP_LOGPROBS, messages])
    return cache_folder() / "responses" / f"{key}.json"


def _read_reply(path: Path) -> Reply:
    try:
        return _REPLY.validate_python(read_object(path))
    except ValidationError:
        raise DataError(f"{path}: not a kept reply of this version; remove it to ask again") from None
