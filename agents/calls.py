"""The one way to a model: look it up, wait for a permit, ask under a deadline, retry, keep, return.

A call's id is the digest of the model's identity, the prompt and the request, so what was asked before is answered
from the call log, in this run or another, after a crash or without one. Two askers of the same call share one.

Invariant: an answer is kept before anybody sees it; a failure is kept too, and raised as `CallFailed`; a permit is
held for one attempt only, never while waiting for the next or for the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from agents.models.protocol import (
    ChatAnswer,
    ChatRequest,
    Completion,
    Message,
    Model,
    ModelFailure,
    OnDelta,
    Prepared,
    ReplyScore,
    ScoreAnswer,
    ScoreRequest,
    Usage,
)
from agents.permits import Permits
from agents.retries import Attempt, Outcome, RetryPolicy, with_retries
from agents.tally import Tally
from trees.call_log import CallLog
from trees.errors import StoreError
from trees.ids import digest_of, text_digest
from trees.values import Call, CallFailure, Use

Answer = TypeVar("Answer", ChatAnswer, ScoreAnswer)
Kept = TypeVar("Kept")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asking:
    """Where and why a call is made: what its `Use` row will say, but for the call's id."""

    run_id: str
    tree_id: str
    node_id: str
    role: str
    purpose: str
    prompt_id: str
    tail: Mapping[str, object] = field(default_factory=dict)
    epoch: int = 0
    repeat: int = 0
    """Above 0 for a deliberate repeat of the very same request."""

    def use(self, call_id: str) -> Use:
        place = (self.run_id, call_id, self.tree_id, self.node_id, self.role, self.purpose)
        return Use(*place, self.prompt_id, self.tail, self.epoch)


class CallFailed(Exception):
    """A call got no answer. The failure is kept already."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Halted(Exception):
    """No call may start any more: the engine is stopping, or a budget is used up. Nothing failed."""


class Gate(Protocol):
    """What stands before every call: pause, stop, budgets."""

    async def enter(self) -> None:
        """Wait while paused. Raises Halted when no call may start."""

    async def halting(self) -> None:
        """Wait until no call may start any more. Raises Halted then."""

    def spent(self, model: str, usage: Usage, seconds: float) -> None:
        """Account for an answered call."""

    def broke(self, error: StoreError) -> None:
        """The store cannot be written: nothing may go on."""


@dataclass(slots=True)
class Seat:
    """A loaded model with how it may be asked."""

    model: Model
    model_id: str
    """The model's identity, digested."""
    permits: Permits
    deadline_s: float
    """Longest wait for one attempt, in seconds."""
    retries: RetryPolicy
    tally: Tally = field(default_factory=Tally)
    """What was seen of it since somebody last looked."""


DeltaSink = Callable[[Asking, int, str], None]
"""Takes (what is being asked, index of the answer, new text) while an answer is written."""


