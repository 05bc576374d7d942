"""The chat client against a real HTTP server on loopback that misbehaves on purpose."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.engine_models import plain_label_scores
from transformers import AutoModelForCausalLM

from eval.conditions.chat import LocalChat, label_words
from eval.conditions.pool import EnginePool
from eval.conditions.server import ServerChat, check_key
from eval.run import main
from eval.settings import ServerConfig
from icm.config import EngineConfig
from icm.errors import ConfigError, PrerequisiteError
from icm.examples import ICMExample, LabelSpace
from icm.files import write_jsonl
from icm.prompts import LabelTrie, shared_context_tree, token_ids

SPACE = LabelSpace(("negative", "positive"))
ITEMS = [ICMExample(f"Review: thing {number} is {word}\nSentiment:") for number, word in enumerate(["good", "bad"] * 3)]


def completion(text: str, top: list[tuple[str, float]] | None = None, finish: str = "stop") -> bytes:
    """A chat completion; `top` are the likeliest first tokens."""
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in top or []]
    logprobs = {"content": [{**entries[0], "top_logprobs": entries}]} if entries else None
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": logprobs,
    }
    usage = {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52}
    document = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(document).encode()


def right_answer(prompt: str) -> bytes:
    good = "is good" in prompt
    return completion(
        "positive" if good else "negative",
        [("positive" if good else "neg", -0.1), ("negative" if good else " Positive", -2.5), ("the", -5.0)],
    )


@dataclass
class Server:
    """What the server was asked, and what it answers."""

    respond: Callable[[str, int], tuple[int, bytes, dict[str, str]]]
    prompts: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(respond: Callable[[str, int], tuple[int, bytes, dict[str, str]]]) -> Iterator[Server]:
    """`respond(prompt, times asked before)` gives status, body and headers."""
    server = Server(respond)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                before = server.prompts.count(prompt)
                server.prompts.append(prompt)
            status, content, headers = server.respond(prompt, before)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{httpd.server_port}/v1"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICM_CACHE", str(tmp_path / "cache"))


def condition(server: Server, **settings: Any) -> ServerChat:
    config = ServerConfig(server.address, **{"retry_delay": 0.01, "max_retries": 3, "timeout": 5.0, **settings})
    return ServerChat(config, "some-chat-model", SPACE)


def asked(chat: ServerChat) -> tuple[dict[str, Any], dict[str, float]]:
    """Answers by item, and what they cost."""
    batches = list(chat.answer(ITEMS, EnginePool()))
    usage: dict[str, float] = {}
    for batch in batches:
        for key, value in batch.usage.items():
            usage[key] = usage.get(key, 0) + value
    return {answer.id: answer for batch in batches for answer in batch.answers}, usage


def test_log_probabilities_of_the_first_token() -> None:
    with serving(lambda prompt, before: (200, right_answer(prompt), {})) as server:
        answers, usage = asked(condition(server, price_input=1.0, price_output=2.0))
    found = [value for item in ITEMS for value in answers[item.id].log_probs]
    assert found == pytest.approx([-2.5, -0.1, -0.1, -2.5] * 3)
    assert usage["dollars"] == pytest.approx(6 * (50 * 1.0 + 2 * 2.0) / 1e6)
    assert (usage["prompts"], usage["requests"], usage["prompt_tokens"]) == (6, 6, 300)


def test_replies_are_cached_by_content() -> None:
    with serving(lambda prompt, before: (200, right_answer(prompt), {})) as server:
        first, _ = asked(condition(server))
        second, usage = asked(condition(server))
        assert second == first
        assert usage["cached"] == 6 and usage["requests"] == 0 and "prompt_tokens" not in usage
        asked(ServerChat(condition(server).server, "another-model", SPACE))
        assert len(server.prompts) == 12


def failing_first(times: int, failure: Callable[[], tuple[int, bytes, dict[str, str]]]) -> Any:
    return lambda prompt, before: failure() if before < times else (200, right_answer(prompt), {})


def slow() -> tuple[int, bytes, dict[str, str]]:
    time.sleep(1.5)
    return 200, right_answer("is good"), {}


FAILURES: dict[str, Callable[[], tuple[int, bytes, dict[str, str]]]] = {
    "429": lambda: (429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.02"}),
    "500": lambda: (500, b"<html>oops</html>", {"Content-Type": "text/html"}),
    "broken JSON": lambda: (200, completion("positive")[:-40], {}),
    "not a completion": lambda: (200, b"<html>login</html>", {"Content-Type": "text/html"}),
    "no choices": lambda: (200, b'{"id": "1", "object": "chat.completion", "choices": []}', {}),
    "empty reply": lambda: (200, completion("  "), {}),
    "slow": slow,
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_passing_failures_are_asked_again_and_counted_once(failure: Any) -> None:
    with serving(failing_first(2, failure)) as server:
        answers, usage = asked(condition(server, timeout=1.0, concurrency=6))
    assert not any(answer.error for answer in answers.values())
    assert usage["requests"] == 18 == len(server.prompts)
    assert (usage["prompts"], usage["prompt_tokens"]) == (6, 300)


@pytest.mark.parametrize("failure", [FAILURES["500"], FAILURES["broken JSON"]], ids=["500", "broken JSON"])
def test_lasting_failures_end_after_bounded_tries_and_are_shown(failure: Any) -> None:
    bad = "thing 3"

    def respond(prompt: str, before: int) -> tuple[int, bytes, dict[str, str]]:
        return failure() if bad in prompt else (200, right_answer(prompt), {})

    with serving(respond) as server:
        answers, usage = asked(condition(server))
        assert len([prompt for prompt in server.prompts if bad in prompt]) == 4
    failed = answers[ITEMS[3].id]
    assert failed.log_probs is None and failed.label is None
    assert failed.error is not None and "no answer after 4 tries" in failed.error
    assert usage["failures"] == 1 and usage["prompts"] == 5 and usage["requests"] == 9


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refused_request_stops_the_run_at_once(status: int) -> None:
    body = b'{"error": {"message": "no such model"}}'
    with serving(lambda prompt, before: (status, body, {})) as server:
        with pytest.raises(ConfigError, match=r"some-chat-model.*no such model"):
            asked(condition(server, concurrency=1))
        # 400 can mean that the server has no log-probabilities: that is asked once more, without.
        assert max(map(server.prompts.count, server.prompts)) == (2 if status == 400 else 1)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Positive.", "positive"),
        ("The sentiment is negative", "negative"),
        ("positive or negative", None),
        ("unpositively", None),
        ("I cannot tell", None),
    ],
)
def test_without_log_probabilities_the_text_decides_and_is_never_guessed(reply: str, label: str | None) -> None:
    with serving(lambda prompt, before: (200, completion(reply), {})) as server:
        answers, _ = asked(condition(server))
    for answer in answers.values():
        assert (answer.log_probs, answer.label) == (None, label)
        assert (answer.error is None) == (label is not None)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("very positive", "very positive"),
        ("Positive.", "positive"),
        ("Very negative!", "very negative"),
        ("very positive or positive", None),
        ("very", None),
    ],
)
def test_replies_that_share_their_beginning_are_told_apart_by_the_whole_text(reply: str, label: str | None) -> None:
    """The first token of " very positive" says nothing of " very negative": no probability is made of it."""
    space = LabelSpace(("positive", "negative", "very positive", "very negative"))
    top = [(" very", -0.1), (" positive", -3.0), (" negative", -4.0)]
    with serving(lambda prompt, before: (200, completion(reply, top), {})) as server:
        answers, _ = asked(replace(condition(server), label_space=space))
    assert {(answer.log_probs, answer.label) for answer in answers.values()} == {(None, label)}


@pytest.mark.parametrize(("finish", "label"), [("stop", "card"), ("length", None)])
def test_the_beginning_of_a_longer_label_is_no_label_where_the_reply_was_cut(finish: str, label: str | None) -> None:
    space = LabelSpace(("card", "card arrival", "cash"))
    body = completion("Card", [("Card", -0.1), ("Cash", -2.0)], finish)
    with serving(lambda prompt, before: (200, body, {})) as server:
        answers, _ = asked(replace(condition(server, max_tokens=2), label_space=space))
        with pytest.raises(ConfigError, match=r"server\.max_tokens: found 1, expected at least 2, .*'card arrival'"):
            replace(condition(server, max_tokens=1), label_space=space)
    cut = "no single label in the reply 'Card', which ends after its longest length (server.max_tokens 2)"
    assert {(answer.label, answer.error) for answer in answers.values()} == {(label, None if label else cut)}


def test_a_local_chat_model_scores_whole_replies(tiny_model: Path) -> None:
    space = LabelSpace(("positive", "very positive", "very negative", "very"))
    chat = LocalChat(
        EngineConfig(str(tiny_model), engine="transformers", dtype="float32", device="cpu"), space, tuple(ITEMS)
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    with EnginePool() as pool:
        tokenizer: Any = pool.get(chat.engine).tokenizer
        found = [answer.log_probs for batch in chat.answer(ITEMS, pool) for answer in batch.answers]
        # "very" goes on as "very positive" does, so each reply ends with the end token.
        replies = [(*token_ids(tokenizer, text), tokenizer.eos_token_id) for text in label_words(space)]
        prompts = shared_context_tree((), [chat._prompt(tokenizer, item) for item in ITEMS])
    np.testing.assert_allclose(found, plain_label_scores(model, prompts, LabelTrie(tuple(replies))), atol=1e-4)


def test_a_label_missing_from_the_listed_tokens_has_no_invented_probability() -> None:
    body = completion("positive", [("positive", -0.01), ("great", -5.0)])
    with serving(lambda prompt, before: (200, body, {})) as server:
        answers, _ = asked(condition(server))
    assert all(answer.log_probs is None and answer.label == "positive" for answer in answers.values())


def test_a_server_that_refuses_log_probabilities_is_asked_without() -> None:
    def respond(body: str, before: int) -> tuple[int, bytes, dict[str, str]]:
        refused: tuple[int, bytes, dict[str, str]] = (422, b'{"error": {"message": "logprobs is not supported"}}', {})
        return refused if before == 0 and body == ITEMS[0].input else (200, completion("negative"), {})

    with serving(lambda prompt, before: respond(prompt.partition("\n\n")[2], before)) as server:
        answers, usage = asked(condition(server, concurrency=1))
    assert {answer.label for answer in answers.values()} == {"negative"}
    assert usage["requests"] == 7 and usage["prompts"] == 6


def test_rate_limit() -> None:
    with serving(lambda prompt, before: (200, right_answer(prompt), {})) as server:
        started = time.monotonic()
        asked(condition(server, requests_per_minute=600))
    assert time.monotonic() - started >= 5 * 0.1


def test_a_missing_key_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(PrerequisiteError, match="SOME_KEY is not set"):
        check_key(ServerConfig("http://127.0.0.1:9/v1", api_key_env="SOME_KEY"))


def evaluation(tmp_path: Path, address: str, **server: Any) -> tuple[list[str], Path]:
    """Words of `eval/run.py` for one chat-server condition beside the majority, and its output folder."""
    records = [{"text": f"thing {number} is {word}", "label": word} for number, word in enumerate(["good", "bad"] * 6)]
    write_jsonl(tmp_path / "things.jsonl", records)
    asked = {"base_url": address, "max_retries": 0, "retry_delay": 0.01, **server}
    condition = {"name": "Chat", "kind": "chat-server", "model": "m", "server": asked}
    data = {"dataset": str(tmp_path / "things.jsonl"), "holdout": 0.5}
    settings = {"data": data, "conditions": [condition], "output_dir": str(tmp_path / "out")}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return ["--config", str(tmp_path / "eval.yaml")], tmp_path / "out"


@pytest.mark.parametrize("failure", [(500, b"out of order", {}), (200, completion("neither"), {})])
def test_a_condition_in_which_every_item_failed_fails_the_run(
    failure: tuple[int, bytes, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    well: list[bool] = []
    with serving(lambda *_: (200, completion("good"), {}) if well else failure) as server:
        words, folder = evaluation(tmp_path, server.address)
        assert [main(words), main(words)] == [2, 2]
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 2 and re.search(r"'Chat': all \d+ items failed", lines[0])
        assert not (folder / "results.json").exists()
        well.append(True)
        assert main(words) == (0 if failure[0] == 500 else 2)  # a reply is kept, and it names no label


def test_an_item_that_failed_among_others_is_counted(tmp_path: Path) -> None:
    with serving(lambda prompt, _: (500, b"", {}) if "thing 1" in prompt else (200, completion("good"), {})) as server:
        words, folder = evaluation(tmp_path, server.address)
        assert main(words) == 0
    entry = json.loads((folder / "results.json").read_text())["results"]["chat"]
    assert 0 < entry["failures"] < 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_ends_the_run_and_sends_nothing_on(
    status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_API_KEY", "sesame-123")
    with serving(lambda *_: (200, completion("good"), {})) as other:
        target = {"Location": f"{other.address}/chat/completions"}
        with serving(lambda *_: (status, b"", target)) as server:
            words, _ = evaluation(tmp_path, server.address, api_key_env="SERVER_API_KEY")
            assert main(words) == 2
    assert "which is not followed" in capsys.readouterr().err and not other.prompts


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "https://me:sesame@host.example/v1"}, "keys belong in the environment"),
        ({"base_url": "ftp://me:sesame@host.example/v1"}, "server.base_url: "),
        ({"base_url": "https://host.example/v1?key=sesame"}, "keys belong in the environment"),
        ({"api_key_env": "HF_TOKEN"}, "names a variable that is not sent to"),
        ({"api_key_env": "AWS_SECRET_ACCESS_KEY"}, "names a variable that is not sent to"),
        ({"base_url": "https://evil.example/v1", "api_key_env": "OPENAI_API_KEY"}, "expected ICM_EVIL_EXAMPLE_API_KEY"),
        ({"base_url": "http://api.together.xyz/v1", "api_key_env": "TOGETHER_API_KEY"}, "unencrypted"),
    ],
)
def test_secrets_are_neither_sent_elsewhere_nor_repeated(
    settings: dict[str, str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "TOGETHER_API_KEY"):
        monkeypatch.setenv(name, "sesame")
    words, folder = evaluation(tmp_path, "http://127.0.0.1:9/v1", **settings)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and "sesame" not in error and not folder.exists()


@pytest.mark.parametrize("url", ["http://me:sesame@127.0.0.1:9/v1", "https://token@host.example"])
def test_no_password_of_an_engine_s_address_is_written(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the engine is none that asks a server."""
    words, folder = evaluation(tmp_path, "http://127.0.0.1:9/v1")
    assert main([*words, "--engine.base_url", url]) == 2
    assert "base_url: " in (error := capsys.readouterr().err) and "sesame" not in error and not folder.exists()


def test_the_key_is_sent_but_not_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_KEY", "sesame-123")
    with serving(lambda prompt, before: (200, right_answer(prompt), {})) as server:
        asked(condition(server, api_key_env="SOME_KEY"))
    cached = list((tmp_path / "cache").rglob("*.json"))
    assert len(cached) == 6
    assert not any("sesame" in path.read_text(encoding="utf-8") for path in cached)
