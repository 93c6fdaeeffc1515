"""A limit that finds itself: what it does by the letter, what always holds, and what it comes to before a server."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import retries
from agents.calls import Calls, Seat
from agents.models.openai import OpenAIConfig, OpenAIModel
from agents.models.protocol import ChatRequest, Message, Sampling
from agents.models.settings import ModelSettings
from agents.permits import TROUBLE, AdaptiveLimit, Permits
from agents.retries import RetryPolicy
from tests.support.agents import ASKING, MemoryLog, OpenGate
from tests.support.openai_server import OpenAIServer


def answered(limit: AdaptiveLimit, times: int, *, full: bool = True, at: float = 0.0) -> AdaptiveLimit:
    for _ in range(times):
        limit = limit.answered(at, at + 1, full=full, tokens=0)
    return limit


# ---- by the letter


def test_it_doubles_with_each_round_of_answers_until_the_first_trouble() -> None:
    limit = AdaptiveLimit.starting(4, 64)
    assert [(limit := answered(limit, limit.limit)).limit for _ in range(5)] == [8, 16, 32, 64, 64]


def test_trouble_halves_it_and_it_comes_back_fast_and_then_slowly() -> None:
    limit = answered(AdaptiveLimit.starting(16, 64), 1).failed("rate_limited", 1.0, 2.0)
    assert (limit.limit, limit.threshold, limit.cause) == (8, 12, "rate_limited")
    limit = answered(limit, 4, at=2.0)
    assert limit.limit == 12
    assert answered(limit, 11, at=3.0).limit == 12
    assert answered(limit, 12, at=3.0).limit == 13


def test_one_burst_of_failures_halves_it_once() -> None:
    limit = answered(AdaptiveLimit.starting(16, 64), 1)
    for began in (1.0, 1.1, 1.2, 2.9):
        limit = limit.failed("rate_limited", began, 3.0)
    assert limit.limit == 8
    assert limit.failed("rate_limited", 3.5, 4.0).limit == 4


def test_answers_to_calls_that_began_before_the_decrease_do_not_raise_it_again() -> None:
    limit = answered(AdaptiveLimit.starting(16, 64), 1).failed("timeout", 1.0, 10.0)
    assert answered(limit, 100, at=2.0) == limit


def test_an_outage_is_forgotten_when_answers_come_again() -> None:
    limit = answered(AdaptiveLimit.starting(16, 64), 24)
    assert limit.limit == 40
    for second in range(1, 20):
        limit = limit.failed("unavailable", second, second)
    assert (limit.limit, limit.threshold) == (1, 30)
    assert answered(limit, 29, at=20.0).limit == 30


def test_failures_of_the_request_itself_say_nothing() -> None:
    limit = AdaptiveLimit.starting(8, 64)
    assert all(limit.failed(kind, 0.0, 1.0) is limit for kind in ("bad_answer", "refused", "too_long", "died"))


def test_it_grows_only_while_all_permits_are_in_use() -> None:
    assert answered(AdaptiveLimit.starting(4, 64), 1000, full=False).limit == 4


@dataclass(frozen=True)
class Backend:
    """Answers calls of so many tokens; how long a token takes depends on how many calls are at work."""

    together: int
    """More than these wait in its own queue."""
    slowdown: float
    """A token takes (1 + slowdown * others at work) times as long as alone."""

    def limit_after(self, calls: int, limit: AdaptiveLimit, tokens: int = 50) -> list[int]:
        """The limits while always as many calls are with it as may be."""
        now, begun, limits = 0.0, 0, []
        free = [0.0] * self.together
        done: list[tuple[float, float]] = []
        while begun < calls:
            while len(done) < limit.limit:
                at_work = min(limit.limit, self.together)
                start = max(now, heapq.heappop(free))
                end = start + tokens * 0.01 * (1 + self.slowdown * (at_work - 1))
                heapq.heappush(free, end)
                heapq.heappush(done, (end, now))
                begun += 1
            full = len(done) >= limit.limit
            now, began = heapq.heappop(done)
            limit = limit.answered(began, now, full=full, tokens=tokens)
            limits.append(limit.limit)
        return limits


def test_a_queue_of_the_backends_own_brings_it_back() -> None:
    limits = Backend(together=8, slowdown=0.0).limit_after(4000, AdaptiveLimit.starting(4, 256))
    assert min(limits[1000:]) >= 8
    assert max(limits[1000:]) <= 24, "no more than a second and a third load waits"


def test_calls_that_take_longer_together_but_write_more_in_all_are_no_queue() -> None:
    limits = Backend(together=1000, slowdown=0.02).limit_after(4000, AdaptiveLimit.starting(4, 64))
    assert limits[-1] == 64


# ---- what always holds

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "idle", *sorted(TROUBLE), "bad_answer"]),
        st.floats(0, 5),
        st.floats(0, 5),
        st.integers(0, 200),
    ),
    max_size=300,
)


@given(EVENTS, st.integers(1, 70), st.integers(1, 64))
def test_it_stays_between_one_and_the_most_and_halves_at_most(
    events: list[tuple[str, float, float, int]], first: int, most: int
) -> None:
    limit, now = AdaptiveLimit.starting(first, most), 0.0
    for kind, passed, took, tokens in events:
        now += passed
        before = limit
        if kind in ("answered", "idle"):
            limit = limit.answered(now - took, now, full=kind == "answered", tokens=tokens)
        else:
            limit = limit.failed(kind, now - took, now)
        assert 1 <= limit.limit <= most
        assert before.limit // 2 <= limit.limit <= before.limit + 1
        assert limit.threshold >= 1
        if limit.limit < before.limit:
            assert limit.lowered_at == now
            assert limit.failed("rate_limited", now - 1, now) is limit


# ---- permits


async def test_permits_follow_and_tell_why() -> None:
    permits = Permits(AdaptiveLimit.starting(2, 8))
    await permits.acquire()
    await permits.acquire()
    waiting = asyncio.create_task(permits.acquire())
    await asyncio.sleep(0)
    assert (permits.held, permits.waiting) == (2, 1)
    permits.answered(0.0, 1.0, 0)
    await waiting
    assert (permits.limit, permits.held, permits.waiting) == (3, 3, 0)
    permits.failed("rate_limited", 2.0, 3.0)
    assert permits.limit == 1
    assert permits.changes == {"free": 1, "rate_limited": 1}


async def test_a_fixed_number_stays_whatever_happens() -> None:
    permits = Permits(3)
    permits.answered(0.0, 1.0, 0)
    permits.failed("rate_limited", 2.0, 3.0)
    assert (permits.limit, permits.changes) == (3, {})
    permits.set_limit(AdaptiveLimit.starting(4, 64))
    assert permits.limit == 4


@pytest.mark.parametrize(("entry", "limit"), [({}, 4), ({"permits": 7}, 7), ({"max_permits": 2}, 2)])
def test_an_entry_says_where_the_limit_begins(entry: dict[str, int], limit: int) -> None:
    assert Permits(ModelSettings(**entry).limit()).limit == limit  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, 2_000_000, "many", 1.5, True])
def test_permits_are_a_number_or_auto(wrong: object) -> None:
    with pytest.raises(ValueError, match=f'a number from 1 to 1000000 or "auto", not {wrong!r}'):
        ModelSettings(permits=wrong)  # type: ignore[arg-type]


# ---- before a server that takes so many at once


async def played(server: OpenAIServer, permits: Permits, number: int) -> list[int]:
    """The limits as they were after each answer, with all calls asked for at once."""
    model = OpenAIModel("remote", OpenAIConfig(kind="openai", model="test-model", endpoints=(server.base_url,)))
    await model.open()
    limits: list[int] = []
    seat = Seat(model, model.identity.id, permits, 30.0, RetryPolicy(attempts=20))
    calls = Calls({"remote": seat}, MemoryLog(), OpenGate())
    try:

        async def ask(index: int) -> None:
            request = ChatRequest((Message("user", f"number {index}"),), Sampling(temperature=0.5), seed=index)
            await calls.chat("remote", request, replace(ASKING, node_id=str(index)))
            limits.append(permits.limit)

        await asyncio.gather(*(ask(index) for index in range(number)))
    finally:
        await model.close()
    return limits


@dataclass
class Narrow(OpenAIServer):
    """Answers 429 to whoever comes while so many are being answered."""

    places: int = 6
    inside: int = 0
    refused: int = 0
    busy: int = 0
    served: int = 0

    @property
    def used(self) -> float:
        """Places taken, on average over the answers."""
        return self.busy / self.served

    def _order(self, request: object, body: object) -> str | None:  # type: ignore[override]
        if self.inside < self.places:
            return None
        self.refused += 1
        return "429"

    async def _reply(self, body: dict[str, object], index: int) -> object:  # type: ignore[override]
        self.inside += 1
        self.served += 1
        try:
            # Time passes by turns of the loop: as long an answer on a slow machine as on a fast one.
            for _ in range(300):
                await asyncio.sleep(0)
            self.busy += self.inside
        finally:
            self.inside -= 1
        return await super()._reply(body, index)


async def test_before_a_server_that_refuses_above_n_it_settles_near_n(monkeypatch: pytest.MonkeyPatch) -> None:
    async def soon(seconds: float) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    monkeypatch.setitem(retries.with_retries.__kwdefaults__, "sleep", soon)
    async with Narrow() as known:
        await played(known, Permits(known.places), 400)
    async with Narrow() as server:
        limits = await played(server, Permits(AdaptiveLimit.starting(4, 64)), 400)
    settled = limits[100:]
    assert len(limits) == 400, "every call was answered"
    assert min(settled) >= 3
    assert max(settled) <= 9
    assert server.refused < server.served / 8
    assert server.used >= 0.75 * known.used, "and it is kept nearly as busy as by the number that is right"
