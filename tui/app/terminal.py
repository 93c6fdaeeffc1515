"""The terminal that the app draws on, which may go away while it is drawn on.

Textual writes from a thread of its own, through a queue of some thirty pieces. A write that fails ends that thread;
whoever writes next waits for room in the queue for ever, and the app is left behind without a window.

Invariant: writing never fails; what is written to a terminal that is gone is lost.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TextIO, cast

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver


class Forgiving:
    """A terminal's file that takes what it is given even when the terminal is gone."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


class TerminalDriver(LinuxDriver):
    """Textual's driver of a terminal, made so that the app ends when its window is closed under it."""

    def __init__(
        self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._file: Any = Forgiving(cast("TextIO", self._file))
