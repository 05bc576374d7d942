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
from icm.http import (
    JsonClient,
    NoAnswer,
    NothingThere,
    Refused,
    check_address,
    key_in,
    key_name,
    server_key,
)

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
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
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


KEYS = {
    "OPENAI_API_KEY": "sk-openai",
    "TOGETHER_API_KEY": "sk-together",
    "OPENROUTER_API_KEY": "sk-openrouter",
    "ICM_LLM_LAB__1_ORG_API_KEY": "sk-lab",
    "SOME_KEY": "sk-some",
    "HF_TOKEN": "hf",
    "GITHUB_TOKEN": "gh",
    "AWS_SECRET_ACCESS_KEY": "aws",
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", "sk-openai"),
        ("HTTPS://API.OpenAI.com:443/v1/", "sk-openai"),
        ("https://api.together.xyz/v1", "sk-together"),
        ("https://openrouter.ai/api/v1", "sk-openrouter"),
        ("https://llm.lab-1.org:8443/v1", "sk-lab"),
        ("http://localhost:8000/v1", "sk-openai"),
        ("http://127.8.8.8:80/v1", "sk-openai"),
        ("http://[::1]:8000/v1", "sk-openai"),
    ],
)
def test_a_key_goes_to_its_host(url: str, key: str) -> None:
    assert server_key(check_address(url)) == key


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/v1",
        "http://example.org/v1",
        "https://api.openai.com.evil.com/v1",
        "https://evil-api.openai.com/v1",
        "https://api.openai.com./v1",
        "https://llm-lab.1.org/v1",
        "https://llm.lab_1.org/v1",
        "https://llm.lab--1.org/v1",
        "http://localhost.evil.com/v1",
        "http://localhost./v1",
        "http://127.0.0.1.nip.io/v1",
        "http://127.1/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0.0.0.0:8000/v1",
        "http://[::]:8000/v1",
        "http://192.168.1.2:8000/v1",
        "http://%6cocalhost/v1",
        "https://api.openai.com%00.evil.com/v1",
        "https://bücher.example/v1",
    ],
)
def test_no_key_goes_to_another_host(url: str) -> None:
    address = check_address(url)
    assert server_key(address) is None
    for name in KEYS:
        with pytest.raises(ConfigError, match=r"^server.api_key_env: names a variable that is not sent to "):
            server_key(address, name)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("url", ["http://api.openai.com/v1", "http://openrouter.ai/api/v1", "http://llm.lab-1.org"])
def test_no_key_crosses_the_network_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigError, match="unencrypted; use https"):
        server_key(check_address(url))


@pytest.mark.usefixtures("keys")
def test_settings_name_no_secret_but_the_key_of_a_server() -> None:
    here = "http://127.0.0.1:8000/v1"
    assert server_key(here, "SOME_KEY") == "sk-some"
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PATH", "some_key", "SOME_KEY\n", "sk-abcdefgh"):
        with pytest.raises(ConfigError, match="names a variable that is not sent") as caught:
            server_key(here, name)
        assert "sk-" not in str(caught.value)
    with pytest.raises(ConfigError, match="expected OPENAI_API_KEY"):
        server_key("https://api.openai.com/v1", "TOGETHER_API_KEY")


def test_a_server_of_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key would pass the proxy in the clear."""
    with (
        serving(lambda _: (200, {}, b"{}")) as (proxy, passed),
        serving(lambda _: (200, {}, b"{}")) as (address, asked),
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.removesuffix("/v1"))
        with client(address) as made:
            ask(made)
    assert not passed and len(asked) == 1


def test_an_address_where_nothing_listens_fails_at_once_and_a_server_that_went_away_is_waited_for() -> None:
    with serving(lambda _: (200, {}, b"{}")) as (address, _):
        stays = JsonClient(address, KEY, tries=4, first_wait=0.01, timeout=5.0)
        assert ask(stays) == {}
    # What listened there is gone now.
    with pytest.raises(NoAnswer, match="Connection refused") as waited:
        ask(stays)
    stays.close()
    assert stays.requests == 5 and not isinstance(waited.value, NothingThere)
    with client(address, tries=4) as fresh:
        with pytest.raises(NothingThere, match="nothing answers there"):
            ask(fresh)
        assert fresh.requests == 2


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
        "ftp://me:pw@host",
        "http://localhost@evil.com",
        "http://127.0.0.1:80@evil.com/v1",
        "http://h/v1#pw",
        "http://h:99999",
        "https://xn--pi-8ka.openai.com",
        "http://a b/\t",
        "http:///v1",
        "//h/v1",
    ],
)
def test_addresses(url: str | None) -> None:
    assert check_address("http://localhost:8000/v1/") == "http://localhost:8000/v1"
    with pytest.raises(ConfigError, match=r"^base_url: ") as caught:
        check_address(url)
    assert "pw" not in str(caught.value)
