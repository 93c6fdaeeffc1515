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
from typing import Any

from trees.store import Store, as_store_error
from trees.writes import Write

BUSY_S = 60.0
"""How long the engine waits for another process's write before it gives up, in seconds."""

Rows = list[tuple[Any, ...]]

_Waiting = tuple[Sequence[Write], "asyncio.Future[Rows]"]


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

    async def commit(self, writes: Sequence[Write]) -> Rows:
        """Keep these writes; returns what their RETURNING clauses gave.

        Raises StoreError if the store refuses them; then none of them is kept.
        """
        if not writes:
            return []
        done: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._waiting.append((writes, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await done

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
            returned = [_execute(connection, writes) for writes, _ in group]
            await asyncio.get_running_loop().run_in_executor(self._committer, connection.commit)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            # The last two are what binding raises for a lone surrogate and for a number beyond 64 bits.
            if connection.in_transaction:
                connection.rollback()
            if len(group) == 1:
                failed = group[0][1]
                if not failed.cancelled():
                    failed.set_exception(as_store_error(error, self._store.path))
            return False
        self.groups += 1
        for (_, done), rows in zip(group, returned, strict=True):
            if not done.cancelled():
                done.set_result(rows)
        return True


def _execute(connection: sqlite3.Connection, writes: Sequence[Write]) -> Rows:
    rows: Rows = []
    for sql, values in writes:
        cursor = connection.execute(sql, values)
        if cursor.description is not None:
            rows += cursor.fetchall()
    return rows
