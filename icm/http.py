"""JSON over HTTP with bounded, backed-off tries: the one client of every server that models are asked on."""

import math
import os
import random
import re
import reprlib
import time
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from icm.errors import ConfigError, PrerequisiteError

LONGEST_WAIT = 60.0
_KEYS = {"api.together.xyz": "TOGETHER_API_KEY", "openrouter.ai": "OPENROUTER_API_KEY"}
_REPEATABLE = {408, 409, 425, 429, *range(500, 600)}
_SHOWN = 300  # characters of a server's message
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxother = 4, 6, 4, 100, 60
_ROUNDING, _LEAST_LOG_PROB = 1e-3, -1e5  # servers write -9999 for minus infinity
_MOST_TOKENS = 2**40

Reply = TypeVar("Reply")


def brief(value: object) -> str:
    """A value of a server's reply on one line, however long or deeply nested it is."""
    return " ".join(_BRIEF.repr(value).split())[:_SHOWN]


def read_log_prob(value: object) -> float:
    """A log-probability; minus infinity counts as none. Raises UnusableReply for what none can be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableReply(f"expected a log-probability, found {brief(value)}")
    if math.isnan(value) or value > _ROUNDING or -math.inf < value < _LEAST_LOG_PROB:
        raise UnusableReply(f"expected a log-probability, a number of at most 0, found {brief(value)}")
    return float(value)


def read_count(counts: object, name: str) -> int:
    """A count of tokens by its name; 0 where the server does not say. Raises UnusableReply for what is no count."""
    value = counts.get(name) if isinstance(counts, dict) else counts
    if value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS and value % 1 == 0:
        return int(value)
    raise UnusableReply(f"{name}: expected a count of tokens, found {brief(value)}")


class UnusableReply(Exception):
    """A reply that another try may mend: broken, empty, or not what was asked for."""


class Refused(ConfigError):
    """The server refuses the request itself, so that no repetition helps; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


class NoAnswer(PrerequisiteError):
    """Every try failed; the message is the last failure."""


def key_name(base_url: str) -> str:
    """Environment variable that holds the key for this host."""
    return _KEYS.get(urlsplit(base_url).hostname or "", "OPENAI_API_KEY")


def check_address(base_url: str | None) -> str:
    """The address without a slash at its end. Raises ConfigError if it is none, or holds what belongs elsewhere."""
    found = "an address with a password" if "@" in (base_url or "") else repr(base_url)
    wrong = ConfigError(f"base_url: found {found}, expected an address such as http://localhost:8000/v1")
    try:
        parts = urlsplit(base_url or "")
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0  # `port` checks the number
    except ValueError:
        raise wrong from None
    if base_url is None or not known:
        raise wrong
    if parts.username or parts.password or parts.query:
        raise ConfigError("base_url: holds a user name, password or query; keys belong in the environment")
    return base_url.rstrip("/")


def key_in(variable: str) -> str | None:
    """The key that an environment variable holds. Raises PrerequisiteError if it cannot stand in a header."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise PrerequisiteError(f"environment variable {variable}: holds characters that no key has; copy it anew")
    return key or None


class JsonClient:
    """Asks one server. Safe to use from several threads.

    Redirects are not followed: the key is meant for this host alone.

    Attributes:
        base_url: address up to and including the version.
        requests: sent, repetitions included.
        failures: requests that failed and were repeated or given up.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        tries: int,
        first_wait: float,
        timeout: float | httpx.Timeout,
        requests_per_minute: float | None = None,
    ) -> None:
        """`first_wait` is in seconds, before the second try; it doubles for each further one, up to `LONGEST_WAIT`."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, follow_redirects=False)
        self._tries, self._first_wait, self._key = tries, first_wait, key
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()
        self.base_url = base_url
        self.requests = self.failures = 0

    def ask(self, method: str, path: str, body: object, read: Callable[[Any], Reply]) -> Reply:
        """One usable reply.

        Args:
            read: makes the reply from the decoded JSON, which may be anything; raises `UnusableReply`.

        Raises:
            Refused: at once, for a status that no repetition mends.
            NoAnswer: every try failed.
        """
        for attempt in range(self._tries):
            asked_wait = None
            self._wait_for_turn()
            try:
                response = self._http.request(method, path, json=body)
                self._check_status(response)
                return read(_decoded(response))
            except UnusableReply as error:
                failure, asked_wait = str(error), _retry_after(response)
            except httpx.RequestError as error:
                failure = f"{type(error).__name__}: {error}"
            with self._lock:
                self.failures += 1
            if attempt + 1 < self._tries:
                # Jitter, so that threads that failed together do not ask together again.
                backoff = self._first_wait * 2**attempt * random.uniform(0.75, 1.25)
                time.sleep(min(LONGEST_WAIT, backoff if asked_wait is None else asked_wait))
        raise NoAnswer(self.shown(failure))

    def _wait_for_turn(self) -> None:
        """Count the request, and space requests evenly over a minute where there is a rate limit."""
        with self._lock:
            self.requests += 1
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        time.sleep(start - now)

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in _REPEATABLE:
            raise UnusableReply(f"status {status}: {self.shown(response.text)}")
        if response.has_redirect_location:
            target = self.shown(response.headers["location"])
            raise Refused(status, f"redirects to {target}, which is not followed; give the address that answers")
        if not response.is_success:
            raise Refused(status, self.shown(response.text))

    def shown(self, text: str) -> str:
        """A server's words on one line, without the key, which some servers send back."""
        hidden = text.replace(self._key, "(key)") if self._key else text
        return " ".join(hidden.split())[:_SHOWN]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _decoded(response: httpx.Response) -> object:
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        said = f"found {brief(response.text)}" if response.text.strip() else "the reply is empty"
        raise UnusableReply(f"broken JSON ({error}); {said}") from None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait. The HTTP-date form is left to the back-off."""
    value = response.headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) else None
