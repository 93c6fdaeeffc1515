"""The one place that asks again. Everything else asks once and raises `ModelFailure`.

Only retryable kinds are asked again. The wait grows by a factor, is spread by a jitter that the call's seed
decides, and is never shorter than the server asked for; a server that asks for too long a wait gets none.
A wait ends early when no call may start any more. Permits are not this module's business: `ask` takes
what it needs for one attempt and gives it back before it returns or raises, so nothing is held during a
wait.

Invariant: with equal policy, seed and failures the waits are equal; of an outcome's answer and failure one
is set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agents.models.protocol import FailureKind, ModelFailure
from trees.ids import digest_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to ask."""

    attempts: int = 4
    """Attempts in all, the first included."""
    first_wait_s: float = 0.5
    factor: float = 2.0
    """Each wait is this many times the one before."""
    max_wait_s: float = 30.0
    """Longest wait of our own; a server that asks for a longer one gets it, up to `max_retry_after_s`."""
    max_retry_after_s: float = 300.0
    """Longest wait that a server may ask for; a call that is told to wait longer fails as `rate_limited`."""
    deadline_s: float | None = None
    """No wait begins that would end later than this many seconds after the first attempt; None: no such
    limit.
    """


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that failed."""

    index: int
    """From 0."""
    kind: FailureKind
    message: str
    seconds: float
    """How long the attempt took."""
    wait_s: float | None = None
    """Seconds waited after it; None if it was the last."""

    def as_dict(self) -> dict[str, object]:
        """For the call's row."""
        row: dict[str, object] = {"index": self.index, "kind": self.kind, "message": self.message}
        row["seconds"] = round(self.seconds, 3)
        return row if self.wait_s is None else {**row, "wait_s": round(self.wait_s, 3)}


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What came of asking: an answer, or the failure of the last attempt."""

    answer: T | None
    failure: ModelFailure | None
    attempts: tuple[Attempt, ...]
    """The attempts that failed, in order; if there is an answer, it came after them."""


async def with_retries(
    ask: Callable[[int], Awaitable[T]],
    policy: RetryPolicy,
    *,
    seed: int,
    on_failure: Callable[[Attempt], None] | None = None,
    halting: Callable[[], Awaitable[None]] | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome[T]:
    """Ask until there is an answer or no use in asking again. `ask` takes the attempt's index.

    `on_failure` hears of each failed attempt before the wait after it. `halting` raises as soon as no call
    may start any more, and ends a wait. What is not a ModelFailure passes through.
    """
    failed: list[Attempt] = []
    began = clock()
    while True:
        started = clock()
        try:
            answer = await ask(len(failed))
        except ModelFailure as failure:
            now = clock()
            wait_s = _wait_after(failure, len(failed), policy, seed, now - began)
            failed.append(Attempt(len(failed), failure.kind, failure.message, now - started, wait_s))
            if on_failure is not None:
                on_failure(failed[-1])
            if wait_s is None:
                return Outcome(None, _as_told(failure, policy), tuple(failed))
        else:
            return Outcome(answer, None, tuple(failed))
        await _wait(sleep(wait_s), halting)


async def _wait(sleeping: Awaitable[object], halting: Callable[[], Awaitable[None]] | None) -> None:
    """Sleep, unless a halt comes first, which is raised."""
    if halting is None:
        await sleeping
        return
    both = [asyncio.ensure_future(sleeping), asyncio.ensure_future(halting())]
    try:
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in both:
            task.cancel()


def _too_long(failure: ModelFailure, policy: RetryPolicy) -> bool:
    return failure.retry_after_s is not None and failure.retry_after_s > policy.max_retry_after_s


def _as_told(failure: ModelFailure, policy: RetryPolicy) -> ModelFailure:
    """The failure that ends a call; where the server asks for too long a wait, that is what is told."""
    if not failure.retryable or not _too_long(failure, policy):
        return failure
    words = (
        f"{failure.message} (it asks to wait {failure.retry_after_s:g} s; "
        f"max_retry_after_s allows {policy.max_retry_after_s:g})"
    )
    return ModelFailure("rate_limited", words, retry_after_s=failure.retry_after_s)


def _wait_after(failure: ModelFailure, index: int, policy: RetryPolicy, seed: int, elapsed_s: float) -> float | None:
    """Seconds to wait before the next attempt; None if there is none."""
    if not failure.retryable or index + 1 >= policy.attempts or _too_long(failure, policy):
        return None
    wait_s = wait_before_next(policy, seed, index, failure.retry_after_s)
    if policy.deadline_s is not None and elapsed_s + wait_s > policy.deadline_s:
        return None
    return wait_s


def wait_before_next(policy: RetryPolicy, seed: int, index: int, retry_after_s: float | None = None) -> float:
    """The wait after attempt `index`: half to the whole of the exponential step, never below
    `retry_after_s`.
    """
    jitter = int(digest_of("retry", seed, index)[:8], 16) / 2**32
    own = min(policy.max_wait_s, policy.first_wait_s * policy.factor**index) * (0.5 + jitter / 2)
    if retry_after_s is None:
        return own
    # Many callers are told the same time at once: they come back spread out after it, not all at that
    # instant.
    return max(own, retry_after_s + policy.first_wait_s * jitter)
