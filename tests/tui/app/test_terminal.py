"""The app on a real terminal: `espalier` alone opens it, and however it ends the terminal is as it was."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, spawn

LEAVES = b"\x1b[?1049l"
"""What gives the terminal its own screen back."""


class Terminal:
    """A child on a terminal of its own."""

    def __init__(self, child: subprocess.Popen[bytes], master: int) -> None:
        self.child = child
        self.seen = b""
        self._master = master

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, words: bytes) -> None:
        """Until the child wrote these bytes."""
        ends = time.monotonic() + 20
        while words not in self.seen:
            assert time.monotonic() < ends, f"{words!r} was not written: {self.seen[-2000:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._master, 65536)
                except OSError:
                    assert words in self.seen, f"it ended without {words!r}: {self.seen[-2000:]!r}"


@contextmanager
def terminal(folder: Path, **environment: str) -> Iterator[Terminal]:
    """`espalier` without arguments on a terminal of 100 by 30."""
    master, slave = pty.openpty()
    os.set_blocking(master, True)
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "COLUMNS": "100",
        "LINES": "30",
        **environment,
    }
    command = [sys.executable, "-P", "-m", "tui.main"]
    child = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=variables, cwd=folder, start_new_session=True
    )
    os.close(slave)
    try:
        yield Terminal(child, master)
    finally:
        child.kill()
        child.wait()
        os.close(master)


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["plain", "no colour"])
def test_it_opens_and_is_left_with_a_key(tmp_path: Path, environment: dict[str, str]) -> None:
    with terminal(tmp_path, **environment) as shown:
        shown.wait_for(b"quickstart")
        shown.press(b"\x11")
        shown.wait_for(LEAVES)
        assert shown.child.wait(10) == 0


def test_told_to_end_it_gives_the_terminal_back(tmp_path: Path) -> None:
    with terminal(tmp_path) as shown:
        shown.wait_for(b"quickstart")
        shown.child.send_signal(signal.SIGTERM)
        shown.wait_for(LEAVES)
        shown.child.wait(10)


def test_it_is_served_to_browsers_of_this_machine_alone(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = spawn("serve", "--port", str(port), "--store", str(tmp_path / "espalier.db"))
    try:
        assert child.stdout is not None
        assert f"http://localhost:{port}" in child.stdout.readline()
        assert "espalier" in _page(port)
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert next(each for each in listening if each.endswith(f":{port:04X}")).startswith("0100007F")
    finally:
        child.terminate()
        child.wait(10)


def _page(port: int) -> str:
    """The server's page, once it answers."""
    ends = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                return str(answer.read().decode("utf-8"))
        except OSError:
            assert time.monotonic() < ends, "the server does not answer"
