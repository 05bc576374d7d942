"""The one HTTP client against real servers on loopback: what it must never do. Its patience is tested in
tests/engines/test_server_engine.py and tests/eval/test_eval_chat_server.py."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from icm.errors import ConfigError, PrerequisiteError
from icm.http import JsonClient, NoAnswer, Refused, check_address, key_in, key_name

KEY = "sk-very-secret"
Respond = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


@contextmanager
def serving(respond: Respond) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server's address, and the headers of each request that it got."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(dict(self.headers))
            status, headers, content = respond(self)
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


@contextmanager
def client(address: str, **settings: Any) -> Iterator[JsonClient]:
    made = JsonClient(address, KEY, **{"tries": 3, "first_wait": 0.01, "timeout": 5.0, **settings})
    with ExitStack() as stack:
        stack.callback(made.close)
        yield made


def ask(made: JsonClient) -> object:
    return made.ask("POST", "/completions", {"prompt": "x"}, lambda reply: reply)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_says_where_it_leads(status: int) -> None:
    with serving(lambda _: (200, {}, b"{}")) as (other, reached):
        redirect = {"location": f"{other}/completions"}
        with serving(lambda _: (status, redirect, b"")) as (address, asked), client(address) as made:
            with pytest.raises(Refused) as caught:
                ask(made)
            assert str(caught.value) == (
                f"status {status}: redirects to {other}/completions, which is not followed; "
                "give the address that answers"
            )
        assert (len(asked), reached) == (1, [])
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("status", [401, 500])
def test_a_key_that_the_server_sends_back_is_not_shown(status: int) -> None:
    with serving(lambda _: (status, {}, f"wrong\nkey {KEY}".encode())) as (address, asked), client(address) as made:
        with pytest.raises((Refused, NoAnswer), match=rf"status {status}: wrong key \(key\)$"):
            ask(made)
        assert {headers["Authorization"] for headers in asked} == {f"Bearer {KEY}"}
        assert len(asked) == made.requests == (1 if status == 401 else 3)


def test_retry_after_is_honoured_in_seconds_alone() -> None:
    for value, least, most in (("0.4", 0.8, 5), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0.5), ("²", 0, 0.5)):
        headers = {"retry-after": value}
        with serving(lambda _, headers=headers: (429, headers, b"")) as (address, _), client(address) as made:
            started = time.monotonic()
            with pytest.raises(NoAnswer):
                ask(made)
            assert least <= time.monotonic() - started <= most


def test_keys_by_host_and_what_no_key_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_name("https://api.together.xyz/v1") == "TOGETHER_API_KEY"
    assert key_name("http://localhost:8000/v1") == "OPENAI_API_KEY"
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    assert key_in("SOME_KEY") == KEY
    monkeypatch.setenv("SOME_KEY", "sk-…")
    with pytest.raises(PrerequisiteError, match="SOME_KEY: holds characters that no key has"):
        key_in("SOME_KEY")
    monkeypatch.delenv("SOME_KEY")
    assert key_in("SOME_KEY") is None


@pytest.mark.parametrize(
    "url",
    [
        None,
        "localhost:8000",
        "ftp://host/v1",
        "https://",
        "http://me:pw@host",
        "http://h?k=v",
        "http://[::1",
        "http://host:abc/v1",
        "http://me:pw@host:x",
    ],
)
def test_addresses(url: str | None) -> None:
    assert check_address("http://localhost:8000/v1/") == "http://localhost:8000/v1"
    with pytest.raises(ConfigError, match=r"^base_url: ") as caught:
        check_address(url)
    assert "pw" not in str(caught.value)
