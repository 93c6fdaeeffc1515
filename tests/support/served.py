"""The app served to a browser: the server as a process, and what the terminal in its page shows."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.chromium import Page
from tests.support.command_line import spawn

FIND_TERMINAL = """
Object.defineProperty(Object.prototype, "fitAddon", {
  configurable: true,
  set(addon) {
    Object.defineProperty(this, "fitAddon", {value: addon, writable: true});
    window.served = this;
  },
});
"""
"""The page's own script keeps its terminal to itself: it is caught as it is made."""
TEXT = """
(() => {
  const terminal = window.served?.terminal;
  const line = (_, at) => terminal.buffer.active.getLine(at)?.translateToString(true) ?? "";
  return terminal ? Array.from({length: terminal.rows}, line).join("\\n") : "";
})()
"""
"""What the terminal of the page shows, as JavaScript."""


@contextmanager
def serving(store: Path) -> Iterator[str]:
    """The app on a store, served on a free port; gives the page's URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = spawn("serve", "--port", str(port), "--store", str(store))
    try:
        yield f"http://localhost:{port}/"
    finally:
        child.terminate()
        try:
            child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def answered(url: str) -> bool:
    """Whether the server answers yet."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


async def shows(page: Page, words: str) -> str:
    """Wait until the terminal shows some words; returns all it shows."""
    try:
        await page.until(f"{TEXT}.includes({words!r})", f"{words!r} is shown")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await page.evaluate(TEXT)}") from None
    return str(await page.evaluate(TEXT))
