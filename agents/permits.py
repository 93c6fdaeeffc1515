"""How many calls may be with a model at once: a number that stays, or one that finds what the model can take.

The adapting one grows by one for as many answers as it is large, while all permits were in use; until the first
trouble it doubles instead. Trouble (too many requests, timeouts, no answer) halves it, once a round trip: a call that
began before the last cut says nothing about what came after. When twice in a row growing brought no more answers a
second, the queue alone has grown: the step is taken back and the number rests for a while.

Additive increase, multiplicative decrease: Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", 1989. Slow start and one cut a round trip: TCP (RFC 5681).

Invariant: 1 <= limit <= most; an `AdaptiveLimit` never changes, each event gives the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace

from agents.models.protocol import FailureKind

TROUBLE: frozenset[FailureKind] = frozenset({"rate_limited", "timeout", "unavailable"})
WORTH_GROWING = 1.03
"""Growing has to bring at least so many times the answers a second."""
REST_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """The state of an adapting number of permits. Times are in seconds on any one clock."""

    limit: int
    most: int
    starting: bool = True
    """Whether it still doubles."""
    answers: int = 0
    """In this round, which lasts for as many answers as the limit."""
    round_began: float | None = None
    rate: float = 0.0
    """Answers a second in the round before the last step."""
    idle_steps: int = 0
    """Steps in a row that brought nothing."""
    rest: int = 0
    """Rounds to go before it grows again."""
    cut_at: float = float("-inf")

    def answered(self, now: float, *, full: bool) -> AdaptiveLimit:
        """A call got its answer; `full`: all permits were in use."""
        began = now if self.round_began is None else self.round_began
        counted = replace(self, answers=self.answers + 1, round_began=began)
        if counted.answers <= self.limit or now <= began:
            return counted
        ended = replace(counted, answers=0, round_began=now)
        return ended._grown((counted.answers - 1) / (now - began)) if full else ended

    def failed(self, kind: FailureKind, began: float, now: float) -> AdaptiveLimit:
        """A call that began then ended in a failure."""
        if kind not in TROUBLE or began < self.cut_at:
            return self
        return AdaptiveLimit(max(self.limit // 2, 1), self.most, starting=False, cut_at=now)

    def _grown(self, rate: float) -> AdaptiveLimit:
        if self.rest:
            return replace(self, rest=self.rest - 1, rate=rate)
        idle = self.idle_steps + 1 if rate < self.rate * WORTH_GROWING else 0
        if idle >= 2:
            back = max(self.limit // 2 if self.starting else self.limit - 2, 1)
            return replace(self, limit=back, starting=False, idle_steps=0, rest=REST_ROUNDS, rate=rate)
        larger = min(2 * self.limit if self.starting else self.limit + 1, self.most)
        return replace(self, limit=larger, idle_steps=idle, rate=max(rate, self.rate))


class Permits:
    """Permits given in the order of asking; their number may change while somebody waits."""

    def __init__(self, limit: int, *, adapts_to: int = 0) -> None:
        """`adapts_to`: the most it may grow to by itself; 0 leaves it as it is."""
        self.limit = limit
        self.held = 0
        self.asked = 0
        """How often it has been asked for one."""
        self._adaptive = AdaptiveLimit(limit, max(adapts_to, limit)) if adapts_to else None
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Who waits for one."""
        return sum(not turn.done() for turn in self._waiting)

    @property
    def most(self) -> int:
        """What the limit may grow to."""
        return self._adaptive.most if self._adaptive else self.limit

    async def acquire(self) -> None:
        self.asked += 1
        if self.held < self.limit and not self._waiting:
            self.held += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        self.held -= 1
        self._give()

    def set_limit(self, limit: int) -> None:
        """A person's word: it adapts no more."""
        self.limit = limit
        self._adaptive = None
        self._give()

    def answered(self, now: float) -> None:
        """While the permit is still held."""
        if self._adaptive:
            self._adapt(self._adaptive.answered(now, full=self.held >= self.limit))

    def failed(self, kind: FailureKind, began: float, now: float) -> None:
        if self._adaptive:
            self._adapt(self._adaptive.failed(kind, began, now))

    def _adapt(self, adapted: AdaptiveLimit) -> None:
        self._adaptive, self.limit = adapted, adapted.limit
        self._give()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def _give(self) -> None:
        while self._waiting and self.held < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)
