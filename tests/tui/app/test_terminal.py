"""The app on a real terminal: `espalier` alone opens it, and however it ends the terminal is as it was."""

from __future__ import annotations

import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.command_line import spawn
from tests.support.terminal import LEAVES, app


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["plain", "no colour"])
def test_it_opens_and_is_left_with_a_key(tmp_path: Path, environment: dict[str, str]) -> None:
    with app(tmp_path, **environment) as shown:
        shown.wait_for(b"quickstart")
        shown.press(b"\x11")
        shown.wait_for(LEAVES)
        assert shown.child.wait(60) == 0


def test_told_to_end_it_gives_the_terminal_back(tmp_path: Path) -> None:
    with app(tmp_path) as shown:
        shown.wait_for(b"quickstart")
        shown.child.send_signal(signal.SIGTERM)
        shown.wait_for(LEAVES)
        shown.child.wait(60)


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
        child.wait(60)


def _page(port: int) -> str:
    """The server's page, once it answers."""
    ends = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                return str(answer.read().decode("utf-8"))
        except OSError:
            assert time.monotonic() < ends, "the server does not answer"
