"""A child that is started when it is needed, and again when it has died, as often as is allowed.

Invariant: another is begun only when the one before has ended, was taken or forgotten; within the
window no more restarts are counted than allowed, and one more is a failure of the set-up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from agents.models.protocol import ModelFailure

WINDOW_S = 600.0


class Restarts:
    """The restarts of one child. `what` names it in the failure."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._times: deque[float] = deque()

    def count(self, now: float) -> None:
        """Note one more, at a time in seconds on any steady clock. Raises ModelFailure("setup") if it is too many."""
        while self._times and self._times[0] <= now - WINDOW_S:
            self._times.popleft()
        if len(self._times) >= self._most:
            raise ModelFailure(
                "setup",
                f"{self._what} ended again after {len(self._times)} restarts within {WINDOW_S / 60:.0f} minutes: "
                "see the failures before this one, or raise `max_restarts`",
            )
        self._times.append(now)


class Living(Protocol):
    @property
    def alive(self) -> bool: ...


Kept = TypeVar("Kept", bound=Living)


class Child(Generic[Kept]):
    """The one child of a model. Without `restarts` it may be started again as often as it ends."""

    def __init__(self, name: str, restarts: Restarts | None) -> None:
        self._name = name
        self._restarts = restarts
        self._begun: asyncio.Task[Kept] | None = None

    @property
    def wanted(self) -> bool:
        """Whether one was begun, and not taken or forgotten since."""
        return self._begun is not None

    @property
    def running(self) -> Kept | None:
        """The child, once it is ready and while it lives."""
        latest = self._latest
        return latest if latest is not None and latest.alive else None

    @property
    def _latest(self) -> Kept | None:
        task = self._begun
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def ready(self, start: Callable[[Kept | None], Coroutine[Any, Any, Kept]]) -> Kept:
        """The living child; has one started if there is none, by `start`, which is given the one that has died.

        A caller's cancelling does not stop the start.
        """
        if self._begun is None or (self._begun.done() and self.running is None):
            if self._begun is not None and self._restarts is not None:
                self._restarts.count(asyncio.get_running_loop().time())
            self._begun = asyncio.create_task(start(self._latest), name=f"start of model {self._name}")
            self._begun.add_done_callback(_retrieve)
        return await asyncio.shield(self._begun)

    async def take(self) -> Kept | None:
        """The child, alive or dead, for its end; a start under way is given up. The next `ready` starts another."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        begun.cancel()
        [result] = await asyncio.gather(begun, return_exceptions=True)
        return None if isinstance(result, BaseException) else result

    def forget(self, child: Kept) -> None:
        """Let the next `ready` start anew, unless it did already."""
        if self.running is child:
            self._begun = None


def _retrieve(task: asyncio.Task[Kept]) -> None:
    """The failure of a start is told to those who wait for it; if nobody does, asyncio must not complain."""
    if not task.cancelled():
        task.exception()
