"""How many calls may be with a model at once: permits, and a limit that finds itself.

`AdaptiveLimit` is a value: what it has heard of calls so far, and the limit that follows from it. While all permits are
in use and calls are answered it grows, by one for each answer up to `threshold` and then by one for each `limit`
answers. A backend that refuses, breaks off or is too late halves it. Where more calls at once only wait in a queue of
the backend's own (each takes longer, and no more is written in all), it goes back by as much as they became slower.

Additive increase and multiplicative decrease: Chiu and Jain, Computer Networks and ISDN Systems 17 (1989). Slow start
up to a threshold, and one decrease a round trip: Jacobson, SIGCOMM 1988. A queue seen in the slowdown against the best:
Brakmo, O'Malley and Peterson, "TCP Vegas", SIGCOMM 1994.

Invariant: 1 <= limit <= most; nothing here reads a clock; calls that began before the last decrease change nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, replace

TROUBLE = frozenset({"rate_limited", "timeout", "unavailable"})
"""Kinds of failure that say the backend has too much to do."""
SHORTEST_ROUND = 8
"""Answers that are needed to tell how fast a backend is."""
MEASURED_TOKENS = 16
"""An answer of fewer tokens is mostly reading: it says nothing of how fast tokens come."""
TOLERATED = 2.0
"""A token may take this many times what it took at best before calls count as waiting in a queue."""
WORTH_IT = 1.1
"""More calls at once are worth it while this many times as much is written in all."""


@dataclass(frozen=True, slots=True)
class Round:
    """Answers in a row that all came while every permit was in use."""

    limit: int
    """When it began."""
    began: float
    """When the answer before its first one came."""
    answers: int = 0
    seconds: float = 0.0
    """That the calls took, together."""
    tokens: int = 0

    @property
    def over(self) -> bool:
        return self.answers >= max(self.limit, SHORTEST_ROUND)


@dataclass(frozen=True, slots=True)
class AdaptiveLimit:
    """A limit with what it was learnt from. Times are seconds on any one clock that never goes back."""

    limit: int
    most: int
    threshold: int
    """Below it every answer adds one; from there on it takes `limit` answers."""
    credit: int = 0
    """Answers since the limit last changed."""
    lowered_at: float = float("-inf")
    proven: bool = False
    """Whether a call that began after the last decrease was answered."""
    round: Round | None = None
    best_pace: float = float("inf")
    """Seconds a token in the fastest round."""
    rates: tuple[float, ...] = ()
    """Tokens a second in all, by the limit's number of binary digits; 0 where it never was."""
    cause: str = ""
    """Why the limit last changed: `free`, `queue` or a kind of failure."""

    @classmethod
    def starting(cls, first: int, most: int) -> AdaptiveLimit:
        return cls(min(first, most), most, threshold=most)

    def answered(self, began: float, now: float, *, full: bool, tokens: int) -> AdaptiveLimit:
        """A call was answered.

        `full`: whether all permits were in use. `tokens`: how many were written, 0 if nobody knows.
        """
        if began < self.lowered_at:
            return self
        if not full:
            return self if self.proven and self.round is None else replace(self, proven=True, round=None)
        grown = self._grown()
        return grown if tokens < MEASURED_TOKENS else grown._measured(now - began, now, tokens)

    def failed(self, kind: str, began: float, now: float) -> AdaptiveLimit:
        """A call failed. Of all that began before a decrease, the first failure alone counts."""
        if kind not in TROUBLE or began < self.lowered_at:
            return self
        # Trouble on trouble is an outage, and says nothing of where the limit was before it.
        threshold = max(1, self.limit * 3 // 4) if self.proven else self.threshold
        return self._lowered(self.limit // 2, threshold, kind, now)

    def _grown(self) -> AdaptiveLimit:
        if self.limit >= self.most:
            return self if self.proven else replace(self, proven=True)
        if self.limit < self.threshold or self.credit + 1 >= self.limit:
            return replace(self, limit=self.limit + 1, credit=0, proven=True, cause="free")
        return replace(self, credit=self.credit + 1, proven=True)

    def _lowered(self, limit: int, threshold: int, cause: str, now: float) -> AdaptiveLimit:
        lower = max(1, limit)
        return replace(
            self,
            limit=lower,
            threshold=max(lower, threshold),
            credit=0,
            lowered_at=now,
            proven=False,
            round=None,
            cause=cause,
        )

    def _measured(self, seconds: float, now: float, tokens: int) -> AdaptiveLimit:
        if (current := self.round) is None:
            return replace(self, round=Round(self.limit, now))
        current = Round(
            current.limit, current.began, current.answers + 1, current.seconds + seconds, current.tokens + tokens
        )
        return self._judged(current, now) if current.over else replace(self, round=current)

    def _judged(self, done: Round, now: float) -> AdaptiveLimit:
        """What a whole round tells: whether calls wait in the backend's own queue."""
        level, pace = done.limit.bit_length(), done.seconds / done.tokens
        rates = [*self.rates, *[0.0] * (level + 1 - len(self.rates))]
        rate = done.tokens / max(now - done.began, 1e-9)
        rates[level] = (rates[level] + rate) / 2 if rates[level] else rate
        best = min(pace, self.best_pace)
        known = replace(self, rates=tuple(rates), best_pace=best, round=Round(self.limit, now))
        share = TOLERATED * best / pace
        if share >= 1 or rates[level] >= WORTH_IT * max(rates[:level]):
            return known
        limit = int(self.limit * max(share, 0.5))
        return known._lowered(limit, limit, "queue", now)


class Permits:
    """Permits that may change in number while somebody waits; given in the order of asking."""

    def __init__(self, limit: int | AdaptiveLimit) -> None:
        self.adaptive = limit if isinstance(limit, AdaptiveLimit) else None
        """Where the limit comes from; None if it is fixed."""
        self.limit = limit if isinstance(limit, int) else limit.limit
        self.held = 0
        self.changes: Counter[str] = Counter()
        """How often an adaptive limit changed, by cause; whoever tells of them takes them away."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a permit."""
        return sum(not turn.done() for turn in self._waiting)

    @property
    def most(self) -> int:
        """As far as the limit goes by itself."""
        return self.adaptive.most if self.adaptive else self.limit

    async def acquire(self) -> None:
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

    def set_limit(self, limit: int | AdaptiveLimit) -> None:
        """From now on this one."""
        self.adaptive = limit if isinstance(limit, AdaptiveLimit) else None
        self.limit = limit if isinstance(limit, int) else limit.limit
        self._give()

    def answered(self, began: float, now: float, tokens: int) -> None:
        """A call that still holds its permit was answered."""
        if self.adaptive is not None:
            self._follow(self.adaptive.answered(began, now, full=self.held >= self.limit, tokens=tokens))

    def failed(self, kind: str, began: float, now: float) -> None:
        """A call that still holds its permit failed."""
        if self.adaptive is not None:
            self._follow(self.adaptive.failed(kind, began, now))

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def _follow(self, adaptive: AdaptiveLimit) -> None:
        self.adaptive = adaptive
        if adaptive.limit != self.limit:
            self.changes[adaptive.cause] += 1
            self.limit = adaptive.limit
            self._give()

    def _give(self) -> None:
        while self._waiting and self.held < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)
