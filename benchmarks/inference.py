"""How near the model's own speed the engine plays: share of a ceiling, and ratios to serving one call at a time.

Workload A: trees of 10 turns x 4 responders (two hinted), inducer and likelihood judge; B: the same with the choice
judge; bench: one responder whose every reply is scored, as a model under test, in three times as many trees, since each
of them asks one thing at a time. All on the embedded model, from the engine down. The ceiling is a time: the fewest
tokens that must be read over the bare reading rate, and the tokens written over the bare rate of 16 sequences, both
measured in the same run at the workload's own path lengths (benchmarks/bare.py, benchmarks/workload.py).

Where llama.cpp was built for a GPU everything is measured there as well; otherwise the figure `gpu` says why not. The
peer's server is tried with cells of all slots together and with cells of each, and measured the faster way.

    python benchmarks/inference.py [--quick] [--workload A B bench] [--no-peers] [--xllamacpp PYTHON] [--plot FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from bare import ABREAST, Bare, mean_rate, measure
from common import Bar, finish, say
from peers import OneAtATime, replay, tuned, turns_of, xllamacpp_version
from workload import Asked, Played, Tokens, need_of, play, turn_times

from agents.models import llama_native
from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.protocol import ChatRequest, Message, Sampling
from agents.models.weights import locate

JUDGES = {"A": "likelihood", "B": "choice", "bench": "points"}
MOMENTS = (0.2, 0.5, 0.85)
WRITTEN = 48
"""Tokens of each answer where writing alone is measured."""
ABREASTS = (1, 2, 4, 8, 16, 32, 64)


def model_entry(gpu_layers: int) -> dict[str, Any]:
    return {"kind": "llama", "permits": 64, "deadline_s": 3600, "gpu_layers": gpu_layers}


def ceiling(name: str, played: Played, tokens: Tokens, bare: Bare) -> dict[str, Any]:
    """The workload's ceiling and what was reached."""
    need = need_of(tokens, played.asked)
    say(f"{name}: bare rates at {len(MOMENTS)} moments")
    rates = measure(bare, tokens, played.asked, MOMENTS)
    prefill, scoring, decode = (
        mean_rate([getattr(r, kind) for r in rates]) for kind in ("prefill", "scoring", "decode")
    )
    ceiling_s = need.quiet / prefill + need.scored / scoring + need.out / decode
    counted = played.figures
    read = need.quiet + need.scored
    return {
        "trees": played.trees,
        "turns": played.turns,
        "requests": len(played.asked),
        "seconds": played.seconds,
        "ceiling_s": ceiling_s,
        "share": ceiling_s / played.seconds,
        "needed_quiet": need.quiet,
        "needed_scored": need.scored,
        "prompt_shared": need.shared,
        "tokens_out": need.out,
        "bare": [asdict(each) for each in rates],
        "reread": (counted["prompt_read"] - need.branches) / read - 1,
        "counted": counted,
        "inside_decode": counted["decode_s"] / played.seconds,
        "turn_s": turn_times(played.asked, played.turns),
    }


