"""The app's way to the store: questions answered one after the other by one thread on one read-only connection.

A question is a function of a store. Whoever asks awaits its answer on the event loop; a question that was given up
before its turn came is never asked. Nothing is kept open between two questions but the connection itself.

Invariant: the connection is used by its own thread alone, cannot write, and holds no transaction between questions,
so an open app neither changes a store nor keeps its log from being cleared.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from trees.store import Store, as_store_error

T = TypeVar("T")


class Reader:
    """One reading thread. `close` it when the app ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._store: Store | None = None
        self._file: tuple[int, int] | None = None
        self.openings = 0
        """How often the store was opened: another number is another file, or the same one come back."""

    async def ask(self, question: Callable[[Store], T]) -> T:
        """The answer of the store as it stands. Raises StoreError, or what the question raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)

    def close(self) -> None:
        """End the thread; the question it is at is given up."""
        if self._store is not None:
            self._store.connection.interrupt()
        self._thread.submit(self._drop)
        self._thread.shutdown(wait=False)

    def _answer(self, question: Callable[[Store], T]) -> T:
        try:
            return question(self._opened())
        except sqlite3.Error as error:
            self._drop()
            raise as_store_error(error, self.path) from error

    def _opened(self) -> Store:
        """The store, opened anew when another file has taken its place."""
        found = _identity(self.path)
        if self._store is not None and found == self._file:
            return self._store
        self._drop()
        self._store, self._file = Store.read(self.path), found
        self.openings += 1
        return self._store

    def _drop(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
