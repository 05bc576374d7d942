"""Chromium without a window, driven over a pipe by the DevTools protocol: no port, no driver to install."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Page:
    """One page.

    Attributes:
        events: what the browser has said besides answers.
    """

    def __init__(self, write: int, read: int) -> None:
        self._out, self._in = os.fdopen(write, "wb", buffering=0), os.fdopen(read, "rb", buffering=0)
        self._number, self._session, self._rest = 0, "", b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return dict(found["result"])
            self.events.append(found)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._in.read(65536)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, address: str, width: int, downloads: Path) -> None:
        """Open a page so many pixels wide, with a watch on all that it fetches, runs and says."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=address)
        self.wait("Page.loadEventFired")

    def wait(self, method: str, **parameters: Any) -> None:
        """Wait for an event."""

        def fits(event: dict[str, Any]) -> bool:
            found = event.get("params", {})
            return event.get("method") == method and parameters.items() <= found.items()

        while not any(map(fits, self.events)):
            self.events.append(self._message())

    def said(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a kind so far."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        """Let go of the pipes."""
        self._out.close()
        self._in.close()

    def press(self, key: str) -> None:
        """Press and let go of a key."""
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": text} if kind == "keyDown" else {}))


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """A browser with a page to open."""
    assert CHROMIUM is not None
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    command += [f"--user-data-dir={profile}", "--no-first-run", "--disable-extensions", "about:blank"]

    def places() -> None:  # Chromium reads commands from 3 and answers on 4
        spare_in, spare_out = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(spare_in, 3)
        os.dup2(spare_out, 4)

    process = subprocess.Popen(
        command, preexec_fn=places, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    page = Page(ours_out, ours_in)
    try:
        yield page
    finally:
        process.terminate()
        page.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
