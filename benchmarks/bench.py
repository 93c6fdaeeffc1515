"""Whether a benchmark's figures may be believed: the same model many times, a planted slope, its people, its pace.

- A/A: one model is measured 400 times through the whole path (engine, store, judge, figures), on the same 20 people;
  each draw is compared with one other, so that the 200 comparisons are independent; at most 7 % may be called different
  at the level of 5 %.
- A model whose replies get better by a known slope is measured on 100 cases, six times: all intervals of IR hold it,
  but for one at most.
- The shipped cases against the shipped seeds by MiniLM at its calibrated thresholds: none may say the same.
- 100 cases of 10 turns on scripted models within a minute.

    python benchmarks/bench.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import Bar, finish, say

from agents.models.protocol import ChatAnswer, ChatRequest, Completion, Model, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from simulation.benchmark import Result, cases_of, find_benchmark, plan, results, start
from simulation.benchmark_config import BenchmarkConfig, CasesConfig
from simulation.cast import open_models
from simulation.embedders import open_embedder
from simulation.engine import close_engine, open_engine
from simulation.lineage import alike, halves
from simulation.metrics import compare, different, summarise
from simulation.personas import seed_personalities, seed_profiles
from simulation.pool import calibrated
from trees.ids import derive_seed
from trees.store import Store

BASE: dict[str, Any] = {
    "models": {"model": {"kind": "scripted"}, "other": {"kind": "scripted", "variant": "other"}},
    "user": {"model": "other"},
    "inducer": {"model": "other"},
    "judges": {"points": {"kind": "points", "model": "other"}},
}


class Improving(ScriptedModel):
    """Ends in a question the more often the longer it has talked: `CLIMB` of all replies more each turn."""

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        answer = await super().chat(request, on_delta)
        turn = sum(message.role == "user" for message in request.messages)
        asks = derive_seed(request.seed or 0, "", "question", "") / 2**31 < 0.1 + CLIMB * (turn - 1)
        return replace(answer, completions=(Completion("And then?" if asks else "I see."),))


CLIMB = 0.08
PLANTED = 4 * CLIMB
"""Points a turn: a question is worth 5 points and none 1."""


def config_of(**changes: Any) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate({**BASE, "tested": {"base": {"model": "model"}}, **changes})


async def measure(path: Path, config: BenchmarkConfig, name: str, others: Mapping[str, Model] | None = None) -> float:
    """Measure one model; returns the seconds that its engine played."""
    models = {**await open_models(config.run_of(name)), **(others or {})}
    measured = plan(config, name, models, cases_of(config.cases, None), None)
    with Store.open(path) as store:
        run = (await start(store, measured)).run
    engine = await open_engine(path, run.id, config=config.run_of(name), models=models)
    began = time.perf_counter()
    await engine.run()
    seconds = time.perf_counter() - began
    await close_engine(engine)
    if engine.failure is not None:
        raise engine.failure
    return seconds


def read(path: Path, judge: str) -> list[Result]:
    with Store.read(path) as store:
        found = find_benchmark(store, None)
        return results(store, found[0], judge, found[3])


async def against_itself(folder: Path, comparisons: int) -> dict[str, Any]:
    """How often a model is called different from itself. No draw is used twice."""
    tested = {f"draw{i}": {"model": "model", "repeat": i} for i in range(2 * comparisons)}
    config = config_of(tested=tested, turns=3, cases={"count": 20})
    path = folder / "itself.db"
    for name in tested:
        await measure(path, config, name)
    found = read(path, "points")
    made = [compare(a.table, b.table) for a, b in zip(found[::2], found[1::2], strict=True)]
    called = {
        "mean": sum(different(one.mean, one.held_mean) for one in made),
        "ir": sum(different(one.ir, one.held_ir) for one in made),
        "either": sum(different(one.mean, one.held_mean) or different(one.ir, one.held_ir) for one in made),
    }
    return {"comparisons": len(made), "called_different": called, "share": called["either"] / len(made)}


async def planted(folder: Path, times: int) -> dict[str, Any]:
    """How often the interval of IR holds the slope that was planted."""
    tested = {f"draw{i}": {"model": "model", "repeat": i} for i in range(times)}
    config = config_of(tested=tested, turns=6, judges={"rules": {"kind": "rules", "rules": {"question": 1}}})
    path = folder / "planted.db"
    improving = ScriptedConfig(kind="scripted", variant="improving")
    for name in tested:
        await measure(path, config, name, {"model": Improving("model", improving)})
    slopes = [summarise(result.table).ir for result in read(path, "rules")]
    held = sum(one.low is not None and one.high is not None and one.low < PLANTED < one.high for one in slopes)
    values = [one.value for one in slopes if one.value is not None]
    return {"planted": PLANTED, "measured": values, "held": held, "of": len(slopes), "share": held / len(slopes)}


async def people(folder: Path) -> dict[str, Any]:
    """How near the shipped cases come to the shipped seeds."""
    embedder = await open_embedder("minilm")
    seeds = {"profile": seed_profiles(), "personality": seed_personalities()}
    found: dict[str, Any] = {}
    try:
        with Store.open(folder / "people.db") as store:
            for kind, items in halves(cases_of(CasesConfig(), None)).items():
                threshold = await calibrated(embedder, kind)
                others = {item.id: item.text for item in seeds[kind]}
                near = await alike(store, embedder, replace(threshold, threshold=-1.0), items, others)
                least = min(threshold.threshold - one.similarity for one in near)
                found[kind] = {"threshold": threshold.threshold, "nearest": near[0].similarity, "room": least}
    finally:
        await embedder.close()
    return found


async def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("one model against itself")
        itself = await against_itself(folder, 10 if args.quick else 200)
        say("a planted slope")
        known = await planted(folder, 2 if args.quick else 6)
        say("people")
        near = await people(folder)
        say("100 cases of 10 turns")
        seconds = await measure(folder / "pace.db", config_of(), "base")
    figures = {"itself": itself, "planted": known, "people": near, "hundred_by_ten_s": seconds}
    bars = [
        Bar("A/A: share called different", itself["share"], at_most=0.07),
        Bar("intervals that hold the planted slope", known["share"], at_least=0.8),
        Bar("profiles: least room below the threshold", near["profile"]["room"], at_least=0.0),
        Bar("personalities: least room below the threshold", near["personality"]["room"], at_least=0.0),
        Bar("100 cases of 10 turns, s", seconds, at_most=60),
    ]
    return finish("bench", figures, bars)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 comparisons, 2 planted slopes")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
