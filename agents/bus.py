"""The seam to AutoGen: agents as RPC handlers on its runtime, and one `call` for the play.

Role logic knows nothing of AutoGen. Here it is wrapped in thin stateless `RoutedAgent`s, one instance per kind, which
turn every exception into a failed `Reply`, since over the runtime an error would lose its type or hang its caller.
What AutoGen 0.7.5 gets wrong is worked round here and pinned by tests/agents/test_bus.py:

- A caller that is cancelled leaves a handler whose exception stops the runtime's accounting: the runtime's future is
  never cancelled, the caller waits on a shield.
- `stop()` with calls in flight leaves their callers waiting for ever: `close` waits for them first.
- A message that no handler takes gives None: it is answered with a failed reply.
- Agent factories must not be async, or several instances are made.
- Tracing copies every message into span attributes: it is switched off.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

os.environ.setdefault("AUTOGEN_DISABLE_RUNTIME_TRACING", "true")

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, rpc

from agents.calls import CallFailed, Halted
from agents.messages import Failed, InduceRequest, JudgeRequest, Reply, Request, RespondRequest, SpeakRequest
from agents.permits import Permits

HALTED = "halted"
"""The kind of a reply that says only that no call may start any more."""


class Acting(Protocol):
    """Role logic: any object with this method."""

    async def act(self, request: Any) -> Reply: ...


OnError = Callable[[str, Request, str], Awaitable[None]]
"""Takes (role, request, what went wrong) and keeps it."""


class RoleAgent(RoutedAgent):
    """Carries requests to role logic. Roles of one kind share an instance; a request names its role."""

    def __init__(self, kind: str, actors: Mapping[str, Acting]) -> None:
        super().__init__(f"{kind} of a simulated conversation")
        self._actors = actors
        self.on_error: OnError | None = None

    @rpc
    async def speak(self, message: SpeakRequest, ctx: MessageContext) -> Reply:
        return await self._act("user", message)

    @rpc
    async def induce(self, message: InduceRequest, ctx: MessageContext) -> Reply:
        return await self._act("inducer", message)

    @rpc
    async def respond(self, message: RespondRequest, ctx: MessageContext) -> Reply:
        return await self._act(message.role, message)

    @rpc
    async def judge(self, message: JudgeRequest, ctx: MessageContext) -> Reply:
        return await self._act(f"judge.{message.judge}", message)

    async def on_unhandled_message(self, message: Any, ctx: MessageContext) -> Reply:  # type: ignore[override]
        return _failed("unsupported", f"no agent takes a {type(message).__name__}")

    async def _act(self, role: str, request: Request) -> Reply:
        actor = self._actors.get(role)
        if actor is None:
            return _failed("unsupported", f"no role {role!r}; there are {', '.join(sorted(self._actors))}")
        try:
            return await actor.act(request)
        except Halted as error:
            return _failed(HALTED, str(error))
        except CallFailed as error:
            return _failed(error.kind, error.message)
        except Exception as error:  # noqa: BLE001 - an error must reach the play as a value, whatever it is
            return await self._went_wrong(role, request, f"{type(error).__name__}: {error}")

    async def _went_wrong(self, role: str, request: Request, message: str) -> Reply:
        try:
            if self.on_error is not None:
                await self.on_error(role, request, message)
        except Halted as error:
            return _failed(HALTED, str(error))
        return _failed("error", message)


class Bus:
    """Where the play sends its requests. Belongs to one event loop."""

    KINDS = ("user", "inducer", "responder", "judge")

    def __init__(self, actors: Mapping[str, Acting], limit: int = 256, on_error: OnError | None = None) -> None:
        self._actors = dict(actors)
        self._on_error = on_error
        self._runtime = SingleThreadedAgentRuntime()
        # The runtime queues without end, and a queued message costs kilobytes: thousands of trees wait here instead.
        self._permits = Permits(limit)
        self._in_flight: set[asyncio.Task[Reply]] = set()

    async def start(self) -> None:
        for kind in self.KINDS:
            await RoleAgent.register(
                self._runtime,
                kind,
                lambda kind=kind: self._agent(kind),  # type: ignore[misc]
                skip_class_subscriptions=True,
                skip_direct_message_subscription=True,
            )
        self._runtime.start()

    def _agent(self, kind: str) -> RoleAgent:
        agent = RoleAgent(kind, self._actors)
        agent.on_error = self._on_error
        return agent

    def add(self, role: str, actor: Acting) -> None:
        """Let a further role act from now on."""
        self._actors[role] = actor

    async def call(self, kind: str, request: Request) -> Reply:
        """Send a request to the agents of a kind. Never raises for what an agent did; see `Reply.failed`."""
        await self._permits.acquire()
        sending = self._runtime.send_message(request, AgentId(kind, "shared"))
        task: asyncio.Task[Reply] = asyncio.ensure_future(sending)
        self._in_flight.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Reply]) -> None:
        self._in_flight.discard(task)
        self._permits.release()

    async def close(self) -> None:
        """Wait for the requests in flight, then stop the runtime."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        await self._runtime.stop()


def _failed(kind: str, message: str) -> Reply:
    return Reply(failed=Failed(kind=kind, message=message))
