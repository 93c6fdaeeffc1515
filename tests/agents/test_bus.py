"""The seam to AutoGen: requests arrive, errors are values, and what AutoGen 0.7.5 gets wrong cannot be felt.

Each trap that agents/bus.py works round has a test here that hangs or fails without the work-around.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any

import pytest
import pytest_asyncio

from agents import bus as seam
from agents.bus import HALTED, Bus
from agents.calls import CallFailed, Halted
from agents.messages import InduceRequest, JudgeRequest, Line, Reply, RespondRequest, Said, SpeakRequest, Wire
from tests.support.agents import PERSON, PLACE, candidates, lines
from trees.values import Judgement, Ledger

SAID = Said(text="hello", call_id="c", model_id="m")
SPEAK = SpeakRequest(place=PLACE, prompt_id="p", person=PERSON, history=())
INDUCE = InduceRequest(place=PLACE, prompt_id="p", person=None, history=lines("hi"), known=())
RESPOND = RespondRequest(place=PLACE, role="responder.warm", prompt_id="p", history=lines("hi"), hint=None)
JUDGE = JudgeRequest(
    place=PLACE, judge="main", prompt_id="p", person=None, history=lines("hi"),
    candidates=candidates("a", "b"), revealed=(),
)  # fmt: skip
SOON = 5.0
"""Seconds after which something that should have ended counts as hanging."""


class Acts:
    """Role logic that does what a test says."""

    def __init__(self, act: Callable[[Any], Awaitable[Reply]] | None = None) -> None:
        self._act = act
        self.seen: list[Any] = []

    async def act(self, request: Any) -> Reply:
        self.seen.append(request)
        return await self._act(request) if self._act is not None else Reply(said=(SAID,))


class Held:
    """Role logic that waits to be let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.release = asyncio.Semaphore(0), asyncio.Event()
        self.now = 0
        self._error = error

    async def act(self, request: Any) -> Reply:
        self.now += 1
        self.begun.release()
        await self.release.wait()
        if self._error is not None:
            raise self._error
        return Reply(said=(SAID,))


def raising(error: Exception) -> Acts:
    async def act(request: Any) -> Reply:
        raise error

    return Acts(act)


@pytest_asyncio.fixture
async def bus() -> AsyncIterator[Bus]:
    """A bus without actors; `add` gives it some."""
    started = Bus({})
    await started.start()
    yield started
    await asyncio.wait_for(started.close(), SOON)


# ---- requests arrive


@pytest.mark.parametrize(
    ("kind", "role", "request_"),
    [
        ("user", "user", SPEAK),
        ("inducer", "inducer", INDUCE),
        ("responder", "responder.warm", RESPOND),
        ("judge", "judge.main", JUDGE),
    ],
)
async def test_a_request_reaches_the_role_it_names_unchanged(bus: Bus, kind: str, role: str, request_: Any) -> None:
    actor = Acts()
    bus.add(role, actor)
    assert await bus.call(kind, request_) == Reply(said=(SAID,))
    assert actor.seen == [request_]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(said=(SAID, SAID)),
        Reply(ledger=Ledger("node", ("a fact",), False, "c", dropped=1)),
        Reply(judgement=Judgement("j", "node", "judge", 0, ("a", "b"))),
    ],
)
async def test_every_kind_of_reply_comes_back_whole(bus: Bus, reply: Reply) -> None:
    async def act(request: Any) -> Reply:
        return reply

    bus.add("user", Acts(act))
    assert await bus.call("user", SPEAK) == reply


async def test_a_role_added_later_acts(bus: Bus) -> None:
    missing = (await bus.call("judge", JUDGE)).failed
    assert missing is not None
    assert missing.kind == "unsupported"
    bus.add("judge.main", Acts())
    assert (await bus.call("judge", JUDGE)).failed is None


# ---- errors are values


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (CallFailed("timeout", "no answer within 3 s"), "timeout", "no answer within 3 s"),
        (Halted("the budget is used up"), HALTED, "the budget is used up"),
        (ValueError("a mistake"), "error", "ValueError: a mistake"),
        (KeyError("p"), "error", "KeyError: 'p'"),
    ],
)
async def test_what_a_role_raises_is_a_failed_reply(bus: Bus, error: Exception, kind: str, message: str) -> None:
    bus.add("user", raising(error))
    failed = (await bus.call("user", SPEAK)).failed
    assert failed is not None
    assert (failed.kind, failed.message) == (kind, message)


async def test_what_went_wrong_in_a_role_is_kept_and_a_failed_call_is_kept_already() -> None:
    kept: list[tuple[str, str]] = []

    async def keep(role: str, request: Any, message: str) -> None:
        assert request == SPEAK
        kept.append((role, message))

    watched = Bus({"user": raising(ValueError("a mistake"))}, on_error=keep)
    await watched.start()
    await watched.call("user", SPEAK)
    watched.add("user", raising(CallFailed("timeout", "no answer within 3 s")))
    await watched.call("user", SPEAK)
    await watched.close()
    assert kept == [("user", "ValueError: a mistake")]


async def test_what_cannot_be_kept_halts() -> None:
    async def keep(role: str, request: Any, message: str) -> None:
        raise Halted("the disk is full")

    watched = Bus({"user": raising(ValueError("a mistake"))}, on_error=keep)
    await watched.start()
    failed = (await watched.call("user", SPEAK)).failed
    await watched.close()
    assert failed is not None
    assert (failed.kind, failed.message) == (HALTED, "the disk is full")


