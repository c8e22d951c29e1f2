"""A real Chromium without a window, driven over its DevTools protocol by what Dask brings along (tornado)."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60
LARGEST_MESSAGE = 64 << 20


class Tab:
    """One page. `said`: what it logged, threw, or was kept from doing; `fetched`: addresses it asked for."""

    def __init__(self, loop: asyncio.Runner, socket: WebSocketClientConnection):
        self._loop, self._socket, self._number = loop, socket, 0
        self.said: list[str] = []
        self.fetched: list[str] = []
        self._loaded = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is kept."""
        self._number += 1
        self._loop.run(self._send({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message}"
                return message["result"]

    async def _send(self, message: dict[str, Any]) -> None:
        await self._socket.write_message(json.dumps(message))

    def _next(self) -> dict[str, Any]:
        async def read() -> Any:
            return await asyncio.wait_for(self._socket.read_message(), SECONDS)

        text = self._loop.run(read())
        assert text is not None, "Chromium closed the connection"
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.fetched.append(event["request"]["url"][:200])
        elif method == "Page.loadEventFired":
            self._loaded += 1
        elif method in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}:
            self.said.append(json.dumps(event)[:500])
        elif method == "Page.javascriptDialogOpening":
            self.said.append(f"dialog: {event['message']}")

    def open(self, page: Path, hash: str = "", *, script: bool = True) -> None:
        """Load a file, as a double click on it does."""
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self._go("about:blank")  # a page is not loaded again for another place in it
        self.said.clear()
        self.fetched.clear()
        self._go(page.as_uri() + hash)
        if script:
            self.settle()

    def _go(self, url: str) -> None:
        before = self._loaded
        self.ask("Page.navigate", url=url)
        while self._loaded == before:
            self._next()

    def settle(self) -> None:
        """Let events and two frames pass."""
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def run(self, source: str) -> Any:
        """The value of an expression in the page."""
        done = self.ask("Runtime.evaluate", expression=source, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=phone,
        )  # fmt: skip

    def place_of(self, selector: str) -> tuple[float, float]:
        """Middle of an element, scrolled into view, in the window."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return x, y

    def click(self, selector: str) -> None:
        """As a mouse does: whatever lies on top there gets it."""
        self.press(*self.place_of(selector))

    def press(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=to_x, y=to_y, button="left", buttons=1)
        self.ask(
            "Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, button="left", clickCount=1
        )
        self.settle()

    def wheel(self, x: float, y: float, down: float) -> None:
        self.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)
        self.settle()

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def picture(self) -> Image.Image:
        taken = self.ask("Page.captureScreenshot", format="png")
        return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")

    def pdf(self) -> bytes:
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A tab of a browser of its own; the test is skipped where no Chromium is installed."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed here")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses root otherwise
    process = subprocess.Popen(
        [
            *(program, "--headless", "--remote-debugging-port=0", f"--user-data-dir={folder}", *sandbox),
            *("--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"),
            *("--disable-background-networking", "--disable-component-update", "about:blank"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with asyncio.Runner() as loop:
            socket = loop.run(_connect(_address(folder, process)))
            try:
                yield Tab(loop, socket)
            finally:
                loop.run(_close(socket))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(SECONDS)


async def _connect(address: str) -> WebSocketClientConnection:
    return await websocket_connect(address, max_message_size=LARGEST_MESSAGE)


async def _close(socket: WebSocketClientConnection) -> None:
    """Until the other side has closed, too: a loop that ends before leaves the socket open."""
    socket.close()
    async with asyncio.timeout(SECONDS):
        while await socket.read_message() is not None:
            pass


def _address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Of the first tab, once the browser has written where it listens."""
    ends = time.monotonic() + SECONDS
    file = folder / "DevToolsActivePort"
    while time.monotonic() < ends and process.poll() is None:
        if file.is_file() and (lines := file.read_text().splitlines()):
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=SECONDS) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    pytest.skip("Chromium is installed here but does not start")
