"""An OpenAI-compatible server on loopback that answers what it is told to, and misbehaves on order.

What it says comes from an async callable (default: an echo of the last user message). How it misbehaves
comes, in this order, from the `X-Misbehave` header, a word `misbehave:KIND` in the last user message
(`misbehave:KIND*2`: only the first two times that message comes), or the next item of a list given to the
server, of which every chat request takes one, the client's own probes included.

    async with OpenAIServer() as server: ...   # server.base_url
    with serve() as base_url: ...              # in a thread of its own
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from aiohttp import web

Misbehaviour = Literal[
    "429",  # with Retry-After: 2
    "500",
    "hang",  # never answers; ends when the client goes away
    "cut",  # ends without finish_reason or [DONE]; whole answers are cut short of their length
    "reset",  # resets the connection in the middle
    "bad-json",
    "no-choices",
    "wrong-choice",  # answers outside any set of choices
    "empty",
    "huge",  # 10 MB of answer
    "think",  # reasoning in <think> tags
    "reasoning",  # reasoning in the field `reasoning`
    "reasoning_content",
    "context",  # 400, too many tokens
    "bad-request",  # 400
    "unauthorised",  # 401, and repeats the key
    "slow",  # a keep-alive comment and a turn of the loop between any two bytes
]
KINDS: tuple[Misbehaviour, ...] = get_args(Misbehaviour)
THOUGHT = "What would they like to hear?"
_ORDER = re.compile(r"misbehave:([a-z0-9_-]+)(?:\*(\d+))?")
_ERRORS: Mapping[str, tuple[int, dict[str, str]]] = {
    "429": (429, {"message": "too many requests"}),
    "500": (500, {"message": "the engine fell over"}),
    "context": (400, {"message": "maximum context length is 8 tokens", "code": "context_length_exceeded"}),
    "bad-request": (400, {"message": "temperature must be a number"}),
}


@dataclass(frozen=True)
class Reply:
    """One answer of the server."""

    text: str
    reasoning: str | None = None
    reasoning_field: str = "reasoning_content"
    finish: str = "stop"
    top_logprobs: Sequence[tuple[str, float]] = ()
    """Alternatives of the first token; none: the token alone, with certainty."""


Answer = Callable[[dict[str, Any], int], Awaitable[str | Reply]]
"""Takes the request's body and the index of the answer."""


async def echo(body: dict[str, Any], index: int) -> str:
    """The last user message again; with several answers, numbered."""
    said = last_message(body)
    return f"{said} [{index}]" if body.get("n", 1) > 1 else said


def last_message(body: Mapping[str, Any]) -> str:
    messages = body.get("messages") or [{"content": ""}]
    return str(messages[-1]["content"])


