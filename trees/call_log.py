"""The call log: every answer a model gave, found again by the id of what was asked.

Invariant: `keep` returns after the answer is on disk, so nothing ever acts on an answer that a crash could lose; and
what it returns is the answer that stands, which is another one if another engine asked the same at the same time.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from trees.store import Store
from trees.values import Call, CallFailure, Use
from trees.writer import Writer
from trees.writes import keep_call, keep_failure, keep_use, resolve_failures


class CallLog(Protocol):
    """Where answers are looked up before asking, and kept before use."""

    def answer(self, call_id: str, *, shareable: bool) -> dict[str, Any] | None:
        """The stored answer of a call, or None. A call with a seed belongs to one run and is not shareable."""

    async def keep(self, call: Call, use: Use) -> dict[str, Any]:
        """Keep an answer; returns the one that stands."""

    async def keep_use(self, use: Use) -> None: ...

    async def keep_failure(self, failure: CallFailure) -> None: ...


class StoreCallLog:
    """The call log of one run's engine: looked up on a reading connection, kept through the engine's writer.

    What the run itself has asked is known by id, so that a first asking costs no look-up; only calls that other runs
    may have asked as well are looked for in the store, and only if there are other runs.
    """

    def __init__(self, reader: Store, writer: Writer, run_id: str) -> None:
        self._reader = reader
        self._writer = writer
        self._known = {row[0] for row in reader.rows("SELECT call_id FROM uses WHERE run_id = ?", (run_id,))}
        self._others = bool(reader.rows("SELECT 1 FROM runs WHERE id <> ? LIMIT 1", (run_id,)))
        sql = "SELECT DISTINCT call_id FROM failures WHERE resolved_at IS NULL"
        self._failed = {row[0] for row in reader.rows(sql)}

    def answer(self, call_id: str, *, shareable: bool) -> dict[str, Any] | None:
        if call_id in self._known or (shareable and self._others):
            return self._reader.answer(call_id)
        return None

    async def keep(self, call: Call, use: Use) -> dict[str, Any]:
        writes = keep_call(call, use)
        if call.id in self._failed:
            writes += resolve_failures(call.id)
            self._failed.discard(call.id)
        ((stands,),) = await self._writer.commit(writes)
        if "seed" not in call.request:
            self._known.add(call.id)  # what carries a seed is asked at one place, once
        answer: dict[str, Any] = json.loads(stands)
        return answer

    async def keep_use(self, use: Use) -> None:
        await self._writer.commit(keep_use(use))

    async def keep_failure(self, failure: CallFailure) -> None:
        self._failed.add(failure.call_id)
        await self._writer.commit(keep_failure(failure))
