"""JSON over HTTP with bounded, backed-off tries: the one client of every server that models are asked on."""

import ipaddress
import math
import os
import random
import re
import reprlib
import time
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

import httpx

from icm.errors import ConfigError, PrerequisiteError
from icm.secrets import KEY_ENDING

LONGEST_WAIT = 60.0
_KEYS = {
    "api.openai.com": "OPENAI_API_KEY",
    "api.together.ai": "TOGETHER_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
}
# What a server of this machine may be given: a key, but none that signs for somebody.
_LOCAL_KEY = re.compile(r"(?!.*(SECRET|ACCESS|PRIVATE))[A-Z][A-Z0-9_]*_KEY")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_REPEATABLE = {408, 409, 425, 429, *range(500, 600)}
_SHOWN = 300  # characters of a server's message
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxstring, _BRIEF.maxother = 4, 6, 4, 100, 60
_ROUNDING, _LEAST_LOG_PROB = 1e-3, -1e5  # servers write -9999 for minus infinity
_MOST_TOKENS = 2**40
_MOST_BYTES = 32 * 2**20  # of a reply, unpacked
_HEADERS = (b"content-type", b"location", b"retry-after")

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


class NothingThere(NoAnswer):
    """No connection from the start on: the address is wrong, or the server is not up."""


def is_loopback(base_url: str) -> bool:
    """Whether the address is one of this machine by its name or number, whatever a name server says."""
    host = _host(base_url)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_name(base_url: str) -> str:
    """Environment variable that holds the key for this host, and for no other: `ICM_LLM_LAB__1_ORG_API_KEY` is that of
    llm.lab-1.org. Servers of this machine get OPENAI_API_KEY, as clients of OpenAI's have it."""
    host = _host(base_url)
    if is_loopback(base_url):
        return "OPENAI_API_KEY"
    return _KEYS.get(host) or f"ICM_{host.replace('-', '__').replace('.', '_').upper()}{KEY_ENDING}"


def server_key(base_url: str, variable: str | None = None) -> str | None:
    """The key that may be sent to the server; None if the environment holds none.

    Args:
        base_url: a checked address.
        variable: where the settings say that the key stands. Those of a server elsewhere can name its own key alone,
            so that no file sends another one there.

    Raises:
        ConfigError: another variable, or a key that would cross the network unencrypted.
        PrerequisiteError: see `key_in`.
    """
    here, own = is_loopback(base_url), key_name(base_url)
    if variable is not None and not (variable == own or (here and _LOCAL_KEY.fullmatch(variable))):
        expected = "a variable such as SERVER_API_KEY" if here else own
        raise ConfigError(f"server.api_key_env: names a variable that is not sent to {base_url}; expected {expected}")
    if not _HOST.fullmatch(_host(base_url)) and not here:  # an IPv6 address, or a spelling that is no name's
        return None
    key = key_in(variable or own)
    if key and not here and not base_url.startswith("https:"):
        raise ConfigError(f"base_url: {base_url} would get the key in {variable or own} unencrypted; use https://")
    return key


def _host(base_url: str) -> str:
    """The host as the client that connects reads it."""
    return httpx.URL(base_url).raw_host.decode("ascii")


def check_address(base_url: str | None, name: str = "base_url") -> str:
    """The address as it is asked, without a slash at its end. Raises ConfigError if it is none, or holds what belongs
    elsewhere; such an address is not repeated."""
    found = "an address with a password" if "@" in (base_url or "") else brief(base_url)
    wrong = ConfigError(f"{name}: found {found}, expected an address such as http://localhost:8000/v1")
    try:
        url = httpx.URL(base_url or "")
        known = url.scheme in ("http", "https") and url.host and 0 < (url.port or 1) < 2**16
    except (httpx.InvalidURL, ValueError):  # `host` decodes what stands for letters outside ASCII
        raise wrong from None
    if url.userinfo or url.query or url.fragment:
        raise ConfigError(f"{name}: holds a user name, password or query; keys belong in the environment")
    if not known:
        raise wrong
    return str(url).rstrip("/")


def key_in(variable: str) -> str | None:
    """The key that an environment variable holds. Raises PrerequisiteError if it cannot stand in a header."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise PrerequisiteError(f"environment variable {variable}: holds characters that no key has; copy it anew")
    return key or None


class JsonClient:
    """Asks one server. Safe to use from several threads.

    Redirects are not followed: the key is meant for this host alone. Servers of this machine are asked without a proxy.

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
        self._http = httpx.Client(
            base_url=base_url,
            headers=headers,
            timeout=timeout,
            follow_redirects=False,
            trust_env=not is_loopback(base_url),
        )
        self._tries, self._first_wait, self._key = tries, first_wait, key
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._lock = Lock()
        self.base_url = base_url
        self._reached = False
        self.requests = self.failures = 0

    def ask(self, method: str, path: str, body: object, read: Callable[[Any], Reply]) -> Reply:
        """One usable reply.

        Args:
            read: makes the reply from the decoded JSON, which may be anything; raises `UnusableReply`.

        Raises:
            Refused: at once, for a status that no repetition mends.
            NothingThere: the first requests found nothing that listens.
            NoAnswer: every try failed.
        """
        for attempt in range(self._tries):
            asked_wait, response = None, None
            self._wait_for_turn()
            try:
                response = self._reply(method, path, body)
                self._reached = True
                self._check_status(response)
                return read(_decoded(response))
            except UnusableReply as error:
                failure, asked_wait = str(error), None if response is None else _retry_after(response)
            except httpx.RequestError as error:
                failure = f"{type(error).__name__}: {error}"
                if attempt and isinstance(error, httpx.ConnectError) and not self._reached:
                    raise NothingThere(self.shown(f"nothing answers there ({error})")) from None
            with self._lock:
                self.failures += 1
            if attempt + 1 < self._tries:
                # Jitter, so that threads that failed together do not ask together again.
                backoff = self._first_wait * 2**attempt * random.uniform(0.75, 1.25)
                time.sleep(min(LONGEST_WAIT, backoff if asked_wait is None else asked_wait))
        raise NoAnswer(self.shown(failure))

    def _reply(self, method: str, path: str, body: object) -> httpx.Response:
        """The reply, read as far as a reply goes: a few packed kilobytes can unpack to any size."""
        content = bytearray()
        with self._http.stream(method, path, json=body) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > _MOST_BYTES:
                    raise UnusableReply(f"status {response.status_code}: more than {_MOST_BYTES // 2**20} MiB")
        kept = [(name, value) for name, value in response.headers.raw if name.lower() in _HEADERS]
        return httpx.Response(response.status_code, headers=kept, content=bytes(content))

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
