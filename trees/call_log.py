"""The call log: every answer a model gave, found again by the id of what was asked.

Invariant: `keep` returns after the answer is on disk, so nothing ever acts on an answer that a crash could lose.
"""

from __future__ import annotations

from typing import Any, Protocol

from trees.store import Store
from trees.values import Call, CallFailure, Use
from trees.writer import Writer
from trees.writes import keep_call, keep_failure, keep_use, resolve_failures


class CallLog(Protocol):
    """Where answers are looked up before asking, and kept before use."""

    def answer(self, call_id: str) -> dict[str, Any] | None: ...

    async def keep(self, call: Call, use: Use) -> None: ...

    async def keep_use(self, use: Use) -> None: ...

    async def keep_failure(self, failure: CallFailure) -> None: ...


class StoreCallLog:
    """The call log in a store: looked up on a reading connection, kept through the engine's writer."""

    def __init__(self, reader: Store, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self._failed = {row[0] for row in reader.rows("SELECT DISTINCT call_id FROM failures WHERE resolved_at IS NULL")}

    def answer(self, call_id: str) -> dict[str, Any] | None:
        return self._reader.answer(call_id)

    async def keep(self, call: Call, use: Use) -> None:
        writes = keep_call(call, use)
        if call.id in self._failed:
            writes += resolve_failures(call.id)
            self._failed.discard(call.id)
        await self._writer.commit(writes)

    async def keep_use(self, use: Use) -> None:
        await self._writer.commit(keep_use(use))

    async def keep_failure(self, failure: CallFailure) -> None:
        self._failed.add(failure.call_id)
        await self._writer.commit(keep_failure(failure))
