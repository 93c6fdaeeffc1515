"""The program on a terminal of its own: keys pressed, what it wrote, and the terminal taken away.

A thread reads whatever the program writes, so that it is never held up by a terminal that nobody looks at.

Invariant: when `on_terminal` is left, the program has ended.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = 1_000_000
"""Latest bytes that are remembered of what was written."""
LEAVES = b"\x1b[?1049l"
"""What gives the terminal its own screen back."""


class Terminal:
    """A child on a terminal of its own."""

    def __init__(self, child: subprocess.Popen[bytes], master: int) -> None:
        self.child = child
        self._master = master
        self._seen = b""
        self._over = False
        self._hung_up = False
        self._came = threading.Condition()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, words: bytes, timeout_s: float = 60.0) -> float:
        """Until the child wrote these bytes since `forget` was called; returns when they came, of perf_counter."""
        with self._came:
            self._came.wait_for(lambda: words in self._seen or self._over, timeout_s)
            assert words in self._seen, f"{words!r} was not written: {self._seen[-2000:]!r}"
            return time.perf_counter()

    def forget(self) -> None:
        """What was written so far counts no more."""
        with self._came:
            self._seen = b""

    def hang_up(self) -> None:
        """The terminal is gone, as when its window is closed."""
        if not self._hung_up:
            self._hung_up = True
            self._reading.join()
            os.close(self._master)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.hang_up()

    def _read(self) -> None:
        # A read that waits would keep the terminal open after it was closed here.
        while not self._hung_up and not self._over:
            if not select.select([self._master], [], [], 0.05)[0]:
                continue
            data = b""
            with suppress(OSError):
                data = os.read(self._master, 65536)
            with self._came:
                self._seen = (self._seen + data)[-KEPT:]
                self._over = not data
                self._came.notify_all()


@contextmanager
def on_terminal(
    arguments: Sequence[str], folder: Path, *, width: int = 100, height: int = 30, **environment: str
) -> Iterator[Terminal]:
    """Python with these arguments, on a terminal of this size, in a folder."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment}
    for name in ("COLUMNS", "LINES"):
        variables.pop(name, None)
    child = subprocess.Popen(
        [sys.executable, "-P", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=variables,
        cwd=folder,
        preexec_fn=_own_terminal,  # noqa: PLW1509 - one call of the kernel; hanging up is told to the session
    )
    os.close(slave)
    shown = Terminal(child, master)
    try:
        yield shown
    finally:
        shown.close()


def _own_terminal() -> None:
    os.login_tty(0)


@contextmanager
def app(folder: Path, *arguments: str, **environment: str) -> Iterator[Terminal]:
    """`espalier` with these arguments on a terminal of 100 by 30."""
    with on_terminal(["-m", "tui.main", *arguments], folder, **environment) as shown:
        yield shown