def against_one_at_a_time(path: str, played: Played, tokens: Tokens, gpu_layers: int) -> dict[str, Any]:
    """Times a turn of a tree takes one call at a time, at sampled turns; those between are interpolated."""
    one = OneAtATime(path, tokens, 4096, gpu_layers)
    by_turn = turns_of(played.asked, played.asked[0].lane, played.turns)
    sampled = sorted({0, played.turns // 3, 2 * played.turns // 3, played.turns - 1})
    seconds = {}
    for turn in sampled:
        say(f"  one call at a time: turn {turn + 1}")
        seconds[turn] = one.seconds(by_turn[turn])
    every = np.interp(range(played.turns), sampled, [seconds[turn] for turn in sampled])
    ours = turn_times(played.asked, played.turns)
    return {
        "sampled_turn_s": {turn + 1: value for turn, value in seconds.items()},
        "all_turns": float(every.sum() / sum(ours)),
        "last_turn": seconds[sampled[-1]] / ours[-1],
    }


async def against_xllamacpp(python: str, path: str, played: Played, tokens: Tokens, gpu_layers: int) -> dict[str, Any]:
    """Seconds that its server takes for the same requests, by the better of its settings."""
    settings, sweep = await tuned(python, path, gpu_layers, tokens, played.asked, played.turns)
    say(f"  xllamacpp's server: {settings}")
    seconds = await replay(python, settings, tokens, played.asked)
    version = xllamacpp_version(python)
    return {"seconds": seconds, "version": version, "sweep": sweep, "settings": {**settings, "path": "embedded"}}


async def growth(bare: Bare, tokens: Tokens, gpu_layers: int) -> list[dict[str, float]]:
    """Tokens a second of so many answers at once, by the scheduler and by the bare loop over the same prompts."""
    model = LlamaModel("m", LlamaConfig(kind="llama", parallel=max(ABREASTS), gpu_layers=gpu_layers))
    await model.open()
    found = []
    try:
        for number in ABREASTS:
            asked = [Message("user", f"Write a very long story about traveller number {n + 1}.") for n in range(number)]
            paths = [tokens.prompt(Asked(ChatRequest((message,)), 0.0)) for message in asked]
            bare.hold(paths)
            loop = bare.decode(number, WRITTEN)
            found.append({"sequences": number, "loop": loop, "scheduler": await _writing_rate(model, asked)})
            say("  {sequences:>2} sequences: {loop:.0f} bare, {scheduler:.0f} tokens a second".format(**found[-1]))
    finally:
        await model.close()
    return found


async def _writing_rate(model: LlamaModel, asked: list[Message]) -> float:
    """Of answers alone: their prompts were read before."""

    def request(number: int, length: int) -> ChatRequest:
        return ChatRequest((asked[number],), Sampling(max_tokens=length, temperature=0.8, min_p=0.05), number)

    await asyncio.gather(*(model.chat(request(number, 1)) for number in range(len(asked))))
    began = time.perf_counter()
    answers = await asyncio.gather(*(model.chat(request(number, WRITTEN)) for number in range(len(asked))))
    return sum(answer.usage.output_tokens or 0 for answer in answers) / (time.perf_counter() - began)


def writing(counted: dict[str, float], decode: float, points: list[dict[str, float]]) -> dict[str, float]:
    """How fast answers are written while nothing is read, of a bare loop as wide at the workload's own lengths.

    Width is the mean over such steps; the bare rate of 16 at the workload's lengths is scaled to it by the growth of
    the bare loop.
    """
    width = counted["writing_rides"] / counted["writing_steps"]
    widths, loop = [point["sequences"] for point in points], [point["loop"] for point in points]
    bare = decode * float(np.interp(width, widths, loop) / np.interp(ABREAST, widths, loop))
    rate = counted["writing_rides"] / counted["writing_s"]
    return {"width": width, "tokens_per_second": rate, "bare": bare, "share": rate / bare}


def plot(points: list[dict[str, float]], path: Path) -> None:
    """Both curves as a picture."""
    top = max(max(point["loop"], point["scheduler"]) for point in points)
    across = [40 + 540 * index // (len(points) - 1) for index in range(len(points))]

    def line(kind: str, colour: str) -> str:
        heights = [280 - 240 * point[kind] / top for point in points]
        places = " ".join(f"{x},{y:.0f}" for x, y in zip(across, heights, strict=True))
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def label(x: int, y: int, text: str, anchor: str) -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'

    title = f"tokens a second (top: {top:.0f}) by sequences at once; blue: the scheduler, grey: a bare loop"
    marks = [label(x, 298, f"{point['sequences']:.0f}", "middle") for x, point in zip(across, points, strict=True)]
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 330" font-family="sans-serif" font-size="12">'
        '<rect width="620" height="330" fill="white"/>'
        f"{line('loop', '#888888')}{line('scheduler', '#0055aa')}{label(40, 20, title, 'start')}{''.join(marks)}</svg>"
    )


async def run(args: argparse.Namespace) -> int:
    llama_native.start()
    figures, bars = await measured(args, gpu_layers=0)
    if llama_native.offloads():
        say("all of it again, on the GPU")
        figures["gpu"], more = await measured(args, gpu_layers=-1)
        bars += [replace(bar, name=f"GPU, {bar.name}") for bar in more]
    else:
        figures["gpu"] = "not run: this build of llama.cpp offloads nothing"
        say(f"GPU: {figures['gpu']}")
    return finish("inference", figures, bars)


async def measured(args: argparse.Namespace, gpu_layers: int) -> tuple[dict[str, Any], list[Bar]]:
    """All figures and bars with so many layers on the GPU (-1: all)."""
    turns, trees = (2, 3) if args.quick else (args.turns, args.trees)
    path = str(locate("embedded").path)
    weights = llama_native.Weights(path, gpu_layers=gpu_layers, adapter=None)
    tokens = Tokens(weights)
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    for name in args.workload:
        number = 3 * trees if name == "bench" else trees
        say(f"{name}: {number} trees of {turns} turns, judged by {JUDGES[name]}")
        played = await play(model_entry(gpu_layers), JUDGES[name], turns, number)
        say(f"{name}: {len(played.asked)} requests in {played.seconds:.0f} s")
        figures[name] = found = ceiling(name, played, tokens, Bare(weights))
        say(f"{name}: {found['share']:.3f} of a ceiling of {found['ceiling_s']:.0f} s, {found['reread']:.1%} re-read")
        bars.append(Bar(f"{name}: share of the ceiling", found["share"], at_least=0.8))
        bars.append(Bar(f"{name}: prompt tokens re-read, over the fewest", found["reread"], at_most=0.05))
        if name == "A" and not args.no_peers:
            found["one_at_a_time"] = one = against_one_at_a_time(path, played, tokens, gpu_layers)
            bars.append(Bar("A: times faster than Llama, one call at a time", one["all_turns"], at_least=2.5))
            bars.append(Bar("A: the same at the last turn", one["last_turn"], at_least=4))
        if name == "B" and args.xllamacpp:
            found["xllamacpp"] = peer = await against_xllamacpp(args.xllamacpp, path, played, tokens, gpu_layers)
            bars.append(Bar("B: times faster than xllamacpp's server", peer["seconds"] / played.seconds, at_least=1.5))
    figures["growth"] = points = await growth(Bare(weights), tokens, gpu_layers)
    alone = next(point for point in points if point["sequences"] == ABREAST)
    bars.append(Bar("16 answers alone, of a bare loop", alone["scheduler"] / alone["loop"], at_least=0.9))
    for name in args.workload:
        found = figures[name]
        found["writing"] = writing(found["counted"], mean_rate([r["decode"] for r in found["bare"]]), points)
        bars.append(Bar(f"{name}: writing, of a bare loop as wide", found["writing"]["share"], at_least=0.85))
    if args.plot and not gpu_layers:
        plot(points, args.plot)
    return figures, bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 trees of 2 turns")
    parser.add_argument("--workload", nargs="*", choices=sorted(JUDGES), default=["A", "B"])
    parser.add_argument("--trees", type=int, default=8, help="all played at the same time (default: 8)")
    parser.add_argument("--turns", type=int, default=10, help="default: 10")
    parser.add_argument("--no-peers", action="store_true", help="leave out Llama, one call at a time")
    parser.add_argument("--xllamacpp", metavar="PYTHON", help="an interpreter that has xllamacpp, to compare B with")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw growth with sequences, as SVG")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
