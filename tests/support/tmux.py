"""A terminal that can be read as a person reads it: tmux with a server of its own, keys sent, the screen as text.

    with tmux(["espalier"], folder, 80, 24) as terminal:
        terminal.press("q")
        terminal.until("running")

Invariant: when `tmux` is left, its server and everything in it has ended; nobody else's tmux is touched.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

POLL_S = 0.05


class Screen:
    """What stands on the terminal, and its keyboard."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command

    def press(self, *keys: str) -> None:
        """Keys by tmux's names: Enter, Escape, C-s, Down; a character is itself."""
        self.tell("send-keys", "-t", "it", *keys)

    def type(self, text: str) -> None:
        self.tell("send-keys", "-t", "it", "-l", text)

    def text(self) -> str:
        """The screen, without trailing spaces."""
        shown = self.tell("capture-pane", "-t", "it", "-p")
        return "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"

    def line(self) -> int:
        """The line that the cursor stands on, from 0 at the top."""
        return int(self.tell("display-message", "-t", "it", "-p", "#{cursor_y}"))

    def resize(self, width: int, height: int) -> None:
        self.tell("resize-window", "-t", "it", "-x", str(width), "-y", str(height))

    def until(self, *words: str, timeout_s: float = 60.0) -> str:
        """Wait until all of these words stand on the screen; returns it."""
        return self.when(lambda text: all(word in text for word in words), ", ".join(map(repr, words)), timeout_s)

    def when(self, condition: Callable[[str], bool], what: str, timeout_s: float = 60.0) -> str:
        """Wait until a condition holds of the screen; it has a name for whoever reads the failure."""
        ends = time.monotonic() + timeout_s
        while not condition(text := self.text()):
            assert time.monotonic() < ends, f"waited {timeout_s:g} s for {what}:\n{text}"
            time.sleep(POLL_S)
        return text

    def tell(self, *words: str) -> str:
        """The answer of tmux to a command of its own."""
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"tmux {words[0]}: {done.stderr.strip()}"
        return done.stdout


@contextmanager
def tmux(program: Sequence[str], folder: Path, width: int, height: int, **environment: str) -> Iterator[Screen]:
    """A program on a terminal of this size. Skips the test where tmux is not installed."""
    found = shutil.which("tmux")
    if found is None:
        pytest.skip("tmux is not installed")
    with tempfile.TemporaryDirectory(prefix="tmux-", ignore_cleanup_errors=True) as own:
        command = [found, "-S", f"{own}/socket", "-f", "/dev/null"]
        settings = [f"{name}={value}" for name, value in environment.items()]
        # The pane outlives the program, so that what it wrote last can be read.
        words = f"env {shlex.join(settings)} {shlex.join(program)}; echo; echo it ended with $?; exec sleep 3600"
        size = ("-x", str(width), "-y", str(height))
        subprocess.run(
            [*command, "new-session", "-d", "-s", "it", *size, "-c", str(folder), words],
            check=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        try:
            yield Screen(command)
        finally:
            subprocess.run([*command, "kill-server"], check=False, capture_output=True)
