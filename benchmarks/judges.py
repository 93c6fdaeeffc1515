"""How often a judge is right: `likelihood` and `choice` on 120 hand-written cases, on the embedded model.

A case is a persona, a dialogue, a reply that fits and one that does not (benchmarks/data/judge_cases.jsonl): told by
kind, with Wilson intervals, abstentions and ties counted as not right, and the flip rate (how often another order of
presentation changes the answer).

    python benchmarks/judges.py [--quick] [--model PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import Bar, finish, say

from agents.calls import Calls
from agents.judges.judge import JudgeAgent
from agents.judges.verdicts import JudgeSpec
from agents.messages import Candidate, JudgeRequest, Line, Person, Place
from agents.models.config import LlamaConfig
from agents.models.open import open_model, seat_of
from agents.models.protocol import Sampling
from agents.prompts import load_prompt
from agents.roles import Role, Stage
from simulation.config import LimitsConfig
from simulation.gate import Gate
from trees.statistics import wilson
from trees.values import Call, CallFailure, Judgement, Use, winner

CASES = Path(__file__).parent / "data" / "judge_cases.jsonl"
JUDGES: Mapping[str, tuple[str, dict[str, object]]] = {
    "likelihood": ("likelihood", {"condition": "persona"}),
    "rating": ("rating", {}),
    "choice": ("choice", {}),
    "likelihood, revealed only": ("likelihood", {"condition": "revealed"}),
}


class Forgetful:
    """A call log that keeps nothing: each case is asked once."""

    def answer(self, call_id: str, *, shareable: bool) -> dict[str, Any] | None:
        return None

    async def keep(self, call: Call, use: Use) -> dict[str, Any]:
        return dict(call.answer)

    async def keep_use(self, use: Use) -> None: ...

    async def keep_failure(self, failure: CallFailure) -> None:
        say(f"a call failed: {failure.kind}: {failure.message}")


def request_of(case: dict[str, Any], number: int, repeat: int) -> JudgeRequest:
    """A case as a judge is asked it; the fitting reply comes first in every other case."""
    person = Person(
        profile=" ".join(case["profile"]),
        personality=" ".join(case["personality"]),
        facts=(*case["profile"], *case["personality"]),
    )
    replies = [("fitting", case["fitting"]), ("unfitting", case["unfitting"])]
    ordered = replies if number % 2 else replies[::-1]
    return JudgeRequest(
        place=Place(run_id="cases", run_seed=1, tree_id=case["id"], node_id=case["id"], turn=1),
        judge="under test",
        prompt_id="",
        person=person,
        history=tuple(Line(speaker=line["speaker"], text=line["text"]) for line in case["dialogue"]),
        candidates=tuple(Candidate(node_id=name, text=text, hinted=False) for name, text in ordered),
        revealed=tuple(case["revealed"]),
        repeat=repeat,
    )


async def measure(
    stage: Stage, kind: str, settings: dict[str, object], cases: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What a judge says of each case."""
    prompt = load_prompt(f"judge.{kind}")
    stage.prompts[prompt.id] = prompt
    role = Role("judge.tested", ("model",), Sampling(max_tokens=4, temperature=0.0))
    agent = JudgeAgent(stage, JudgeSpec("tested", kind, role, "model", prompt.id, settings))
    found = []
    for number, case in enumerate(cases):
        request = request_of(case, number, 0).model_copy(update={"prompt_id": prompt.id})
        judgement = (await agent.act(request)).judgement
        assert judgement is not None
        found.append(outcome_of(case, judgement))
    return found


def outcome_of(case: dict[str, Any], judgement: Judgement) -> dict[str, Any]:
    best = winner(judgement)
    outcomes = [v.outcome for v in judgement.verdicts]
    picks = {
        max(p.probabilities, key=lambda node: p.probabilities[node]) for p in judgement.presentations if p.probabilities
    }
    scores = {score.node_id: score.value for score in judgement.scores}
    return {
        "kind": case["kind"],
        "right": best == "fitting",
        "wrong": best == "unfitting",
        "outcome": outcomes[0] if outcomes else "silent",
        "flipped": len(picks) > 1,
        "ahead": scores.get("fitting", 0.0) - scores.get("unfitting", 0.0),
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    right, n = sum(f["right"] for f in found), len(found)
    low, high = wilson(right, n)
    return {
        "n": n,
        "right": right / n,
        "right_95": [low, high],
        "wrong": sum(f["wrong"] for f in found) / n,
        "undecided": sum(not f["right"] and not f["wrong"] for f in found) / n,
        "flip_rate": sum(f["flipped"] for f in found) / n,
        "ahead": sum(f["ahead"] > 0 for f in found) / n,
    }


def by_kind(found: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = sorted({f["kind"] for f in found})
    return {"all": summary(found), **{kind: summary([f for f in found if f["kind"] == kind]) for kind in kinds}}


def tell(name: str, figures: dict[str, Any]) -> None:
    say(f"\n{name}")
    for kind, s in figures.items():
        low, high = s["right_95"]
        say(
            f"  {kind:8} n={s['n']:3}  right {s['right']:.2f} [{low:.2f}, {high:.2f}]  wrong {s['wrong']:.2f}  "
            f"undecided {s['undecided']:.2f}  flips {s['flip_rate']:.2f}"
        )


async def run(path: str, quick: bool) -> dict[str, Any]:
    lines = CASES.read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines][:: 6 if quick else 1]
    config = LlamaConfig(kind="llama", path=path)
    model = open_model("model", config)
    await model.open()
    try:
        stage = Stage(Calls({"model": seat_of(model, config)}, Forgetful(), Gate(LimitsConfig(), {})), {})
        figures = {}
        for name, (kind, settings) in JUDGES.items():
            figures[name] = by_kind(await measure(stage, kind, settings, cases))
            tell(name, figures[name])
        return {"model": model.identity.as_dict(), "judges": figures}
    finally:
        await model.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every sixth case")
    parser.add_argument("--model", default="embedded", help="a GGUF file, or hf://repo:file")
    args = parser.parse_args()
    figures = asyncio.run(run(args.model, args.quick))
    lower = figures["judges"]["likelihood"]["all"]["right_95"][0]
    bars = [Bar("likelihood: lower 95 % bound of the share that is right", lower, at_least=0.6)]
    return finish("judges", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
