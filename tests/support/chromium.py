"""A headless Chromium for tests, driven through its DevTools protocol: what a page shows, asks for and answers to keys.

A browser is a process with a profile of its own that is thrown away; a page is a tab. Every request of a page is
remembered by its URL. Names beyond this machine do not resolve, so that a page that asks for one fails at once.

    async with browsing() as page:
        await page.open("http://127.0.0.1:8000/")
        await page.until("document.querySelector('h1')", "the heading is there")
        assert page.asked_beyond() == []
        await page.capture(tmp_path / "page.png")

Invariant: when `browsing` is left, the browser has ended and its profile is gone.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 60.0
"""Longest wait for a condition, in seconds: only a failing test waits so long."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOCAL_SCHEMES = ("file", "data", "blob", "about", "chrome", "devtools")
FLAGS = (
    "--headless",
    "--no-sandbox",  # root in a container has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    "--no-first-run",
    "--password-store=basic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-port=0",
)


def installed() -> str | None:
    """The path of a browser, if there is one. ESPALIER_CHROMIUM names one that lies elsewhere."""
    wanted = os.environ.get("ESPALIER_CHROMIUM")
    return wanted or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        """The URL of everything the page asked for, web sockets too, in order."""
        self.errors: list[str] = []
        """What was thrown in the page or written to its console as an error."""
        self._socket = socket
        self._numbers = itertools.count(1)
        self._awaited: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listening = asyncio.create_task(self._listen())

    async def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol. Raises AssertionError if it is refused."""
        number = next(self._numbers)
        answer = self._awaited[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(TIMEOUT_S):
            message = await answer
        assert "error" not in message, f"{method}: {message['error']}"
        result: dict[str, Any] = message["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a URL; the page may still be loading afterwards."""
        went = await self.command("Page.navigate", url=url)
        assert not went.get("errorText"), f"{url}: {went['errorText']}"

    async def at_every_start(self, script: str) -> None:
        """Have a script run in each document before any of its own."""
        await self.command("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (of a promise: what it comes to), as JSON."""
        said = await self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def until(self, expression: str, what: str) -> Any:
        """Wait until an expression holds; it has a name for whoever reads the failure. Returns its value."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not (value := await self.evaluate(expression)):  # noqa: ASYNC110 - the page tells nobody
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited {TIMEOUT_S:g} s for: {what}\nerrors of the page: {self.errors}") from None
        return value

    async def press(self, *keys: str) -> None:
        """Press keys: a character, or a name such as Enter, Escape, Tab, ArrowDown."""
        for key in keys:
            written = {"Enter": "\r", "Tab": "\t"}.get(key, key if len(key) == 1 else "")
            code = KEY_CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
            typed = {"key": key, "text": written} if written else {"key": key}
            kind = "keyDown" if written else "rawKeyDown"
            await self.command("Input.dispatchKeyEvent", type=kind, windowsVirtualKeyCode=code, **typed)
            await self.command("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=code, key=key)

    async def click(self, selector: str) -> None:
        """Click the middle of an element."""
        element = f"document.querySelector({selector!r})"
        box = await self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            await self.command("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    async def size(self, width: int, height: int) -> None:
        """Make the window so large, in pixels."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def capture(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        shot = await self.command("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    def asked_beyond(self) -> list[str]:
        """What the page asked of any other machine."""
        parts = [(url, urlsplit(url)) for url in self.requests]
        return [url for url, part in parts if part.scheme not in LOCAL_SCHEMES and part.hostname not in LOOPBACK]

    async def _listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if (answer := self._awaited.pop(said.get("id", 0), None)) is not None:
                answer.set_result(said)
                continue
            about = said.get("params", {})
            match said.get("method"):
                case "Network.requestWillBeSent":
                    self.requests.append(about["request"]["url"])
                case "Network.webSocketCreated":
                    self.requests.append(about["url"])
                case "Runtime.exceptionThrown":
                    self.errors.append(str(about["exceptionDetails"].get("exception", about["exceptionDetails"])))
                case "Log.entryAdded" if about["entry"]["level"] == "error":
                    self.errors.append(f"{about['entry']['text']} {about['entry'].get('url', '')}".rstrip())

    async def close(self) -> None:
        self._listening.cancel()
        await self._socket.close()


KEY_CODES = {
    "Enter": 13,
    "Tab": 9,
    "Escape": 27,
    "Backspace": 8,
    "PageUp": 33,
    "PageDown": 34,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}
"""Windows virtual key codes, by which Chromium knows keys that write nothing."""


@asynccontextmanager
async def browsing(width: int = 1280, height: int = 800) -> AsyncIterator[Page]:
    """An empty tab of a browser of its own. Skips the test where no browser is installed."""
    program = installed()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium); ESPALIER_CHROMIUM names one elsewhere")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        child = _start(program, folder)
        try:
            port = await _port_of(child, Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                page = await _tab(session, port)
                try:
                    await page.size(width, height)
                    yield page
                finally:
                    await page.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.to_thread(child.wait)


def _start(program: str, folder: str) -> subprocess.Popen[bytes]:
    """The browser with a profile in a folder, as the leader of a group that can be ended at once."""
    return subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "HOME": folder},
    )


async def _port_of(child: subprocess.Popen[bytes], file: Path) -> int:
    """Where the browser listens, which it writes into a file of its profile."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            assert child.poll() is None, f"the browser ended with exit code {child.returncode}"
            lines = await asyncio.to_thread(_lines, file)
            if len(lines) > 1:
                return int(lines[0])
            await asyncio.sleep(0.02)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


async def _tab(session: aiohttp.ClientSession, port: int) -> Page:
    """The browser's first tab."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as listed:
                tabs = [tab for tab in await listed.json() if tab["type"] == "page"]
            if tabs:
                break
            await asyncio.sleep(0.02)
    page = Page(await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0))
    for domain in ("Page", "Network", "Runtime", "Log"):
        await page.command(f"{domain}.enable")
    return page