class Calls:
    """The call path for a set of models. Belongs to one event loop."""

    def __init__(self, seats: Mapping[str, Seat], log: CallLog, gate: Gate, deltas: DeltaSink | None = None) -> None:
        self.seats = dict(seats)
        self._log = log
        self._gate = gate
        self.deltas = deltas
        """Where token deltas go; None while nobody listens."""
        self._in_flight: dict[str, asyncio.Future[None]] = {}

    async def chat(self, model: str, request: ChatRequest, asking: Asking) -> tuple[str, ChatAnswer]:
        """The call's id and its answer. Raises CallFailed or Halted."""
        seat = self.seats[model]
        asked = chat_as_asked(request)
        on_delta = self._on_delta(asking)
        in_lane = replace(request, lane=asking.tree_id)

        async def ask() -> ChatAnswer:
            return _not_empty(await seat.model.chat(in_lane, on_delta))

        return await self._call(model, "chat", request.messages, asked, asking, ask, chat_as_json, chat_from_json)

    async def score(self, model: str, request: ScoreRequest, asking: Asking) -> tuple[str, ScoreAnswer]:
        """The call's id and its answer. Raises CallFailed or Halted."""
        seat = self.seats[model]
        asked = score_as_asked(request)
        in_lane = replace(request, lane=asking.tree_id)

        async def ask() -> ScoreAnswer:
            return await seat.model.score(in_lane)

        return await self._call(model, "score", request.messages, asked, asking, ask, score_as_json, score_from_json)

    async def count_tokens(self, model: str, texts: Sequence[str], asking: Asking) -> list[int]:
        """The tokens of each text. Raises CallFailed or Halted."""
        seat = self.seats[model]
        count_id = digest_of("count", seat.model_id, [text_digest(text) for text in texts])
        return await self._prepared(seat, lambda: seat.model.count_tokens(texts), asking, count_id)

    async def give_up(self, asking: Asking, call_id: str, kind: str, message: str) -> CallFailed:
        """What to raise where no further call is asked for; the failure is kept. Raises Halted if it cannot be."""
        return await self._failed(asking, call_id, kind, message)

    def _on_delta(self, asking: Asking) -> OnDelta | None:
        sink = self.deltas
        return None if sink is None else lambda index, text: sink(asking, index, text)

    async def _call(
        self,
        name: str,
        kind: Any,
        messages: tuple[Message, ...],
        asked: dict[str, object],
        asking: Asking,
        ask: Callable[[], Awaitable[Answer]],
        as_json: Callable[[Answer], dict[str, Any]],
        from_json: Callable[[Mapping[str, Any]], Answer],
    ) -> tuple[str, Answer]:
        seat = self.seats[name]
        if asking.repeat:
            asked["repeat"] = asking.repeat
        prepared = await self._prepare(seat, kind, messages, asked, asking)
        call_id = id_of_call(seat.model_id, kind, prepared.digest, asked)
        while (running := self._in_flight.get(call_id)) is not None:
            await asyncio.shield(running)
        if (stored := self._log.answer(call_id, shareable="seed" not in asked)) is not None:
            await self._kept(self._log.keep_use(asking.use(call_id)))
            return call_id, from_json(stored)
        self._in_flight[call_id] = done = asyncio.get_running_loop().create_future()
        try:
            started = time.monotonic()
            answer, attempts = await self._ask(name, ask, asking, call_id)
            seconds = time.monotonic() - started
            usage = answer.usage
            call = Call(
                id=call_id,
                kind=kind,
                model_id=seat.model_id,
                request=asked,
                messages_digest=messages_digest(messages),
                prompt_digest=prepared.digest,
                answer=as_json(answer),
                tokens_in=usage.prompt_tokens,
                tokens_cached=usage.cached_tokens,
                tokens_out=usage.output_tokens,
                first_token_s=usage.first_token_s,
                seconds=seconds,
                attempts=tuple(a.as_dict() for a in attempts),
            )
            stands = await self._kept(self._log.keep(call, asking.use(call_id)))
            self._gate.spent(name, usage, seconds)
        finally:
            del self._in_flight[call_id]
            done.set_result(None)
        return call_id, from_json(stands)

    async def _prepare(
        self, seat: Seat, kind: str, messages: tuple[Message, ...], asked: Mapping[str, object], asking: Asking
    ) -> Prepared:
        """The prompt as the model reads it."""
        unasked = id_of_call(seat.model_id, kind, messages_digest(messages), asked)
        return await self._prepared(seat, lambda: seat.model.prepare(messages), asking, unasked)

    async def _prepared(self, seat: Seat, work: Callable[[], Awaitable[T]], asking: Asking, work_id: str) -> T:
        """What a model does before a call. Tried again like the call itself: its process may have just died."""

        async def attempt(_: int) -> T:
            return await _in_time(work(), seat.deadline_s)

        outcome = await self._persistently(attempt, seat, work_id)
        if outcome.answer is None:
            raise await self._unanswered(seat, asking, work_id, outcome)
        return outcome.answer

    async def _ask(
        self, name: str, ask: Callable[[], Awaitable[Answer]], asking: Asking, call_id: str
    ) -> tuple[Answer, tuple[Attempt, ...]]:
        """Ask until there is an answer or no use in asking again."""
        seat = self.seats[name]

        async def attempt(_: int) -> Answer:
            await self._gate.enter()
            async with seat.permits:
                await self._gate.enter()
                return await _told(seat.permits, _in_time(ask(), seat.deadline_s))

        outcome = await self._persistently(attempt, seat, call_id)
        if outcome.answer is None:
            raise await self._unanswered(seat, asking, call_id, outcome)
        seat.tally.add_answer(outcome.answer.usage, len(outcome.attempts))
        return outcome.answer, outcome.attempts

    async def _persistently(self, attempt: Callable[[int], Awaitable[T]], seat: Seat, call_id: str) -> Outcome[T]:
        return await with_retries(attempt, seat.retries, seed=int(call_id[:8], 16), halting=self._gate.halting)

    async def _kept(self, keeping: Awaitable[Kept]) -> Kept:
        """Wait for the store. What cannot be kept is no failure of the call: everything halts."""
        try:
            return await keeping
        except StoreError as error:
            self._gate.broke(error)
            raise Halted(error.message) from error

    async def _unanswered(self, seat: Seat, asking: Asking, call_id: str, outcome: Outcome[T]) -> CallFailed:
        failure, attempts = outcome.failure, outcome.attempts
        assert failure is not None
        seat.tally.add_failure(len(attempts) - 1)
        return await self._failed(asking, call_id, failure.kind, failure.message, attempts)

    async def _failed(
        self, asking: Asking, call_id: str, kind: str, message: str, attempts: tuple[Attempt, ...] = ()
    ) -> CallFailed:
        place = (asking.run_id, asking.tree_id, asking.node_id, asking.role, asking.purpose, call_id)
        tried = tuple(a.as_dict() for a in attempts)
        await self._kept(self._log.keep_failure(CallFailure(*place, kind, message, tried)))
        return CallFailed(kind, message)


