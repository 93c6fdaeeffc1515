"""Asking again: what is retried, how long is waited, what is kept of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agents.calls import Halted
from agents.models.protocol import RETRYABLE, FailureKind, ModelFailure
from agents.retries import Attempt, Outcome, RetryPolicy, wait_before_next, with_retries

POLICY = RetryPolicy(attempts=4, first_wait_s=1.0, factor=2.0, max_wait_s=3.0)


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


async def ask_with(
    failures: list[ModelFailure], clock: Clock, policy: RetryPolicy = POLICY, seed: int = 1
) -> Outcome[str]:
    async def ask(index: int) -> str:
        if index < len(failures):
            raise failures[index]
        return f"answer {index}"

    return await with_retries(ask, policy, seed=seed, sleep=clock.sleep, clock=clock)


async def test_an_answer_at_once_waits_for_nothing() -> None:
    clock = Clock()
    assert await ask_with([], clock) == Outcome("answer 0", None, ())
    assert clock.slept == []


async def test_failed_attempts_are_kept_beside_the_answer() -> None:
    clock = Clock()
    outcome = await ask_with([ModelFailure("unavailable", "down"), ModelFailure("timeout", "late")], clock)
    assert outcome.answer == "answer 2"
    assert outcome.failure is None
    assert [(a.index, a.kind, a.message) for a in outcome.attempts] == [
        (0, "unavailable", "down"),
        (1, "timeout", "late"),
    ]
    assert [a.wait_s for a in outcome.attempts] == clock.slept
    assert outcome.attempts[0].as_dict().keys() == {"index", "kind", "message", "seconds", "wait_s"}


async def test_attempts_are_bounded_and_the_last_failure_stands() -> None:
    clock = Clock()
    failures = [ModelFailure("bad_answer", f"bad {i}") for i in range(9)]
    outcome = await ask_with(failures, clock)
    assert outcome.answer is None
    assert outcome.failure is failures[3]
    assert len(outcome.attempts) == 4
    assert outcome.attempts[-1].wait_s is None
    assert len(clock.slept) == 3


@pytest.mark.parametrize("kind", ["too_long", "refused", "unsupported", "setup"])
async def test_what_is_not_retryable_is_asked_once(kind: FailureKind) -> None:
    clock = Clock()
    outcome = await ask_with([ModelFailure(kind, "no")], clock)
    assert outcome.failure is not None
    assert outcome.failure.kind == kind
    assert clock.slept == []


@pytest.mark.parametrize("kind", sorted(RETRYABLE))
async def test_what_is_retryable_is_asked_again(kind: FailureKind) -> None:
    assert (await ask_with([ModelFailure(kind, "once")], Clock())).answer == "answer 1"


async def test_waits_grow_up_to_a_limit_with_jitter_from_half_to_whole() -> None:
    policy = RetryPolicy(attempts=6, first_wait_s=1.0, factor=2.0, max_wait_s=3.0)
    clock = Clock()
    await ask_with([ModelFailure("unavailable", "down")] * 6, clock, policy)
    for slept, step in zip(clock.slept, [1, 2, 3, 3, 3], strict=True):
        assert step / 2 <= slept <= step


async def test_jitter_follows_from_the_seed() -> None:
    failures = [ModelFailure("unavailable", "down")] * 3
    first, same, other = Clock(), Clock(), Clock()
    await ask_with(failures, first, seed=1)
    await ask_with(failures, same, seed=1)
    await ask_with(failures, other, seed=2)
    assert first.slept == same.slept != other.slept


async def test_retry_after_is_a_lower_bound_even_above_our_own_limit() -> None:
    clock = Clock()
    await ask_with([ModelFailure("rate_limited", "slow down", retry_after_s=60.0)], clock)
    assert 60.0 <= clock.slept[0] <= 61.0


async def test_a_server_that_asks_for_too_long_a_wait_gets_none() -> None:
    clock = Clock()
    outcome = await ask_with([ModelFailure("unavailable", "come back tomorrow", retry_after_s=86400.0)], clock)
    assert clock.slept == []
    assert outcome.failure is not None
    assert outcome.failure.kind == "rate_limited"
    assert outcome.failure.message == "come back tomorrow (it asks to wait 86400 s; max_retry_after_s allows 300)"
    patient = replace(POLICY, max_retry_after_s=86400.0)
    told = ModelFailure("rate_limited", "come back tomorrow", retry_after_s=86400.0)
    assert (await ask_with([told], clock, patient)).answer == "answer 1"


async def test_a_halt_ends_a_wait() -> None:
    halted, asked = asyncio.Event(), asyncio.Event()

    async def ask(_: int) -> str:
        asked.set()
        raise ModelFailure("rate_limited", "slow down", retry_after_s=200.0)

    async def halting() -> None:
        await halted.wait()
        raise Halted("stopped by a test")

    asking = asyncio.create_task(with_retries(ask, POLICY, seed=1, halting=halting))
    await asked.wait()
    halted.set()
    with pytest.raises(Halted, match="stopped by a test"):
        await asking


async def test_those_told_the_same_retry_after_come_back_spread_out() -> None:
    waits = {wait_before_next(POLICY, seed, 0, 10.0) for seed in range(20)}
    assert len(waits) == 20


async def test_no_wait_begins_that_would_end_after_the_deadline() -> None:
    clock = Clock()
    policy = RetryPolicy(attempts=100, first_wait_s=1.0, factor=1.0, deadline_s=5.0)
    outcome = await ask_with([ModelFailure("unavailable", "down")] * 100, clock, policy)
    assert outcome.failure is not None
    assert clock.now <= 5.0
    assert 4 < len(outcome.attempts) < 12


async def test_each_failure_is_told_before_the_wait() -> None:
    clock = Clock()
    told: list[tuple[Attempt, int]] = []

    async def ask(index: int) -> str:
        if index < 2:
            raise ModelFailure("died", "gone")
        return "back"

    outcome = await with_retries(
        ask,
        POLICY,
        seed=1,
        on_failure=lambda attempt: told.append((attempt, len(clock.slept))),
        sleep=clock.sleep,
        clock=clock,
    )
    assert [sleeps for _, sleeps in told] == [0, 1]
    assert tuple(attempt for attempt, _ in told) == outcome.attempts


async def test_other_errors_pass_through() -> None:
    async def ask(_: int) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await with_retries(ask, POLICY, seed=1)
