"""Grouped commits for the engine: many small writes, one durable transaction at a time.

Statements run on the event loop's thread, where they take microseconds; only the COMMIT, which waits for the disk
(synchronous=FULL), runs in a thread of its own. While it does, further writes gather and go into the next group.
Running the statements in another thread as well would make each of them wait for the interpreter lock.

Invariant: `commit` returns only after its writes are on disk; writes given in one call are kept whole or not at all;
a write that the store refuses fails its own caller and nobody else.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trees.store import Store, as_store_error
from trees.writes import Write

BUSY_S = 60.0
"""How long the engine waits for another process's write before it gives up, in seconds."""

_Waiting = tuple[Sequence[Write], "asyncio.Future[None]"]


class Writer:
    """The engine's way to write. Belongs to one event loop."""

    def __init__(self, path: Path) -> None:
        self._store = Store.open(path)
        self._store.connection.execute("PRAGMA busy_timeout = 0")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None
        self.groups = 0
        """Transactions committed so far."""

    async def commit(self, writes: Sequence[Write]) -> None:
        """Keep these writes. Raises StoreError if the store refuses them; then none of them is kept."""
        if not writes:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((writes, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await asyncio.shield(done)

    async def close(self) -> None:
        """Commit what waits, then close."""
        while self._flushing is not None:
            await self._flushing
        self._committer.shutdown()
        self._store.close()

    async def _flush(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                if not await self._commit_group(group) and len(group) > 1:
                    for alone in group:
                        await self._commit_group([alone])
        finally:
            self._flushing = None

    async def _begin(self) -> None:
        """Start a transaction; another process's short write is waited for without holding up the event loop."""
        give_up_at = time.monotonic() + BUSY_S
        while True:
            try:
                self._store.connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(0.01)
            else:
                return

    async def _commit_group(self, group: list[_Waiting]) -> bool:
        """One transaction. A failure of a single caller's writes is told to it; of a group, only returned."""
        connection = self._store.connection
        try:
            await self._begin()
            for writes, _ in group:
                for sql, values in writes:
                    connection.execute(sql, values)
            await asyncio.get_running_loop().run_in_executor(self._committer, connection.commit)
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.rollback()
            if len(group) == 1:
                _settle(group[0][1], as_store_error(error, self._store.path))
            return False
        self.groups += 1
        for _, done in group:
            _settle(done, None)
        return True


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