def id_of_call(model_id: str, kind: str, prompt_digest: str, asked: Mapping[str, object]) -> str:
    """A call's id: everything that shapes its answer."""
    return digest_of("call", model_id, kind, prompt_digest, dict(asked))


def chat_as_asked(request: ChatRequest) -> dict[str, object]:
    """A chat request without its prompt, as ids and rows have it."""
    asked: dict[str, object] = {"sampling": request.sampling.as_dict(), "n": request.n}
    if request.seed is not None:
        asked["seed"] = request.seed
    if request.choices:
        asked["choices"] = list(request.choices)
    if request.schema is not None:
        asked["schema"] = text_digest(request.schema)
    return asked


def score_as_asked(request: ScoreRequest) -> dict[str, object]:
    """A scoring request without its prompt, as ids and rows have it."""
    return {"replies": [text_digest(reply) for reply in request.replies]}


def messages_digest(messages: tuple[Message, ...]) -> str:
    """The digest of a prompt as messages, before any template: what can be derived again from the store alone."""
    return digest_of("messages", [[m.role, m.content] for m in messages])


async def _told(permits: Permits, asked: Awaitable[Answer]) -> Answer:
    """Let an adaptive limit hear what became of an attempt."""
    began = time.monotonic()
    try:
        answer = await asked
    except ModelFailure as failure:
        permits.failed(failure.kind, began, time.monotonic())
        raise
    permits.answered(began, time.monotonic(), answer.usage.output_tokens or 0)
    return answer


async def _in_time(waiting: Awaitable[T], deadline_s: float) -> T:
    try:
        async with asyncio.timeout(deadline_s):
            return await waiting
    except TimeoutError as error:
        raise ModelFailure("timeout", f"no answer within {deadline_s:g} s") from error


def _not_empty(answer: ChatAnswer) -> ChatAnswer:
    if not answer.completions:
        raise ModelFailure("bad_answer", "the answer holds no completion")
    return answer


def chat_as_json(answer: ChatAnswer) -> dict[str, Any]:
    """An answer as the call log keeps it; fields that say nothing are left out."""
    return {"completions": [_completion_as_json(c) for c in answer.completions]}


def _completion_as_json(completion: Completion) -> dict[str, Any]:
    kept: dict[str, Any] = {"text": completion.text}
    if completion.finish != "stop":
        kept["finish"] = completion.finish
    if completion.reasoning is not None:
        kept["reasoning"] = completion.reasoning
    if completion.choice_logprobs is not None:
        kept["choice_logprobs"] = dict(completion.choice_logprobs)
    return kept


def chat_from_json(kept: Mapping[str, Any]) -> ChatAnswer:
    return ChatAnswer(tuple(Completion(**completion) for completion in kept["completions"]))


def score_as_json(answer: ScoreAnswer) -> dict[str, Any]:
    return {"scores": [[s.logprob, s.tokens] for s in answer.scores]}


def score_from_json(kept: Mapping[str, Any]) -> ScoreAnswer:
    return ScoreAnswer(tuple(ReplyScore(logprob, tokens) for logprob, tokens in kept["scores"]))
