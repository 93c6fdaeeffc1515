"""The call path: what is asked, and not asked again, who waits for what, and what is kept before anybody sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agents.calls import Asking, CallFailed, Calls, Gate, Halted
from agents.models.protocol import (
    ChatAnswer,
    ChatRequest,
    Completion,
    Message,
    ModelFailure,
    Prepared,
    Sampling,
    ScoreRequest,
    Usage,
)
from agents.permits import Permits
from agents.retries import RetryPolicy
from tests.support.agents import (
    ASKING,
    FakeModel,
    MemoryLog,
    OpenGate,
    calls_for,
    decides,
    says,
    seat,
)
from trees.errors import StoreFull
from trees.values import Call, Use

REQUEST = ChatRequest((Message("user", "hello"),), Sampling(temperature=0.5), seed=1)
PATIENT = RetryPolicy(attempts=2, first_wait_s=3600, max_wait_s=3600)
"""Asks a second time, in an hour."""


def about(text: str, seed: int | None = 1) -> ChatRequest:
    return ChatRequest((Message("user", text),), Sampling(temperature=0.5), seed=seed)


@dataclass
class Held:
    """Answers that wait until a test lets them go."""

    started: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    release: asyncio.Event = field(default_factory=asyncio.Event)
    now: int = 0
    most: int = 0

    async def __call__(self, request: ChatRequest) -> ChatAnswer:
        self.now += 1
        self.most = max(self.most, self.now)
        self.started.release()
        try:
            await self.release.wait()
        finally:
            self.now -= 1
        return ChatAnswer((Completion(f"about {request.messages[0].content}"),))

    async def wait_for(self, number: int) -> None:
        for _ in range(number):
            await self.started.acquire()


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def text_of(answer: ChatAnswer) -> str:
    return answer.completions[0].text


async def text(calls: Calls, request: ChatRequest = REQUEST, asking: Asking = ASKING) -> str:
    return text_of((await calls.chat("fake", request, asking))[1])


async def id_of(request: ChatRequest = REQUEST, asking: Asking = ASKING, model: str = "fake") -> str:
    return (await calls_for(FakeModel(says("a"), name=model)).chat(model, request, asking))[0]


# ---- asked once


async def test_an_answer_in_the_log_is_not_asked_for_again() -> None:
    log, model = MemoryLog(), FakeModel(says("first", "second"))
    assert await text(calls_for(model, log=log)) == "first"
    assert await text(calls_for(model, log=log)) == "first"
    assert len(model.asked) == 1


async def test_a_call_answered_from_the_log_is_used_here_too() -> None:
    log, model = MemoryLog(), FakeModel(says("a"))
    calls = calls_for(model, log=log)
    call_id, _ = await calls.chat("fake", REQUEST, ASKING)
    await calls.chat("fake", REQUEST, replace(ASKING, tree_id="another"))
    assert [(use.call_id, use.tree_id) for use in log.uses] == [(call_id, "tree"), (call_id, "another")]


async def test_two_at_once_who_ask_the_same_ask_once() -> None:
    held = Held()
    model = FakeModel(held)
    calls = calls_for(model)
    both = asyncio.gather(text(calls), text(calls))
    await held.wait_for(1)
    await settled()
    held.release.set()
    assert list(await both) == ["about hello"] * 2
    assert len(model.asked) == 1


async def test_who_waited_for_a_call_that_failed_asks_for_themselves() -> None:
    first = asyncio.Event()

    async def fail_once(request: ChatRequest) -> ChatAnswer:
        if len(model.asked) == 1:
            await first.wait()
            raise ModelFailure("refused", "not this time")
        return ChatAnswer((Completion("this time"),))

    model = FakeModel(fail_once)
    calls = calls_for(model)
    both = asyncio.gather(text(calls), text(calls), return_exceptions=True)
    await settled()
    first.set()
    failed, answered = await both
    assert isinstance(failed, CallFailed)
    assert answered == "this time"


async def test_of_those_who_waited_for_a_call_that_failed_one_asks() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def fail_once(request: ChatRequest) -> ChatAnswer:
        if len(model.asked) == 1:
            await first.wait()
            raise ModelFailure("refused", "not this time")
        await second.wait()
        return ChatAnswer((Completion("this time"),))

    model = FakeModel(fail_once)
    calls = calls_for(model)
    asked = asyncio.gather(*(text(calls) for _ in range(4)), return_exceptions=True)
    await settled()
    first.set()
    await settled()
    second.set()
    failed, *answered = await asked
    assert isinstance(failed, CallFailed)
    assert answered == ["this time"] * 3
    assert len(model.asked) == 2


async def test_who_waited_for_a_cancelled_call_asks_for_themselves() -> None:
    held = Held()
    model = FakeModel(held)
    calls = calls_for(model)
    owner, waiter = asyncio.create_task(text(calls)), asyncio.create_task(text(calls))
    await held.wait_for(1)
    owner.cancel()
    await held.wait_for(1)
    held.release.set()
    assert await waiter == "about hello"
    assert len(model.asked) == 2


async def test_a_cancelled_waiter_leaves_the_call_alone() -> None:
    held = Held()
    model = FakeModel(held)
    calls = calls_for(model)
    owner, waiter = asyncio.create_task(text(calls)), asyncio.create_task(text(calls))
    await held.wait_for(1)
    await settled()
    waiter.cancel()
    held.release.set()
    assert await owner == "about hello"
    assert len(model.asked) == 1


# ---- permits


async def test_permits_bound_what_is_with_a_model_at_once() -> None:
    held = Held()
    calls = calls_for(FakeModel(held), permits=3)
    asked = asyncio.gather(*(text(calls, about(str(i))) for i in range(10)))
    await held.wait_for(3)
    await settled()
    assert held.now == 3
    held.release.set()
    assert await asked == [f"about {i}" for i in range(10)]
    assert held.most == 3


async def test_a_raised_limit_lets_waiters_in_at_once() -> None:
    held = Held()
    calls = calls_for(FakeModel(held), permits=1)
    asked = asyncio.gather(*(text(calls, about(str(i))) for i in range(4)))
    await held.wait_for(1)
    calls.seats["fake"].permits.set_limit(4)
    await held.wait_for(3)
    held.release.set()
    await asked
    assert held.most == 4


async def test_a_lowered_limit_holds_once_permits_are_given_back() -> None:
    permits = Permits(3)
    for _ in range(3):
        await permits.acquire()
    permits.set_limit(1)
    waiting = asyncio.create_task(permits.acquire())
    permits.release()
    permits.release()
    await settled()
    assert not waiting.done()
    permits.release()
    await waiting
    assert permits.held == 1


async def test_permits_are_given_in_the_order_of_asking() -> None:
    permits, order = Permits(1), []
    await permits.acquire()

    async def take(number: int) -> None:
        async with permits:
            order.append(number)

    taking = asyncio.gather(*(take(i) for i in range(5)))
    await settled()
    permits.release()
    await taking
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("given", [False, True], ids=["while waiting", "as it is given"])
async def test_a_cancelled_waiter_keeps_no_permit(given: bool) -> None:
    permits = Permits(1)
    await permits.acquire()
    waiting = asyncio.create_task(permits.acquire())
    await settled()
    if given:
        permits.release()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    if not given:
        permits.release()
    assert permits.held == 0
    await permits.acquire()


async def test_no_permit_is_held_while_waiting_to_ask_again() -> None:
    model = FakeModel(says(ModelFailure("unavailable", "down"), "up"))
    calls = calls_for(model, permits=1, retries=PATIENT)
    waiting = asyncio.create_task(text(calls, about("first")))
    await settled()
    assert len(model.asked) == 1
    assert await text(calls, about("second")) == "up"
    assert not waiting.done()
    waiting.cancel()


async def test_no_permit_is_held_while_an_answer_is_being_kept() -> None:
    class SlowLog(MemoryLog):
        def __init__(self) -> None:
            super().__init__()
            self.saving, self.disk = asyncio.Event(), asyncio.Event()

        async def keep(self, call: Call, use: Use) -> dict[str, Any]:
            self.saving.set()
            await self.disk.wait()
            return await super().keep(call, use)

    log, model = SlowLog(), FakeModel(says("a"))
    calls = calls_for(model, log=log, permits=1)
    asked = asyncio.gather(text(calls, about("one")), text(calls, about("two")))
    await log.saving.wait()
    await settled()
    assert len(model.asked) == 2
    assert not asked.done()
    log.disk.set()
    assert list(await asked) == ["a", "a"]


# ---- deadlines and failures


async def test_no_answer_within_the_deadline_is_a_timeout_that_is_kept() -> None:
    log = MemoryLog()
    with pytest.raises(CallFailed) as failed:
        await text(calls_for(FakeModel(Held()), log=log, deadline_s=0.01))
    assert failed.value.kind == "timeout"
    assert [(f.kind, f.message) for f in log.failures] == [("timeout", "no answer within 0.01 s")]


async def test_a_prompt_that_cannot_be_prepared_in_time_is_a_timeout_too() -> None:
    class Stuck(FakeModel):
        async def prepare(self, messages: Sequence[Message]) -> Prepared:
            await asyncio.Event().wait()
            raise AssertionError

    log = MemoryLog()
    with pytest.raises(CallFailed):
        await text(calls_for(Stuck(says("a")), log=log, deadline_s=0.01))
    assert [f.kind for f in log.failures] == ["timeout"]


async def test_a_prompt_whose_process_died_is_prepared_again() -> None:
    class DiesOnce(FakeModel):
        alive = False

        async def prepare(self, messages: Sequence[Message]) -> Prepared:
            if not self.alive:
                self.alive = True
                raise ModelFailure("died", "ended by signal 9")
            return await super().prepare(messages)

    log = MemoryLog()
    assert await text(calls_for(DiesOnce(says("a")), log=log, retries=RetryPolicy(attempts=2, first_wait_s=0))) == "a"
    assert not log.failures


async def test_waiting_for_a_permit_is_not_part_of_the_deadline() -> None:
    held = Held()
    calls = calls_for(FakeModel(held), permits=1, deadline_s=30)
    holder = asyncio.create_task(text(calls, about("first")))
    await held.wait_for(1)
    calls.seats["fake"].deadline_s = 0.01
    waiting = asyncio.create_task(text(calls, about("second")))
    await settled()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    held.release.set()
    assert await holder == "about first"
    assert await waiting == "about second"


async def test_a_failure_is_kept_with_its_place_and_attempts_and_raised() -> None:
    log = MemoryLog()
    failure = ModelFailure("unavailable", "nobody there")
    calls = calls_for(FakeModel(says(failure)), log=log, retries=RetryPolicy(attempts=2, first_wait_s=0))
    with pytest.raises(CallFailed, match="nobody there") as failed:
        await text(calls)
    (kept,) = log.failures
    assert failed.value.kind == kept.kind == "unavailable"
    assert (kept.run_id, kept.tree_id, kept.node_id, kept.role) == ("run", "tree", "node", "user")
    assert [attempt["kind"] for attempt in kept.attempts] == ["unavailable"] * 2
    assert kept.call_id == await id_of()
    assert not log.calls


async def test_an_answer_after_failed_attempts_keeps_them() -> None:
    log = MemoryLog()
    model = FakeModel(says(ModelFailure("died", "gone"), "back"))
    assert await text(calls_for(model, log=log, retries=RetryPolicy(attempts=2, first_wait_s=0))) == "back"
    (call,) = log.calls.values()
    assert [attempt["kind"] for attempt in call.attempts] == ["died"]
    assert not log.failures


async def test_an_answer_without_any_completion_is_a_bad_one() -> None:
    log = MemoryLog()
    with pytest.raises(CallFailed):
        await text(calls_for(FakeModel(says([])), log=log))
    assert [f.kind for f in log.failures] == ["bad_answer"]


async def test_a_programming_mistake_is_no_failure_of_the_call() -> None:
    log = MemoryLog()

    async def broken(request: ChatRequest) -> ChatAnswer:
        raise ValueError("a mistake")

    calls = calls_for(FakeModel(broken), log=log)
    with pytest.raises(ValueError, match="a mistake"):
        await text(calls)
    assert not log.failures
    assert calls.seats["fake"].permits.held == 0


# ---- the gate


class Shut(OpenGate):
    async def enter(self) -> None:
        raise Halted("the budget is used up")


async def test_a_halt_passes_through_and_nothing_has_failed() -> None:
    log, model = MemoryLog(), FakeModel(says("a"))
    with pytest.raises(Halted, match="used up"):
        await text(calls_for(model, log=log, gate=Shut()))
    assert not model.asked
    assert not log.failures


async def test_what_is_in_the_log_is_answered_though_calls_are_halted() -> None:
    log, model = MemoryLog(), FakeModel(says("a"))
    await text(calls_for(model, log=log))
    assert await text(calls_for(model, log=log, gate=Shut())) == "a"


async def test_a_halt_reaches_those_who_wait_for_a_permit() -> None:
    class Closing(OpenGate):
        halted = False

        async def enter(self) -> None:
            if self.halted:
                raise Halted("stop")

    gate, held = Closing(), Held()
    model = FakeModel(held)
    calls = calls_for(model, gate=gate, permits=1)
    asked = asyncio.gather(text(calls, about("one")), text(calls, about("two")), return_exceptions=True)
    await held.wait_for(1)
    gate.halted = True
    held.release.set()
    begun, waiting = await asked
    assert begun == "about one"
    assert isinstance(waiting, Halted)
    assert len(model.asked) == 1


async def test_an_answered_call_is_accounted_for_once() -> None:
    gate: Gate = OpenGate()
    log = MemoryLog()
    model = FakeModel(says("a"))
    for _ in range(2):
        await text(calls_for(model, log=log, gate=gate))
    assert gate.accounts == [("fake", Usage(prompt_tokens=11, output_tokens=3))]  # type: ignore[attr-defined]


async def test_a_failed_call_costs_nothing() -> None:
    gate = OpenGate()
    with pytest.raises(CallFailed):
        await text(calls_for(FakeModel(says(ModelFailure("refused", "no"))), gate=gate))
    assert gate.accounts == []


async def test_a_store_that_cannot_be_written_halts_and_is_no_failure_of_the_call() -> None:
    class FullLog(MemoryLog):
        async def keep(self, call: Call, use: Use) -> dict[str, Any]:
            raise StoreFull("the disk is full")

    gate, log = OpenGate(), FullLog()
    with pytest.raises(Halted, match="disk is full"):
        await text(calls_for(FakeModel(says("a")), log=log, gate=gate))
    assert [error.message for error in gate.broken] == ["the disk is full"]
    assert not log.failures


# ---- what is kept


async def test_an_answer_is_kept_before_it_is_returned() -> None:
    log = MemoryLog()
    call_id, answer = await calls_for(FakeModel(says("a")), log=log).chat("fake", REQUEST, ASKING)
    kept = log.calls[call_id]
    assert kept.answer == {"completions": [{"text": text_of(answer)}]}
    assert (kept.tokens_in, kept.tokens_out) == (11, 3)
    assert [use.call_id for use in log.uses] == [call_id]


async def test_what_another_engine_kept_first_is_what_is_returned() -> None:
    class Shared(MemoryLog):
        async def keep(self, call: Call, use: Use) -> dict[str, Any]:
            self.answers[call.id] = {"completions": [{"text": "theirs"}]}
            return await super().keep(call, use)

    assert await text(calls_for(FakeModel(says("mine")), log=Shared())) == "theirs"


async def test_everything_an_answer_says_comes_back_from_the_log() -> None:
    said = Completion("A", "length", "because", {"A": -0.1, "B": -2.5})
    log, model = MemoryLog(), FakeModel(says(said))
    fresh = await calls_for(model, log=log).chat("fake", REQUEST, ASKING)
    again = await calls_for(model, log=log).chat("fake", REQUEST, ASKING)
    assert fresh == again
    assert again[1].completions == (said,)


async def test_scores_come_back_from_the_log_as_they_were() -> None:
    log, model = MemoryLog(), FakeModel(score=lambda request: [(-1.25, 3), (-2.5, 4)])
    request = ScoreRequest((Message("user", "hi"),), ("one", "two"))
    fresh = await calls_for(model, log=log).score("fake", request, ASKING)
    assert await calls_for(model, log=log).score("fake", request, ASKING) == fresh
    assert len(model.scored) == 1


async def test_deltas_say_what_they_belong_to() -> None:
    class Streaming(FakeModel):
        async def chat(self, request, on_delta=None):  # type: ignore[no-untyped-def]
            assert on_delta is not None
            on_delta(0, "a")
            return await super().chat(request, on_delta)

    heard: list[tuple[Asking, int, str]] = []
    calls = Calls({"fake": seat(Streaming(says("a")))}, MemoryLog(), OpenGate(), lambda *delta: heard.append(delta))
    await text(calls)
    assert heard == [(ASKING, 0, "a")]


# ---- ids

OTHER_REQUESTS = {
    "prompt": replace(REQUEST, messages=(Message("user", "goodbye"),)),
    "speaker": replace(REQUEST, messages=(Message("assistant", "hello"),)),
    "sampling": replace(REQUEST, sampling=Sampling(temperature=0.6)),
    "stop": replace(REQUEST, sampling=Sampling(temperature=0.5, stop=("x",))),
    "seed": replace(REQUEST, seed=2),
    "no seed": replace(REQUEST, seed=None),
    "n": replace(REQUEST, n=2),
    "choices": replace(REQUEST, choices=("A", "B")),
    "order of choices": replace(REQUEST, choices=("B", "A")),
    "schema": replace(REQUEST, schema="{}"),
}


async def test_equal_requests_have_equal_ids_wherever_they_are_made() -> None:
    elsewhere = Asking("run2", "tree2", "node2", "inducer", "induce", "p", {"turn": 9}, epoch=3)
    assert await id_of() == await id_of(replace(REQUEST), elsewhere)


async def test_whatever_shapes_an_answer_shapes_its_id() -> None:
    ids = [await id_of(), *[await id_of(request) for request in OTHER_REQUESTS.values()]]
    ids.append(await id_of(model="another"))
    ids += [await id_of(asking=replace(ASKING, repeat=repeat)) for repeat in (1, 2)]
    assert len(set(ids)) == len(ids)


async def test_ids_of_scores_differ_by_prompt_and_replies() -> None:
    calls = calls_for(FakeModel(score=lambda request: [(-1.0, 1)] * len(request.replies)))
    asked = [
        ScoreRequest((Message("user", content),), replies)
        for content in ("hi", "ho")
        for replies in (("a", "b"), ("b", "a"), ("ab",), ("a",))
    ]
    ids = [(await calls.score("fake", request, ASKING))[0] for request in asked]
    assert len(set(ids)) == len(asked)


async def test_a_repeat_is_asked_again() -> None:
    log, model = MemoryLog(), FakeModel(says("one", "two"))
    calls = calls_for(model, log=log)
    assert [await text(calls), await text(calls, asking=replace(ASKING, repeat=1))] == ["one", "two"]


async def test_answers_follow_requests_not_the_order_of_arrival() -> None:
    def plays(order: Sequence[int]) -> Any:
        calls = calls_for(FakeModel(decides(lambda request: f"about {request.seed}")))
        return asyncio.gather(*(calls.chat("fake", about("x", seed), ASKING) for seed in order))

    forward, backward = await plays(range(5)), await plays(range(4, -1, -1))
    assert list(forward) == list(reversed(backward))