@dataclass
class OpenAIServer:
    """See the module's docstring. What was asked is in `requests`, without probes in `chats`."""

    answer: Answer = echo
    model: str = "test-model"
    owned_by: str = "test"
    lists_models: bool = True
    misbehave: list[Misbehaviour | None] = field(default_factory=list)
    """One item a chat request, None for a good answer; probes take one too."""
    key: str | None = None
    """If set, requests without this key get 401."""
    refused_fields: frozenset[str] = frozenset()
    """Fields of a chat request that the server answers with 400."""
    most_answers: int = 128
    """More answers than this a request are silently not given."""
    logprobs: bool = True

    base_url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """A request hangs."""
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    """A client went away before its answer ended."""
    connections: set[tuple[str, int]] = field(default_factory=set)
    """Client ports that were seen."""
    _seen: Counter[str] = field(default_factory=Counter)
    _runner: web.AppRunner | None = None

    @property
    def chats(self) -> list[dict[str, Any]]:
        return [body for body in self.requests if not _is_probe(body)]

    async def __aenter__(self) -> OpenAIServer:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # ---- handlers

    async def _models(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        if not self.lists_models:
            raise web.HTTPNotFound
        data = [{"id": self.model, "object": "model", "owned_by": self.owned_by}]
        return web.json_response({"object": "list", "data": data})

    async def _embeddings(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        rows = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(texts)]
        return web.json_response({"data": rows[::-1]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.paths.append(request.path)
        if request.transport is not None:
            self.connections.add(request.transport.get_extra_info("peername"))
        if (refusal := self._unauthorised(request)) is not None:
            return refusal
        if refused := self.refused_fields.intersection(body):
            message = f"{sorted(refused)[0]} is not supported: use max_completion_tokens"
            return web.json_response({"error": {"message": message}}, status=400)
        kind = self._order(request, body)
        try:
            return await self._respond(request, body, kind)
        except (asyncio.CancelledError, ConnectionError):
            self.aborted.set()
            raise

    def _unauthorised(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "")
        if self.key is None or given == f"Bearer {self.key}":
            return None
        return web.json_response({"error": {"message": f"wrong key: {given}"}}, status=401)

    def _order(self, request: web.Request, body: Mapping[str, Any]) -> str | None:
        listed = self.misbehave.pop(0) if self.misbehave else None
        if header := request.headers.get("X-Misbehave"):
            return header
        if (ordered := _ORDER.search(last_message(body))) is None:
            return listed
        kind, times = ordered.groups()
        self._seen[ordered.string] += 1
        return kind if times is None or self._seen[ordered.string] <= int(times) else listed

    async def _respond(self, request: web.Request, body: dict[str, Any], kind: str | None) -> web.StreamResponse:
        if kind is not None and kind in _ERRORS:
            status, error = _ERRORS[kind]
            headers = {"Retry-After": "2"} if kind == "429" else {}
            return web.json_response({"error": error}, status=status, headers=headers)
        if kind == "unauthorised":
            given = request.headers.get("Authorization", "")
            return web.json_response({"error": {"message": f"wrong key: {given}"}}, status=401)
        if kind == "hang":
            self.arrived.set()
            await asyncio.Event().wait()
        n = min(int(body.get("n", 1)), self.most_answers)
        replies = [_bent(await self._reply(body, index), kind) for index in range(n)]
        if body.get("stream"):
            return await self._stream(request, body, replies, kind)
        return await self._whole(request, body, replies, kind)

    async def _reply(self, body: dict[str, Any], index: int) -> Reply:
        said = await self.answer(body, index)
        return said if isinstance(said, Reply) else Reply(said)

    # ---- answers

    async def _whole(
        self, request: web.Request, body: Mapping[str, Any], replies: Sequence[Reply], kind: str | None
    ) -> web.StreamResponse:
        choices = [self._choice(i, reply, body, "message") for i, reply in enumerate(replies)]
        answer = {"object": "chat.completion", "choices": choices, "usage": _usage(replies)}
        data = json.dumps({**answer, "choices": []} if kind == "no-choices" else answer).encode()
        if kind == "bad-json":
            data = data[: len(data) // 2]
        if kind not in ("cut", "reset"):
            return web.Response(body=data, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        _close(request, reset=kind == "reset")
        return response

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], replies: Sequence[Reply], kind: str | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        data = self.stream_bytes(body, replies, kind)
        if kind == "slow":
            data = data.replace(b"\n\n", b"\n\n: keep-alive\n\n")
            for place in range(len(data)):
                await response.write(data[place : place + 1])
                await asyncio.sleep(0)
        else:
            await response.write(data)
        if kind == "reset":
            _close(request, reset=True)
            return response
        await response.write_eof()
        return response

    def stream_bytes(self, body: Mapping[str, Any], replies: Sequence[Reply], kind: str | None = None) -> bytes:
        """The whole event stream of an answer."""
        chunks = [chunk for i, reply in enumerate(replies) for chunk in self._chunks(i, reply, body)]
        if kind in ("cut", "reset"):
            chunks = chunks[: len(chunks) // 2]
        if kind == "no-choices":
            chunks = []
        events = [json.dumps(chunk) for chunk in chunks]
        if kind == "bad-json":
            events[0] = events[0][:-3]
        if kind not in ("cut", "reset"):
            if body.get("stream_options"):
                events.append(json.dumps({"choices": [], "usage": _usage(replies)}))
            events.append("[DONE]")
        return b": welcome\n\n" + "".join(f"data: {event}\n\n" for event in events).encode()

    def _chunks(self, index: int, reply: Reply, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        whole = self._choice(index, reply, body, "delta")
        yield {"choices": [{"index": index, "delta": {"role": "assistant", "content": ""}}]}
        for piece in _pieces(reply.reasoning or ""):
            yield {"choices": [{"index": index, "delta": {reply.reasoning_field: piece}}]}
        first = {"logprobs": whole["logprobs"]} if "logprobs" in whole else {}
        for piece in _pieces(reply.text):
            yield {"choices": [{"index": index, "delta": {"content": piece}, **first}]}
            first = {}
        yield {"choices": [{"index": index, "delta": {}, "finish_reason": reply.finish}]}

    def _choice(self, index: int, reply: Reply, body: Mapping[str, Any], part: str) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.reasoning is not None:
            said[reply.reasoning_field] = reply.reasoning
        choice: dict[str, Any] = {"index": index, part: said, "finish_reason": reply.finish}
        if body.get("logprobs") and self.logprobs:
            choice["logprobs"] = {"content": _token_logprobs(reply)}
        return choice


def _is_probe(body: Mapping[str, Any]) -> bool:
    return 1 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def _bent(reply: Reply, kind: str | None) -> Reply:
    """The reply as a misbehaving server gives it."""
    match kind:
        case "wrong-choice":
            return Reply("none of those")
        case "empty":
            return Reply("")
        case "huge":
            return Reply("x" * 10_000_000)
        case "think":
            return Reply(f"<think>\n{THOUGHT}\n</think>\n\n{reply.text}")
        case "reasoning" | "reasoning_content":
            return Reply(reply.text, THOUGHT, kind)
    return reply


def _pieces(text: str, size: int = 5) -> list[str]:
    if len(text) > 100_000:
        size = 50_000
    return [text[i : i + size] for i in range(0, len(text), size)]


def _token_logprobs(reply: Reply) -> list[dict[str, Any]]:
    tokens = re.findall(r"\s*\S+|\s+", reply.text)
    alternatives = reply.top_logprobs or [(token, 0.0) for token in tokens[:1]]
    rows = [{"token": token, "logprob": 0.0, "bytes": list(token.encode())} for token in tokens]
    tops = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in alternatives]
    return [{**row, "top_logprobs": tops if place == 0 else []} for place, row in enumerate(rows)]


def _usage(replies: Sequence[Reply]) -> dict[str, Any]:
    written = sum(len(reply.text.split()) for reply in replies)
    return {"prompt_tokens": 11, "completion_tokens": written, "prompt_tokens_details": {"cached_tokens": 7}}


def _close(request: web.Request, *, reset: bool) -> None:
    transport = request.transport
    assert isinstance(transport, asyncio.Transport)
    if reset:
        transport.abort()
    else:
        transport.close()


@contextmanager
def serve(server: OpenAIServer | None = None) -> Iterator[str]:
    """Run a server in a thread of its own; gives its base URL."""
    served = server or OpenAIServer()
    ready = threading.Event()
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with served:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        yield served.base_url
    finally:
        stops[0]()
        thread.join(10)
