"""The server engine against a server that does everything wrong in turn.

It stands in for remote services, which cannot be reached from here; `eval/test_real_vllm_server.py` asks a real one.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from support.engine_models import Reviews, save_tiny_model, words_tokenizer

from icm.config import EngineConfig, GenerationConfig
from icm.engines import create_engine, server
from icm.engines.server import ServerEngine
from icm.errors import ConfigError, ICMError, PrerequisiteError
from icm.prompts import LabelTrie, shared_context_tree
from icm.tasks.source import written

KEY = "sk-very-secret"


def _log_prob(prompt: Any, label: int) -> float:
    """What the stand-in server says of a prompt, as token ids or as text."""
    tokens = prompt if isinstance(prompt, list) else words_tokenizer()(prompt).input_ids
    return -0.25 - (sum(tokens) * 31 + label) % 97 / 8


class Misbehaving(ThreadingHTTPServer):
    """Answers correctly except where `faults` says otherwise: a list of behaviours, one used up a request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, model: str, owner: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.owner = model, owner
        self.faults: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests = 0
        self.bodies: list[dict[str, Any]] = []
        self.models: Any = None
        self.authorization: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Misbehaving

    def do_GET(self) -> None:
        models = [{"id": self.server.model, "owned_by": self.server.owner, "max_model_len": 300}]
        send(self, 200, {"data": models} if self.server.models is None else self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests += 1
        self.server.bodies.append(body)
        self.server.authorization.add(self.headers.get("authorization"))
        if self.server.faults:
            return self.server.faults.pop(0)(self)
        send(self, 200, _completion(body))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, status: int, reply: Any, headers: dict[str, str] | None = None) -> None:
    content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    handler.send_response(status)
    for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    names = {f"token_id:{label}": label for label in body.get("logprob_token_ids", [])}
    tokenizer = words_tokenizer()
    names = names or {str(tokenizer.decode([label])): label for label in tokenizer("positive negative").input_ids}
    top = {name: _log_prob(body["prompt"], label) for name, label in names.items()}
    choice = {"text": " fine END of it", "logprobs": {"top_logprobs": [top]}}
    return {"choices": [choice], "usage": {"completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}}


def _without_label_scores(logprobs: Any) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, 200, {"choices": [{"text": "x", "logprobs": logprobs}]})


def _slow(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def _chat_form(handler: BaseHTTPRequestHandler) -> None:
    """Log-probabilities as llama.cpp lists them, likeliest first, one token twice."""
    tokens = [(" the", -0.1), ("positive", -0.5), ("negative", -1.5), ("positive", -7.0)]
    top = [{"id": 1, "token": token, "bytes": [], "logprob": value} for token, value in tokens]
    logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    send(handler, 200, {"choices": [{"index": 0, "text": " the", "logprobs": logprobs}], "usage": None})


def _nested(depth: int) -> bytes:
    return b'{"choices": ' + b"[" * depth + b"]" * depth + b"}"


_GOOD: dict[str, Any] = {"text": "x", "logprobs": {"top_logprobs": [{"positive": -1, "negative": -2}]}}
ODD_REPLIES: dict[str, Any] = {
    "no choices": {"object": "error"},
    "choices null": {"choices": None},
    "text null": {"choices": [{**_GOOD, "text": None}]},
    "text a number": {"choices": [{**_GOOD, "text": 5}]},
    "a list": [1, 2],
    "a number": 7,
    "null": None,
    "a choice as text": {"choices": ["positive"]},
    "choices an object": {"choices": {"text": "x"}},
    "HTML": b"<!doctype html><title>Login</title>",
    "empty": b"",
    "cut": b'{"choices": [{"text": "x", "logprobs": {',
    "not UTF-8": b'{"choices": "\xff\xfe',
    "nested": _nested(800),
    "deeply nested": _nested(100_000),
    "usage a text": {"choices": [_GOOD], "usage": "many"},
    "usage a list": {"choices": [_GOOD], "usage": [1]},
    "counts as texts": {"choices": [_GOOD], "usage": {"prompt_tokens_details": {"cached_tokens": "3"}}},
    "counts huge": {"choices": [_GOOD], "usage": {"completion_tokens": 1e308}},
    "counts NaN": {"choices": [_GOOD], "usage": {"completion_tokens": math.nan}},
    "details a list": {"choices": [_GOOD], "usage": {"prompt_tokens_details": [3]}},
}
ODD_LOG_PROBS: dict[str, Any] = {
    "null": None,
    "a text": "x",
    "top null": {"top_logprobs": None},
    "no token": {"top_logprobs": []},
    "a list of texts": {"top_logprobs": ["positive"]},
    "texts": {"top_logprobs": [{"positive": "-0.5", "negative": "-1.5"}]},
    "NaN": {"top_logprobs": [{"positive": math.nan, "negative": -1.5}]},
    "infinite": {"top_logprobs": [{"positive": math.inf, "negative": -1.5}]},
    "minus infinity": {"top_logprobs": [{"positive": -math.inf, "negative": -1.5}]},
    "huge": {"top_logprobs": [{"positive": 1e308, "negative": -1.5}]},
    "hugely negative": {"top_logprobs": [{"positive": -1e308, "negative": -1.5}]},
    "true": {"top_logprobs": [{"positive": True, "negative": -1.5}]},
    "chat, empty": {"content": []},
    "chat, null": {"content": None},
    "chat, no top": {"content": [{"token": "positive", "logprob": -0.5}]},
    "chat, texts": {"content": [{"top_logprobs": ["positive", "negative"]}]},
    "chat, one missing": {"content": [{"top_logprobs": [{"token": "positive", "logprob": -0.5}]}]},
    "chat, a token as list": {"content": [{"top_logprobs": [{"token": [1], "logprob": -0.5}]}]},
}
ODD_MODELS: dict[str, Any] = {
    "a text": "none",
    "data a text": {"data": "none"},
    "names alone": {"data": ["alias"]},
    "an id as number": {"data": [{"id": 5}]},
    "HTML": b"<html>",
    "context as text": {"data": [{"id": "alias", "max_model_len": "4096"}]},
    "context negative": {"data": [{"id": "alias", "max_model_len": -5}]},
    "context NaN": b'{"data": [{"id": "alias", "max_model_len": NaN}]}',
}
FAULTS: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "429": lambda handler: send(handler, 429, {"error": "slow down"}, {"retry-after": "0"}),
    "500": lambda handler: send(handler, 500, b"oops"),
    "broken JSON": lambda handler: send(handler, 200, b'{"choices": [{"te'),
    "no choices": lambda handler: send(handler, 200, {"choices": []}),
    "closed": lambda handler: handler.connection.close(),
    "slow": _slow,
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_tiny_model("llama", tmp_path / "model"))


@pytest.fixture(params=["vllm", "other"])
def misbehaving(request: pytest.FixtureRequest, model: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Misbehaving]:
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(server, "_TIMEOUT", httpx.Timeout(2.0, connect=10.0))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Misbehaving(model, request.param) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def _engine(running: Misbehaving, **settings: Any) -> ServerEngine:
    settings = {"engine": "server", "model": running.model, "base_url": running.url} | settings
    return ServerEngine(EngineConfig(**settings))


def test_labels_of_several_tokens_ask_for_what_can_follow(misbehaving: Misbehaving) -> None:
    """A vLLM server is asked for the tokens of each prompt alone, and for no more than it takes at once."""
    tokenizer, asked = words_tokenizer(), misbehaving.bodies
    positive, negative = tokenizer("positive negative").input_ids
    labels = LabelTrie(((positive, negative), (positive, positive), (negative,)))
    tree = shared_context_tree((5, 6), [(7,), (8, 9)])
    with _engine(misbehaving) as engine:
        scores = engine.score_labels(tree, labels)
        expected = [
            [sum(_log_prob([*prompt, *ids[:k]], ids[k]) for k in range(len(ids))) for ids in labels.sequences]
            for _, prompt in tree.paths()
        ]
        np.testing.assert_allclose(scores, expected)
        if misbehaving.owner == "vllm":
            expected_ids = [sorted([positive, negative])] * 4  # behind each query, and behind its first token
            assert [sorted(body["logprob_token_ids"]) for body in asked] == expected_ids
            asked.clear()
            engine.score(tree, range(150))
            assert sorted(len(body["logprob_token_ids"]) for body in asked) == [22, 22, 128, 128]


def test_faults_are_repeated_and_counted_and_nothing_is_counted_twice(
    misbehaving: Misbehaving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reviews = Reviews(words_tokenizer(), 30, seed=1)
    tree = reviews.leave_one_out(12)
    misbehaving.faults = [*FAULTS.values()] * 2
    with _engine(misbehaving) as engine:
        scores = engine.score(tree, reviews.labels)
    expected = {query: [_log_prob(list(prompt), label) for label in reviews.labels] for query, prompt in tree.paths()}
    np.testing.assert_allclose(scores, [expected[row] for row in range(12)])
    assert misbehaving.requests == 12 + len(FAULTS) * 2
    assert engine.usage.failures == len(FAULTS) * 2
    assert (engine.usage.prompts, engine.usage.prompt_tokens) == (12, tree.prompt_tokens)
    assert engine.usage.computed_tokens == tree.prompt_tokens - 3 * 12
    assert misbehaving.authorization == {f"Bearer {KEY}"}
    assert KEY not in caplog.text


@pytest.mark.parametrize("fault", ["429", "500", "broken JSON", "no choices", "closed"])
def test_repeats_are_bounded(fault: str, misbehaving: Misbehaving) -> None:
    misbehaving.faults = [FAULTS[fault]] * 1000
    tree = shared_context_tree((5, 6), [(7,)])
    with _engine(misbehaving) as engine:
        with pytest.raises(PrerequisiteError, match="failed 6 times, last: ") as caught:
            engine.score(tree, [1, 2])
        assert misbehaving.requests == engine.usage.failures == 6
        assert engine.usage.prompts == 0
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("found", [{" the": -0.1}, None, math.nan, "high"], ids=str)
def test_a_missing_label_is_an_error_and_never_a_number(found: Any, misbehaving: Misbehaving) -> None:
    reviews = Reviews(words_tokenizer(), 3, seed=2)
    names = [f"token_id:{label}" for label in reviews.labels] + words_tokenizer().batch_decode(
        [[label] for label in reviews.labels]
    )
    top = found if isinstance(found, dict) else dict.fromkeys(names, found)
    misbehaving.faults = [_without_label_scores({"top_logprobs": [top]} if found else [])]
    with _engine(misbehaving) as engine, pytest.raises(PrerequisiteError, match="expected the log-probabilities of"):
        engine.score(shared_context_tree((5,), reviews.queries), reviews.labels)


def _refusal(running: Misbehaving, **settings: Any) -> str:
    """The one line that a run ends with."""
    with pytest.raises(ICMError) as caught, _engine(running, **settings) as engine:
        engine.score(shared_context_tree((5,), [(7,)]), words_tokenizer()("positive negative").input_ids)
    message = str(caught.value)
    assert running.url in message and "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize("misbehaving", ["other"], indirect=True)
@pytest.mark.parametrize("name", ODD_REPLIES)
def test_an_odd_reply_is_one_line_that_names_the_server(name: str, misbehaving: Misbehaving) -> None:
    misbehaving.faults = [lambda handler: send(handler, 200, ODD_REPLIES[name])] * 6
    assert "failed 6 times, last: " in _refusal(misbehaving)


@pytest.mark.parametrize("misbehaving", ["other"], indirect=True)
@pytest.mark.parametrize("name", ODD_LOG_PROBS)
def test_odd_log_probabilities_are_one_line_that_names_the_server(name: str, misbehaving: Misbehaving) -> None:
    misbehaving.faults = [_without_label_scores(ODD_LOG_PROBS[name])]
    assert "expected the log-probabilities of" in _refusal(misbehaving)


@pytest.mark.parametrize("misbehaving", ["other"], indirect=True)
@pytest.mark.parametrize("name", ODD_MODELS)
def test_an_odd_list_of_models_is_one_line(name: str, misbehaving: Misbehaving, model: str) -> None:
    misbehaving.models, misbehaving.model = ODD_MODELS[name], "alias"
    _refusal(misbehaving, engine="server", tokenizer=model)


@pytest.mark.parametrize("misbehaving", ["other"], indirect=True)
def test_log_probabilities_are_read_in_the_form_of_chats(misbehaving: Misbehaving) -> None:
    misbehaving.faults = [_chat_form]
    with _engine(misbehaving) as engine:
        scores = engine.score(shared_context_tree((5,), [(7,)]), words_tokenizer()("negative positive").input_ids)
    np.testing.assert_array_equal(scores, [[-1.5, -0.5]])


@pytest.mark.parametrize("name", ["prod-llama", "llama3.2:latest", "hf.co/own/Model-GGUF:Q4_K_M", "Das große Modell"])
def test_a_served_model_may_have_any_name(name: str, misbehaving: Misbehaving, model: str, tmp_path: Path) -> None:
    misbehaving.model = name
    settings: dict[str, Any] = {"engine": "server", "model": name, "base_url": misbehaving.url}
    with pytest.raises(ConfigError, match="give --tokenizer NAME"):
        create_engine(EngineConfig(**settings))
    with pytest.raises(ConfigError, match="no such folder, and not a hub name"):
        create_engine(EngineConfig(**settings, tokenizer="no:name"))
    words_tokenizer().save_pretrained(tmp_path / "tokenizer")  # no weights, no configuration
    reviews = Reviews(words_tokenizer(), 4, seed=5)
    for tokenizer in (model, str(tmp_path / "tokenizer")):
        with create_engine(EngineConfig(**settings, tokenizer=tokenizer)) as engine:
            assert engine.context_length == 299
            assert engine.score(reviews.leave_one_out(4), reviews.labels).shape == (4, 2)
    misbehaving.models = {"data": [{"id": name}]}
    with pytest.raises(ConfigError, match="give --max-model-len"):
        create_engine(EngineConfig(**settings, tokenizer=str(tmp_path / "tokenizer")))
    with create_engine(EngineConfig(**settings, tokenizer=str(tmp_path / "tokenizer"), max_model_len=64)) as engine:
        assert engine.context_length == 63


def test_a_tokenizer_is_for_servers_and_is_named_only_where_it_is_set() -> None:
    with pytest.raises(ConfigError, match="tokenizer: has no effect with engine transformers"):
        create_engine(EngineConfig(device="cpu", tokenizer="embedded"))
    plain = EngineConfig(engine="server")
    assert "tokenizer" not in plain.identity and "tokenizer" not in asdict(plain, dict_factory=written)
    named = EngineConfig(engine="server", tokenizer="embedded")
    assert named.identity["tokenizer"] == "embedded" == asdict(named, dict_factory=written)["tokenizer"]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, PrerequisiteError, "set OPENAI_API_KEY"),
        (404, ConfigError, "status 404: no such"),
        (400, ConfigError, "status 400: no such"),
    ],
)
def test_refusals_are_not_repeated(status: int, error: type[ICMError], message: str, misbehaving: Misbehaving) -> None:
    misbehaving.faults = [lambda handler: send(handler, status, b"no such thing")]
    with _engine(misbehaving) as engine, pytest.raises(error, match=message):
        engine.score(shared_context_tree((5,), [(7,)]), [1, 2])
    assert misbehaving.requests == 1


def test_what_is_checked_before_the_first_prompt(misbehaving: Misbehaving, tmp_path: Path) -> None:
    with _engine(misbehaving) as engine, pytest.raises(ConfigError, match="300 tokens does not fit the context of 299"):
        engine.score(shared_context_tree((5,) * 299, [(7,)]), [1, 2])
    other = str(save_tiny_model("llama", tmp_path / "other"))
    with pytest.raises(ConfigError, match="not served by"):
        ServerEngine(EngineConfig(model=other, base_url=misbehaving.url))
    with pytest.raises(ConfigError, match="the server loads adapters"):
        create_engine(EngineConfig(engine="server", model=other, base_url=misbehaving.url, adapter="lora"))
    assert misbehaving.requests == 0


def test_generation_ends_at_stop_strings(misbehaving: Misbehaving) -> None:
    misbehaving.faults = [FAULTS["429"]]
    with _engine(misbehaving) as engine:
        texts = engine.generate(["the film", "a phone"], GenerationConfig(generation_max_tokens=9), 0, ["END"])
    assert texts == [" fine ", " fine "]
    assert (engine.usage.generated_tokens, engine.usage.failures) == (8, 1)
