"""What the `openai` client costs on this side: CPU of a chat, against bare aiohttp posting the same bodies.

The server is another process on loopback that answers at once with 60 tokens, whole or as a stream of 60 events. The
peer posts the very bodies that the client sends and reads the answers to their end without looking at them, so the
difference is everything that makes an answer of bytes: splitting events, JSON, reasoning, log of what was used.

    python benchmarks/openai_client.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
from aiohttp import web
from common import Bar, finish, say

from agents.models.openai import OpenAIConfig, OpenAIModel
from agents.models.openai_wire import chat_body
from agents.models.protocol import ChatRequest, Message, Sampling

TOKENS = 60
AT_ONCE = 16
ID = "chatcmpl-0123456789abcdef0123456789abcdef"
USAGE = {"prompt_tokens": 700, "completion_tokens": TOKENS, "total_tokens": 700 + TOKENS}
SAID = "I walked down to the harbour before work and the gulls had got into the bins again."


# ---- the server, in a process of its own


def chunk(**choice: Any) -> dict[str, Any]:
    head = {"id": ID, "object": "chat.completion.chunk", "created": 1763700000, "model": "test-model"}
    return {**head, "choices": [{"index": 0, "logprobs": None, "finish_reason": None, **choice}]}


def events() -> list[bytes]:
    chunks = [chunk(delta={"role": "assistant", "content": ""})]
    chunks += [chunk(delta={"content": f" word{number}"}) for number in range(TOKENS)]
    chunks += [chunk(delta={}, finish_reason="length"), {**chunk(), "choices": [], "usage": USAGE}]
    return [f"data: {json.dumps(each)}\n\n".encode() for each in chunks] + [b"data: [DONE]\n\n"]


def whole() -> bytes:
    text = "".join(f" word{number}" for number in range(TOKENS))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    return json.dumps({"id": ID, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    if b'"stream": true' not in body:
        return web.Response(body=whole(), content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events():
        await response.write(event)
        # Each event on its way before the next, as from a model that writes.
        await asyncio.sleep(0)
    await response.write_eof()
    return response


def serve(port: Any) -> None:
    async def run() -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/v1/models", models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "test-model", "owned_by": "test"}]})

    asyncio.run(run())


# ---- the two clients


def request_number(number: int) -> ChatRequest:
    """A chat of ten turns, as a play has them."""
    lines = [Message("assistant" if turn % 2 else "user", f"{number} {turn} {SAID}") for turn in range(19)]
    head = Message("system", "You talk with somebody you do not know yet. " * 10)
    return ChatRequest((head, *lines), Sampling(max_tokens=TOKENS, temperature=0.8), seed=number)


async def by_client(url: str, stream: bool, calls: int) -> float:
    entry = {"kind": "openai", "model": "test-model", "endpoints": [url], "dialect": "vllm", "stream": stream}
    model = OpenAIModel("test", OpenAIConfig.model_validate(entry))
    await model.open()
    try:
        return await cpu_of(calls, lambda number: model.chat(request_number(number)))
    finally:
        await model.close()


async def by_aiohttp(url: str, stream: bool, calls: int) -> float:
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

        async def ask(number: int) -> None:
            body = json.dumps(chat_body(request_number(number), "test-model", "vllm", stream=stream))
            async with session.post(f"{url}/chat/completions", data=body.encode()) as response:
                async for _ in response.content.iter_any():
                    pass

        return await cpu_of(calls, ask)


async def cpu_of(calls: int, ask: Callable[[int], Awaitable[Any]]) -> float:
    """Milliseconds of this process's CPU a call."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await ask(number)

    await ask(calls)
    started = time.process_time()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return 1000 * (time.process_time() - started) / calls


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    args = parser.parse_args()
    calls, rounds = (300, 3) if args.quick else (1_500, 5)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    figures: dict[str, Any] = {"calls": calls, "rounds": rounds, "answer_tokens": TOKENS}
    try:
        for name, stream in (("stream", True), ("whole", False)):
            pairs = [measure(url, stream, calls) for _ in range(rounds)]
            ours, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
            figures |= {f"{name}_ms": ours, f"{name}_bare_ms": bare, f"{name}_added_ms": ours - bare}
            figures |= {
                f"{name}_ratio": ours / bare,
                f"{name}_spread_ms": max(p[0] for p in pairs) - min(p[0] for p in pairs),
            }
            say(f"{name}: {ours:.3f} ms a call, bare aiohttp {bare:.3f} ms")
    finally:
        server.terminate()
        server.join()
    bars = [
        Bar(
            "CPU of a streamed chat, against bare aiohttp reading the same bytes", figures["stream_ratio"], at_most=2.0
        ),
        Bar("CPU of a whole chat, against bare aiohttp reading the same bytes", figures["whole_ratio"], at_most=1.5),
    ]
    return finish("openai_client", figures, bars)


def measure(url: str, stream: bool, calls: int) -> tuple[float, float]:
    return asyncio.run(by_client(url, stream, calls)), asyncio.run(by_aiohttp(url, stream, calls))


if __name__ == "__main__":
    sys.exit(main())
