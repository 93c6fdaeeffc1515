"""The embedded model under 16 concurrent requests with cancels, deadlines and two kills: no answer is lost or crossed.

Most requests ask for the log-probability of their own marker sentence under their own prompt; the right value is known
from a pass made one at a time beforehand. The weights are the embedded model's, de-quantised, with an F32 cache:
quantised ones differ by up to 0.2 nats a token with what else is in the batch, as much as one request differs from
another. Others are abandoned after a random time or get a deadline they cannot meet. The prompts together are many
times what the cache holds, so prefixes leave for host memory, come back, and are forgotten. The model's process is
killed twice.

    python benchmarks/soak.py [--quick] [--seconds N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import psutil
from common import Bar, finish, say

from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.protocol import ChatRequest, Message, Sampling, ScoreRequest
from agents.models.weights import locate
from agents.retries import RetryPolicy, with_retries
from tests.support.gguf_f32 import f32_gguf

CONCURRENT = 16
MARKERS = 64
TOLERANCE = 0.001
"""What batching may change of a log-probability on these weights, in nats a token."""
WORDS = (
    "harbour lamp bicycle rain orchid violin quince kettle tram opal barley comet ferry ginger lichen marble".split()
)


SETTINGS = LlamaConfig(
    kind="llama",
    parallel=CONCURRENT,
    context=1024,
    cells=3072,
    host_cache_mb=128,
    cache_type="f32",
    flash_attention=False,
)
"""A sixth of the cells that the prompts need, and a sixth of that again in host memory."""
STUCK_S = 240.0


def question(number: int) -> tuple[Message, ...]:
    """About 300 tokens; eight at a time share most of them."""
    shared, own = random.Random(number // 8), random.Random(number)
    return (
        Message("system", f"You know these words: {' '.join(shared.choices(WORDS, k=150))}."),
        Message("user", f"Repeat after me: {' '.join(own.choices(WORDS, k=20))}"),
    )


def reply(number: int) -> str:
    draw = random.Random(number)
    return " ".join(draw.choices(WORDS, k=10))


async def score(model: LlamaModel, number: int) -> float:
    answer = await model.score(ScoreRequest(question(number), (reply(number),)))
    return answer.scores[0].logprob / answer.scores[0].tokens


async def one(model: LlamaModel, draw: random.Random, expected: list[float], seen: Counter[str]) -> None:
    """One request of a random kind; counts how it ended."""
    number = draw.randrange(MARKERS)
    kind = draw.choice(["score", "score", "chat", "cancel", "deadline"])
    if kind == "score":
        value = await score(model, number)
        seen["crossed" if abs(value - expected[number]) > TOLERANCE else "right"] += 1
        return
    asked = ChatRequest(question(number), Sampling(max_tokens=24), draw.randrange(2**31))
    if kind == "chat":
        await model.chat(asked)
        seen["chat"] += 1
    elif kind == "cancel":
        task = asyncio.create_task(model.chat(asked))
        await asyncio.wait({task}, timeout=draw.uniform(0, 4))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        seen["cancelled"] += 1
    else:
        try:
            async with asyncio.timeout(draw.uniform(0.01, 2)):
                await model.chat(asked)
        except TimeoutError:
            seen["deadline"] += 1
        else:
            seen["chat"] += 1


async def insisted(model: LlamaModel, draw: random.Random, expected: list[float], seen: Counter[str]) -> None:
    """The same, asked again when the process died under it, and given up for stuck after minutes."""

    async def ask(_: int) -> bool:
        await one(model, draw, expected, seen)
        return True

    def note(_: object) -> None:
        seen["asked again"] += 1

    try:
        async with asyncio.timeout(STUCK_S):
            outcome = await with_retries(ask, RetryPolicy(), seed=draw.randrange(2**31), on_failure=note)
    except TimeoutError:
        seen["stuck"] += 1
        return
    if outcome.failure is not None:
        raise outcome.failure


class Memory:
    """Resident megabytes of the model's process, life by life."""

    def __init__(self) -> None:
        self.lives: dict[int, list[float]] = {}

    def note(self, pid: int | None) -> None:
        if pid is not None and psutil.pid_exists(pid):
            self.lives.setdefault(pid, []).append(psutil.Process(pid).memory_info().rss / 2**20)

    @property
    def growth(self) -> float:
        """The largest of a life against its first quarter, by which time the caches are full; of lives long enough."""
        long = [seen for seen in self.lives.values() if len(seen) >= 8]
        return max((max(seen) / max(seen[: len(seen) // 4]) for seen in long), default=1.0)


async def soak(seconds: float, kills: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        exact = f32_gguf(locate("embedded").path, Path(folder))
        return await soaked(LlamaModel("soak", SETTINGS.model_copy(update={"path": str(exact)})), seconds, kills)


async def soaked(model: LlamaModel, seconds: float, kills: int) -> dict[str, Any]:
    await model.open()
    try:
        say("the right values, one at a time")
        expected = [await score(model, number) for number in range(MARKERS)]
        seen, draw, memory = Counter[str](), random.Random(1), Memory()
        began = time.monotonic()
        begun = 0

        async def worker() -> None:
            nonlocal begun
            while time.monotonic() < began + seconds:
                begun += 1
                await insisted(model, draw, expected, seen)

        async def watch() -> None:
            killed = 0
            while True:
                await asyncio.sleep(min(seconds / 40, 10))
                memory.note(model.pid)
                say(f"{time.monotonic() - began:.0f} s: {begun} requests, {dict(seen)}")
                if killed < kills and time.monotonic() > began + seconds * (killed + 1) / (kills + 1) and model.pid:
                    os.kill(model.pid, signal.SIGKILL)
                    killed += 1
                    say("killed the model's process")

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
        watching.cancel()
        counted = await model.counters()
        ended = sum(number for kind, number in seen.items() if kind != "asked again")
        return {
            "seconds": seconds,
            "requests": begun,
            "ended": dict(seen),
            "lost": begun - ended,
            "crossed": seen["crossed"],
            "stuck": seen["stuck"],
            "processes": len(memory.lives),
            "memory_growth": memory.growth,
            "memory_mb": {pid: [round(value) for value in values] for pid, values in memory.lives.items()},
            "counted": counted,
        }
    finally:
        await model.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 seconds")
    parser.add_argument("--seconds", type=float, default=1200.0, help="how long (default: twenty minutes)")
    parser.add_argument("--kills", type=int, default=2, help="of the model's process (default: 2)")
    args = parser.parse_args()
    figures = asyncio.run(soak(40.0 if args.quick else args.seconds, args.kills))
    bars = [
        Bar("requests lost", figures["lost"], at_most=0),
        Bar("requests stuck", figures["stuck"], at_most=0),
        Bar("answers crossed", figures["crossed"], at_most=0),
        Bar("memory of the model's process, against its first quarter", figures["memory_growth"], at_most=1.1),
        Bar("processes", figures["processes"], at_least=args.kills + 1, at_most=args.kills + 1),
    ]
    return finish("soak", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
