"""Agents in tests without a store: a call log in memory, a gate that lets everything through, and models whose
answers a test writes down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agents.calls import Asking, Calls, Seat
from agents.messages import Candidate, Line, Person, Place
from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    Completion,
    EmbedAnswer,
    Figures,
    Message,
    Model,
    ModelFailure,
    ModelIdentity,
    OnDelta,
    Prepared,
    ReplyScore,
    ScoreAnswer,
    ScoreRequest,
    Usage,
)
from agents.permits import Permits
from agents.prompts import SHIPPED_NAMES, Prompt, load_prompt
from agents.retries import RetryPolicy
from agents.roles import Stage
from trees.errors import StoreError
from trees.ids import digest_of
from trees.values import Call, CallFailure, Use

PROMPTS: Mapping[str, Prompt] = {kind: load_prompt(kind) for kind in SHIPPED_NAMES}
"""The shipped prompts by kind."""

PERSON = Person(
    profile="Ottilie repairs xylophones in Ljubljana. She keeps two tortoises.",
    personality="She is sardonic. She abhors flattery.",
    facts=(
        "Ottilie repairs xylophones in Ljubljana.",
        "She keeps two tortoises.",
        "She is sardonic.",
        "She abhors flattery.",
    ),
)
PLACE = Place(run_id="run", run_seed=7, tree_id="tree", node_id="node", turn=2)
ASKING = Asking("run", "tree", "node", "user", "speak.0", PROMPTS["user"].id)
ONCE = RetryPolicy(attempts=1)

Answering = Callable[[ChatRequest], Awaitable[ChatAnswer]]
Scoring = Callable[[ScoreRequest], Sequence[tuple[float, int]]]


def lines(*texts: str) -> tuple[Line, ...]:
    """A transcript in which the person and the assistant take turns, the person first."""
    return tuple(Line(speaker="assistant" if i % 2 else "user", text=text) for i, text in enumerate(texts))


def candidates(*texts: str, hinted: Sequence[int] = ()) -> tuple[Candidate, ...]:
    """Replies with the ids `r0`, `r1` and so on."""
    return tuple(Candidate(node_id=f"r{i}", text=text, hinted=i in hinted) for i, text in enumerate(texts))


class MemoryLog:
    """A call log that forgets with the process. Answers pass through JSON, as in a store."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.uses: list[Use] = []
        self.failures: list[CallFailure] = []

    def answer(self, call_id: str, *, shareable: bool) -> dict[str, Any] | None:
        return self.answers.get(call_id)

    async def keep(self, call: Call, use: Use) -> dict[str, Any]:
        self.calls[call.id] = call
        self.uses.append(use)
        return self.answers.setdefault(call.id, json.loads(json.dumps(call.answer)))

    async def keep_use(self, use: Use) -> None:
        self.uses.append(use)

    async def keep_failure(self, failure: CallFailure) -> None:
        self.failures.append(failure)


class OpenGate:
    """A gate that is always open and writes down what passed."""

    def __init__(self) -> None:
        self.accounts: list[tuple[str, Usage]] = []
        self.broken: list[StoreError] = []

    async def enter(self) -> None:
        return

    async def halting(self) -> None:
        await asyncio.Event().wait()

    def spent(self, model: str, usage: Usage, seconds: float) -> None:
        self.accounts.append((model, usage))

    def broke(self, error: StoreError) -> None:
        self.broken.append(error)


class FakeModel:
    """A model that answers as a test says, and remembers what it was asked."""

    def __init__(
        self,
        chat: Answering | None = None,
        *,
        score: Scoring | None = None,
        capabilities: Capabilities | None = None,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.asked: list[ChatRequest] = []
        self.scored: list[ScoreRequest] = []
        self._chat = chat
        self._score = score
        self._capabilities = capabilities or Capabilities(score=score is not None)

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("fake", self.name)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self) -> None:
        return

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        return Prepared(digest_of("messages", [[m.role, m.content] for m in messages]), None)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """One token a word."""
        return [len(text.split()) for text in texts]

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        self.asked.append(request)
        assert self._chat is not None, "this test asks for no answers"
        return await self._chat(request)

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        self.scored.append(request)
        assert self._score is not None, "this test asks for no scores"
        return ScoreAnswer(tuple(ReplyScore(*score) for score in self._score(request)))

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        raise ModelFailure("unsupported", "this model embeds nothing")

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        return


def says(*answers: str | Sequence[str] | Completion | ModelFailure) -> Answering:
    """Gives these answers one after the other, the last one for ever; a list of texts is one answer of several."""
    left = list(answers)

    async def answer(request: ChatRequest) -> ChatAnswer:
        given = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(given, ModelFailure):
            raise given
        if isinstance(given, Completion):
            return ChatAnswer((given,))
        texts = [given] if isinstance(given, str) else given
        return ChatAnswer(tuple(Completion(text) for text in texts), Usage(prompt_tokens=11, output_tokens=3))

    return answer


def decides(choose: Callable[[ChatRequest], str | Completion]) -> Answering:
    """Answers by what it is asked."""

    async def answer(request: ChatRequest) -> ChatAnswer:
        given = choose(request)
        return ChatAnswer((Completion(given) if isinstance(given, str) else given,))

    return answer


def seat(model: Model, *, permits: int = 8, deadline_s: float = 30.0, retries: RetryPolicy = ONCE) -> Seat:
    return Seat(model, model.identity.id, Permits(permits), deadline_s, retries)


def calls_for(
    *models: Model,
    log: MemoryLog | None = None,
    gate: Any = None,
    permits: int = 8,
    deadline_s: float = 30.0,
    retries: RetryPolicy = ONCE,
) -> Calls:
    """The call path to these models, each under its name."""
    seats = {m.name: seat(m, permits=permits, deadline_s=deadline_s, retries=retries) for m in models}
    return Calls(seats, log or MemoryLog(), gate or OpenGate())


def stage_for(*models: Model, log: MemoryLog | None = None) -> Stage:
    """A stage with these models and the shipped prompts."""
    return Stage(calls_for(*models, log=log), {prompt.id: prompt for prompt in PROMPTS.values()})


def prompt_text(messages: Sequence[Message]) -> str:
    """All that a prompt says, in order."""
    return "\n".join(message.content for message in messages)
