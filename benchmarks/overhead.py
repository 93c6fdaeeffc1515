"""What Espalier adds to a model call: instant scripted models, everything stored, against bare AutoGen RPCs.

The play: trees of 5 turns x 3 responders, each call through the bus, the call path, the log and a FULL commit. The
peer, in turns in the same run: RPCs to an AutoGen agent that echoes the very messages such a play sends.

    python benchmarks/overhead.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"
sys.path.insert(0, str(Path(__file__).parent))

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, rpc
from common import Bar, finish, say

from agents.messages import Candidate, InduceRequest, JudgeRequest, Line, Place, RespondRequest, SpeakRequest
from agents.person import person_of
from simulation.cast import load_prompts, make_cast, open_models
from simulation.config import make_config
from simulation.engine import close_engine, open_engine
from simulation.personas import seed_personalities, seed_profiles
from simulation.runs import begin, plan_run
from trees.personas import Profile
from trees.store import Store

TURNS = 5
RESPONDERS = {"plain": {}, "warm": {"hint": True}, "brief": {"hint": True}}


def configuration(in_flight: int) -> dict[str, Any]:
    return {
        "name": "overhead",
        "turns": TURNS,
        "models": {"instant": {"kind": "scripted", "permits": 256}},
        "responders": RESPONDERS,
        "limits": {"trees_in_flight": in_flight},
    }


async def play(path: Path, trees: int, in_flight: int) -> dict[str, float]:
    """Play a whole run; returns its figures."""
    config = make_config(configuration(in_flight), "the benchmark")
    models = await open_models(config)
    cast = make_cast(config, models, load_prompts(config, None))
    with Store.open(path) as store:
        run = begin(store, plan_run(cast, personas(trees), None))
    engine = await open_engine(path, run.id, models=models)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = time.perf_counter(), time.process_time()
    await engine.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Before anything reads the store: a reader maps the file, and mapped pages count as resident.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    calls = engine.gate.used.calls
    await close_engine(engine)
    with Store.read(path) as store:
        texts = store.rows("SELECT total(length(text)) FROM nodes")[0][0]
        store_bytes = store.rows("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")[0][0]
        done = store.rows("SELECT count(*) FROM trees WHERE state = 'done'")[0][0]
    assert done == trees, f"{done} of {trees} trees finished"
    return {
        "calls": calls,
        "calls_per_s": calls / wall,
        "cpu_ms_per_call": 1000 * cpu / calls,
        "rss_mb_before": before,
        "rss_mb": resident,
        "text_characters": texts,
        "store_bytes": store_bytes,
    }


def personas(count: int) -> list[Any]:
    """As many personas as asked: the seeds crossed, and numbered beyond that."""
    crossed = [(profile, personality) for profile in seed_profiles() for personality in seed_personalities()]
    made = []
    for number in range(count):
        profile, personality = crossed[number % len(crossed)]
        if number >= len(crossed):
            fact = f"{profile.pronouns.capitalize()} lives at number {number}."
            profile = Profile((*profile.facts, fact), profile.pronouns, f"{profile.text} {fact}")
        made.append((profile, personality))
    return made


class Echo(RoutedAgent):
    """The peer: gives every request back."""

    @rpc
    async def speak(self, message: SpeakRequest, ctx: MessageContext) -> SpeakRequest:
        return message

    @rpc
    async def induce(self, message: InduceRequest, ctx: MessageContext) -> InduceRequest:
        return message

    @rpc
    async def respond(self, message: RespondRequest, ctx: MessageContext) -> RespondRequest:
        return message

    @rpc
    async def judge(self, message: JudgeRequest, ctx: MessageContext) -> JudgeRequest:
        return message


async def echo_rate(requests: int) -> float:
    """RPCs a second to an AutoGen agent that echoes the requests of such a play, 256 in flight."""
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(
        runtime, "echo", lambda: Echo(""), skip_class_subscriptions=True, skip_direct_message_subscription=True
    )
    runtime.start()
    messages = sample_messages()
    permits = asyncio.Semaphore(256)

    async def send(message: Any) -> None:
        async with permits:
            await runtime.send_message(message, AgentId("echo", "shared"))

    started = time.perf_counter()
    await asyncio.gather(*(send(messages[i % len(messages)]) for i in range(requests)))
    rate = requests / (time.perf_counter() - started)
    await runtime.stop()
    return rate


def sample_messages() -> list[Any]:
    """The requests of one tree, in the proportions of a play: speak, induce, three times respond, judge, each turn."""
    profile, personality = personas(1)[0]
    person = person_of(profile, personality)
    said = "I walked down to the harbour before work and the gulls had got into the bins again."
    found: list[Any] = []
    for turn in range(1, TURNS + 1):
        spoken = tuple(Line(speaker="assistant" if i % 2 else "user", text=said) for i in range(2 * turn - 2))
        heard = (*spoken, Line(speaker="user", text=said))
        place = Place(run_id="r" * 32, run_seed=1, tree_id="t" * 32, node_id="n" * 32, turn=turn)
        facts = tuple(person.facts[: 2 * turn])
        found.append(SpeakRequest(place=place, prompt_id="p" * 32, person=person, history=spoken))
        found.append(InduceRequest(place=place, prompt_id="p" * 32, person=None, history=heard, known=facts))
        for name in RESPONDERS:
            role = f"responder.{name}"
            hint = None if name == "plain" else facts
            found.append(RespondRequest(place=place, role=role, prompt_id="p" * 32, history=heard, hint=hint))
        replies = tuple(Candidate(node_id=str(i) * 32, text=said, hinted=i > 0) for i in range(3))
        found.append(
            JudgeRequest(
                place=place,
                judge="likelihood",
                prompt_id="p" * 32,
                person=person,
                history=heard,
                candidates=replies,
                revealed=facts,
            )
        )
    return found


def in_child(*arguments: str) -> dict[str, float]:
    """One part of the benchmark in a process of its own, so that memory and caches are its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(part: str, trees: int, in_flight: int) -> None:
    if part == "echo":
        print(json.dumps({"rpc_per_s": asyncio.run(echo_rate(trees))}))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(play(Path(folder) / "overhead.db", trees, in_flight))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same keys on a smaller workload, within a minute")
    parser.add_argument("--child", nargs=3, metavar=("PART", "N", "IN_FLIGHT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], int(args.child[1]), int(args.child[2]))
        return 0
    trees, rpcs, wide, repeats = (100, 5_000, 400, 2) if args.quick else (2_000, 40_000, 4_000, 3)
    plays, echoes = [], []
    for number in range(repeats):
        echoes.append(in_child("--child", "echo", str(rpcs), "0")["rpc_per_s"])
        plays.append(in_child("--child", "play", str(trees), "256"))
        say(f"{number + 1}/{repeats}: {plays[-1]['calls_per_s']:.0f} committed calls/s, {echoes[-1]:.0f} RPCs/s")
    many = in_child("--child", "play", str(wide), str(wide))
    tenth = in_child("--child", "play", str(max(trees // 10, 10)), "256")
    ratios = [p["calls_per_s"] / e for p, e in zip(plays, echoes, strict=True)]
    bytes_per_character = plays[-1]["store_bytes"] / plays[-1]["text_characters"]
    growth = bytes_per_character / (tenth["store_bytes"] / tenth["text_characters"])
    figures = {
        "trees": trees,
        "turns": TURNS,
        "plays": plays,
        "echo_rpc_per_s": echoes,
        "ratio": {"median": statistics.median(ratios), "all": ratios},
        "wide": {"trees_in_flight": wide, **many},
        "store_bytes_per_character": bytes_per_character,
    }
    bars = [
        Bar("committed calls/s against RPCs/s to an AutoGen echo agent", statistics.median(ratios), at_least=0.25),
        Bar("CPU ms a committed call", statistics.median(p["cpu_ms_per_call"] for p in plays), at_most=1.0),
        Bar(f"MB resident with {wide} trees in flight", many["rss_mb"], at_most=250),
        Bar("store bytes a character, against a tenth of the trees", growth, at_most=1.1),
    ]
    return finish("overhead", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