async def test_a_failure_leaves_other_requests_alone(bus: Bus) -> None:
    bus.add("user", raising(ValueError("a mistake")))
    bus.add("responder.warm", Acts())
    failed, answered = await asyncio.gather(bus.call("user", SPEAK), bus.call("responder", RESPOND))
    assert failed.failed is not None
    assert answered.said == (SAID,)


async def test_a_message_that_no_handler_takes_gets_a_failed_reply(bus: Bus) -> None:
    failed = (await bus.call("user", Line(speaker="user", text="hi"))).failed  # type: ignore[arg-type]
    assert failed is not None
    assert failed.kind == "unsupported"
    assert "Line" in failed.message


async def test_a_subclass_of_a_request_is_not_lost_in_silence(bus: Bus) -> None:
    class Louder(SpeakRequest):
        pass

    bus.add("user", Acts())
    failed = (await bus.call("user", Louder(**dict(SPEAK)))).failed
    assert failed is not None
    assert "Louder" in failed.message


# ---- many at once


async def test_fifty_requests_to_one_agent_run_at_once(bus: Bus) -> None:
    held = Held()
    bus.add("user", held)
    asked = asyncio.gather(*(bus.call("user", SPEAK) for _ in range(50)))
    async with asyncio.timeout(SOON):
        for _ in range(50):
            await held.begun.acquire()
    assert held.now == 50
    held.release.set()
    assert len(await asked) == 50


async def test_first_requests_at_once_make_one_agent_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Counted(seam.RoleAgent):
        def __init__(self, kind: str, actors: Any) -> None:
            made.append(kind)
            super().__init__(kind, actors)

    monkeypatch.setattr(seam, "RoleAgent", Counted)
    counted = Bus({"user": Acts(), "judge.main": Acts()})
    await counted.start()
    await asyncio.gather(
        *(counted.call("user", SPEAK) for _ in range(20)), *(counted.call("judge", JUDGE) for _ in range(20))
    )
    await counted.close()
    assert sorted(made) == ["judge", "user"]


async def test_two_busses_do_not_share_their_actors() -> None:
    one, other = Acts(), Acts()
    busses = [Bus({"user": one}), Bus({"user": other})]
    for each in busses:
        await each.start()
    await busses[0].call("user", SPEAK)
    for each in busses:
        await each.close()
    assert (len(one.seen), len(other.seen)) == (1, 0)


# ---- ends


async def test_closing_lets_requests_in_flight_end() -> None:
    held = Held()
    bus = Bus({"user": held})
    await bus.start()
    asked = [asyncio.create_task(bus.call("user", SPEAK)) for _ in range(3)]
    await held.begun.acquire()
    closing = asyncio.create_task(bus.close())
    held.release.set()
    async with asyncio.timeout(SOON):
        assert [reply.said for reply in await asyncio.gather(*asked)] == [(SAID,)] * 3
        await closing


@pytest.mark.parametrize("error", [None, ValueError("a mistake"), CallFailed("died", "gone")])
async def test_a_cancelled_caller_does_not_keep_the_bus_from_closing(error: Exception | None) -> None:
    held = Held(error)
    bus = Bus({"user": held})
    await bus.start()
    caller = asyncio.create_task(bus.call("user", SPEAK))
    await held.begun.acquire()
    caller.cancel()
    assert isinstance((await asyncio.gather(caller, return_exceptions=True))[0], asyncio.CancelledError)
    held.release.set()
    await asyncio.wait_for(bus.close(), SOON)


async def test_closing_waits_for_a_handler_whose_caller_has_gone() -> None:
    held = Held()
    bus = Bus({"user": held})
    await bus.start()
    caller = asyncio.create_task(bus.call("user", SPEAK))
    await held.begun.acquire()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    closing = asyncio.create_task(bus.close())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    held.release.set()
    await asyncio.wait_for(closing, SOON)


async def test_a_handler_that_is_itself_cancelled_does_not_hang_its_caller() -> None:
    async def act(request: Any) -> Reply:
        raise asyncio.CancelledError

    bus = Bus({"user": Acts(act)})
    await bus.start()
    outcome = await asyncio.wait_for(asyncio.gather(bus.call("user", SPEAK), return_exceptions=True), SOON)
    assert isinstance(outcome[0], asyncio.CancelledError)
    await asyncio.wait_for(bus.close(), SOON)


async def test_requests_after_a_cancelled_one_are_answered(bus: Bus) -> None:
    held = Held(ValueError("after its caller has gone"))
    bus.add("user", held)
    bus.add("responder.warm", Acts())
    caller = asyncio.create_task(bus.call("user", SPEAK))
    await held.begun.acquire()
    caller.cancel()
    held.release.set()
    assert (await asyncio.wait_for(bus.call("responder", RESPOND), SOON)).said == (SAID,)


# ---- what the work-arounds rest on


def test_autogen_is_the_version_that_was_worked_round() -> None:
    assert version("autogen-core") == "0.7.5"


def test_tracing_is_off_before_autogen_is_loaded() -> None:
    code = "import agents.bus, os; print(os.environ['AUTOGEN_DISABLE_RUNTIME_TRACING'])"
    clean = {k: v for k, v in os.environ.items() if k != "AUTOGEN_DISABLE_RUNTIME_TRACING"}
    said = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "true"


@pytest.mark.parametrize(
    "message", [SPEAK, INDUCE, RESPOND, JUDGE, Reply(said=(SAID,))], ids=lambda m: type(m).__name__
)
def test_messages_are_frozen_and_survive_the_wire(message: Wire) -> None:
    assert type(message).model_validate_json(message.model_dump_json()) == message
    with pytest.raises(ValueError, match="frozen"):
        setattr(message, next(iter(type(message).model_fields)), None)
