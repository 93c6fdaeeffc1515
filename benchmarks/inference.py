"""How near the model's own speed the engine plays: share of a ceiling, and ratios to serving one call at a time.

Workload A: trees of 10 turns x 4 responders (two hinted), inducer and likelihood judge; B: the same with the choice
judge. Both on the embedded model, from the engine down. The ceiling is a time: the fewest tokens that must be read over
the bare reading rate, and the tokens written over the bare rate of 16 sequences, both measured in the same run at the
workload's own path lengths (benchmarks/bare.py, benchmarks/workload.py).

    python benchmarks/inference.py [--quick] [--workload A|B] [--no-peers] [--xllamacpp PYTHON] [--plot FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"
sys.path.insert(0, str(Path(__file__).parent))

from bare import ABREAST, Bare, mean_rate, measure
from common import Bar, finish, say
from workload import Played, Tokens, need_of, play, turn_times

from agents.models import llama_native
from agents.models.weights import locate

JUDGES = {"A": "likelihood", "B": "choice"}
MOMENTS = (0.2, 0.5, 0.85)


def model_entry() -> dict[str, Any]:
    return {"kind": "llama", "permits": 64, "deadline_s": 3600}


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
        "bare": [
            vars(r) if hasattr(r, "__dict__") else {k: getattr(r, k) for k in r.__dataclass_fields__} for r in rates
        ],
        "reread": (counted["prompt_read"] - need.branches) / read - 1,
        "counted": counted,
        "inside_decode": counted["decode_s"] / played.seconds,
        "turn_s": turn_times(played.asked, played.turns),
    }


async def decode_alone(bare: Bare, tokens: Tokens, played: Played) -> dict[str, float]:
    """16 answers of one scheduler at once against the bare loop over the same prompts, without anything to read."""
    from agents.models.llama import LlamaConfig, LlamaModel
    from agents.models.protocol import ChatRequest, Sampling

    prompts = [each for each in played.asked if not each.scored][:ABREAST]
    bare.hold([tokens.prompt(each) for each in prompts])
    loop = bare.decode(ABREAST)
    model = LlamaModel("m", LlamaConfig(kind="llama"))
    await model.open()
    try:
        requests = [
            ChatRequest(each.messages, Sampling(max_tokens=1, temperature=0.8, min_p=0.05), 1) for each in prompts
        ]
        await asyncio.gather(*(model.chat(request) for request in requests))
        longer = [
            ChatRequest(r.messages, Sampling(max_tokens=64, temperature=0.8, min_p=0.05), n)
            for n, r in enumerate(requests)
        ]
        first: list[float] = []
        seen: set[int] = set()

        def note(number: int) -> Any:
            def delta(_: int, __: str) -> None:
                if number not in seen:
                    seen.add(number)
                    first.append(time.perf_counter())

            return delta

        answers = await asyncio.gather(*(model.chat(r, note(n)) for n, r in enumerate(longer)))
        # From the step in which the last of them began to the end; answers that end early leave the rest alone.
        counted = sum((a.usage.output_tokens or 0) for a in answers)
        seconds = time.perf_counter() - max(first)
    finally:
        await model.close()
    return {"loop": loop, "scheduler": counted / seconds, "ratio": counted / seconds / loop}


async def run(args: argparse.Namespace) -> int:
    turns, trees = (2, 3) if args.quick else (args.turns, args.trees)
    llama_native.start()
    weights = llama_native.Weights(str(locate("embedded").path), gpu_layers=0, adapter=None)
    tokens = Tokens(weights)
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    for name in args.workload:
        say(f"{name}: {trees} trees of {turns} turns, judged by {JUDGES[name]}")
        played = await play(model_entry(), JUDGES[name], turns, trees)
        say(f"{name}: {len(played.asked)} requests in {played.seconds:.0f} s")
        bare = Bare(weights)
        figures[name] = found = ceiling(name, played, tokens, bare)
        bars.append(Bar(f"{name}: share of the ceiling", found["share"], at_least=0.8))
        bars.append(Bar(f"{name}: prompt tokens re-read, over the fewest", found["reread"], at_most=0.05))
        del bare
    return finish("inference", figures, bars)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 trees of 2 turns")
    parser.add_argument("--workload", nargs="+", choices=sorted(JUDGES), default=sorted(JUDGES))
    parser.add_argument("--trees", type=int, default=8)
    parser.add_argument("--turns", type=int, default=10)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
