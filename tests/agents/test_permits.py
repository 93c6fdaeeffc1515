"""How many calls at once: growing while it helps, halving on trouble."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.models.protocol import FailureKind
from agents.permits import REST_ROUNDS, AdaptiveLimit, Permits


def a_round(limit: AdaptiveLimit, began: float, seconds: float, *, full: bool = True) -> AdaptiveLimit:
    """As many answers as the limit and one, spread evenly."""
    answers = limit.limit + 1
    for number in range(answers):
        limit = limit.answered(began + seconds * number / (answers - 1), full=full)
    return limit


def play(capacity: int, rounds: int, limit: AdaptiveLimit) -> list[int]:
    """A server that answers so many at once in a second, and more only later: its queue grows, its rate does not."""
    now, limits = 0.0, []
    for _ in range(rounds):
        seconds = max(limit.limit / capacity, 1.0)
        limit = a_round(limit, now, seconds)
        now += seconds
        limits.append(limit.limit)
    return limits


def test_it_doubles_until_the_answers_come_no_faster() -> None:
    limits = play(32, 40, AdaptiveLimit(4, 256))
    assert limits[:3] == [8, 16, 32]
    assert max(limits) <= 128
    assert 16 <= limits[-1] <= 64


def test_unused_permits_are_no_reason_to_grow() -> None:
    assert a_round(AdaptiveLimit(8, 64), 0.0, 1.0, full=False).limit == 8


@pytest.mark.parametrize(("kind", "limit"), [("rate_limited", 8), ("timeout", 8), ("unavailable", 8), ("too_long", 16)])
def test_trouble_halves_it_and_a_fault_of_the_request_does_not(kind: FailureKind, limit: int) -> None:
    assert AdaptiveLimit(16, 64).failed(kind, 0.0, 1.0).limit == limit


def test_a_burst_of_failures_cuts_once() -> None:
    limit = AdaptiveLimit(16, 64)
    for number in range(16):
        limit = limit.failed("rate_limited", 0.0, 1.0 + number / 100)
    assert limit.limit == 8
    assert limit.failed("rate_limited", 1.5, 2.0).limit == 4


def test_after_a_cut_it_grows_by_one_a_round() -> None:
    limit, limits = AdaptiveLimit(16, 64).failed("timeout", 0.0, 1.0), []
    for began, seconds in [(2.0, 1.0), (3.0, 0.5), (3.5, 0.25)]:
        limit = a_round(limit, began, seconds)
        limits.append(limit.limit)
    assert limits == [9, 10, 11]


def test_it_rests_after_growing_in_vain() -> None:
    limits = play(10, 3 + REST_ROUNDS, AdaptiveLimit(10, 64, starting=False))
    resting = limits[-REST_ROUNDS + 2 :]
    assert len(set(resting)) == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 3)), max_size=200), st.integers(1, 64))
def test_it_stays_within_its_bounds(events: list[tuple[bool, bool, float]], first: int) -> None:
    limit, now = AdaptiveLimit(first, 64), 0.0
    for good, full, later in events:
        now += later
        limit = limit.answered(now, full=full) if good else limit.failed("timeout", now - 1, now)
        assert 1 <= limit.limit <= 64


async def test_a_server_that_refuses_above_five_is_left_with_about_five() -> None:
    permits, with_it, refused = Permits(8, adapts_to=64), 0, 0
    clock = iter(range(1_000_000))

    async def call() -> None:
        nonlocal with_it, refused
        async with permits:
            began = float(next(clock))
            with_it += 1
            crowded = with_it > 5
            for _ in range(3):
                await asyncio.sleep(0)
            with_it -= 1
            if crowded:
                refused += 1
                permits.failed("rate_limited", began, float(next(clock)))
            else:
                permits.answered(float(next(clock)))

    await asyncio.gather(*(call() for _ in range(600)))
    assert 2 <= permits.limit <= 7
    assert refused < 120


async def test_a_number_that_a_person_sets_stays() -> None:
    permits = Permits(8, adapts_to=64)
    permits.set_limit(3)
    permits.failed("timeout", 0.0, 1.0)
    assert permits.limit == 3
