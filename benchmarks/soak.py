"""The embedded model under 16 concurrent requests with cancels and deadlines: no answer is lost or crossed.

Most requests ask for the log-probability of their own marker sentence under their own prompt; the right value is known
from a pass made one at a time beforehand, and differs from other requests' by far more than batching changes it.
Others are abandoned after a random time or get a deadline they cannot meet.

    python benchmarks/soak.py [--quick] [--seconds N]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import psutil
from common import Bar, finish, say

from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.protocol import ChatRequest, Message, Sampling, ScoreRequest

CONCURRENT = 16
MARKERS = 64
TOLERANCE = 0.15
"""What batching may change of a log-probability, in nats a token: quantised weights are not exact."""
WORDS = (
    "harbour lamp bicycle rain orchid violin quince kettle tram opal barley comet ferry ginger lichen marble".split()
)


def question(number: int) -> tuple[Message, ...]:
    draw = random.Random(number)
    return (Message("user", f"Repeat after me: {' '.join(draw.choices(WORDS, k=10))}"),)


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
        await asyncio.wait({task}, timeout=draw.uniform(0, 1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        seen["cancelled"] += 1
    else:
        try:
            async with asyncio.timeout(0.05):
                await model.chat(asked)
        except TimeoutError:
            seen["deadline"] += 1
        else:
            seen["chat"] += 1


async def soak(seconds: float) -> dict[str, Any]:
    model = LlamaModel("soak", LlamaConfig(kind="llama", parallel=CONCURRENT))
    await model.open()
    try:
        expected = [await score(model, number) for number in range(MARKERS)]
        pid, seen, draw = model.pid, Counter[str](), random.Random(1)
        until, begun = time.monotonic() + seconds, 0
        resident = [psutil.Process(pid).memory_info().rss]

        async def worker() -> None:
            nonlocal begun
            while time.monotonic() < until:
                begun += 1
                await one(model, draw, expected, seen)
                if begun % 200 == 0:
                    resident.append(psutil.Process(model.pid).memory_info().rss)
                    say(f"{begun} requests: {dict(seen)}")

        await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
        return {
            "requests": begun,
            "ended": dict(seen),
            "lost": begun - seen.total(),
            "crossed": seen["crossed"],
            "same_process": model.pid == pid,
            "memory_growth": max(resident[1:] or resident) / max(resident[:2]),
        }
    finally:
        await model.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 seconds")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (default: five minutes)")
    args = parser.parse_args()
    figures = asyncio.run(soak(20.0 if args.quick else args.seconds))
    bars = [
        Bar("requests lost", figures["lost"], at_most=0),
        Bar("answers crossed", figures["crossed"], at_most=0),
        Bar("memory of the model's process, against its beginning", figures["memory_growth"], at_most=1.2),
        Bar("the model's process is the one it began with", float(figures["same_process"]), at_least=1),
    ]
    return finish("soak", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
