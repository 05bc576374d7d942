"""A local server that speaks the few calls of the hub that are used (not the real hub)."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import constants

TOKEN = "hf_notARealTokenButLongEnough"


@dataclass
class FakeHub:
    """What the server is told to do, and what it was asked.

    Attributes:
        address: where it listens.
        fail: path part → (status, message) to answer with.
        repos: repository → private.
        files: repository → name → bytes.
        requests: "METHOD path" in order.
        tokens: authorization headers seen.
    """

    address: str = ""
    fail: dict[str, tuple[int, str]] = field(default_factory=dict)
    repos: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        for part, (status, message) in self.fail.items():
            if part in path:
                return status, {"error": message}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        kind, repo, action = self._split(path)
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}
        if action.startswith("preupload/"):
            names = [entry["path"] for entry in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        if action.startswith("commit/"):
            return self._commit(f"{kind}/{repo}", body)
        if action.startswith("resolve/"):
            found = action.rpartition("/")[2] in self.files.get(f"datasets/{repo}", {})
            return (200 if found else 404), {}
        return 200, {"id": repo, "private": self.repos[repo], "siblings": [], "tags": []}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        if repo in self.repos:
            return 409, {"error": "You already created this repo", "url": self._url(repo, wanted)}
        self.repos[repo] = private
        return 200, {"url": self._url(repo, wanted)}

    def _url(self, repo: str, wanted: dict[str, Any]) -> str:
        return f"{self.address}/datasets/{repo}" if wanted.get("type") == "dataset" else f"{self.address}/{repo}"

    def _split(self, path: str) -> tuple[str, str, str]:
        parts = path.partition("?")[0].strip("/").split("/")
        parts = parts[1:] if parts[0] == "api" else parts
        return parts[0], "/".join(parts[1:3]), "/".join(parts[3:])

    def _commit(self, repo: str, body: bytes) -> tuple[int, dict[str, Any]]:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                self.files.setdefault(repo, {})[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {
            "commitUrl": f"{self.address}/{repo.removeprefix('models/')}/commit/1",
            "commitOid": "1",
            "success": True,
        }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    state = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append(f"{self.command} {self.path}")
            state.tokens.add(self.headers.get("Authorization"))
            status, answer = state.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", "1")
            if status == 404:
                self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in self.path else "RepoNotFound")
            self.send_header("ETag", '"1"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_HEAD = _serve

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield state
    server.shutdown()
    server.server_close()
