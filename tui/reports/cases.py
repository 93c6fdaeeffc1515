"""Conversations of a benchmark side by side: the same person with two models, from the best to the worst.

Invariant: cases are ranked by scores alone, and a case that lacks a score takes no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trees.store import Store
from tui.reports.blocks import Conversation, Said
from tui.reports.talks import persona_of

if TYPE_CHECKING:
    from simulation.benchmark import Result


def compared(found: Sequence[Result]) -> tuple[Result | None, Result | None]:
    """The two models that conversations are shown of: the first and the last that is measured as it is deployed.

    Where there is only one of these, it is set beside the first other one.
    """
    deployed = [result for result in found if result.how == "deploy"] or list(found)
    if not deployed:
        return None, None
    last = deployed[-1]
    other = next((result for result in [*deployed, *found] if result.run_id != last.run_id), None)
    return other, last


def ranked(base: Result | None, tried: Result, turn: int | None = None) -> list[tuple[int, float]]:
    """Cases from best to worst: by how far `tried` is above `base`, or by its own score without one.

    Over all turns that both are scored at, or at one turn (from 1). Each case by its place, with that number.
    """
    scores = tried.table.scores - base.table.scores if base is not None else tried.table.scores
    wanted = scores if turn is None else scores[:, turn - 1 : turn]
    known = [(case, float(np.nanmean(row))) for case, row in enumerate(wanted) if np.isfinite(row).any()]
    return sorted(known, key=lambda each: (-each[1], each[0]))


def case_facts(store: Store, sides: Sequence[Result], case: int, difference: float) -> dict[str, Any]:
    """One case with each of the models: the conversation as it went, turn by turn, with scores."""
    table = sides[0].table
    talks = [_talk(store, result, case) for result in sides]
    turns = max((len(talk["turns"]) for talk in talks), default=0)
    return {
        "case": case,
        "difference": difference,
        "persona": persona_of(store, table.profiles[case], table.personalities[case]),
        "trees": {result.model: talk["tree"] for result, talk in zip(sides, talks, strict=True)},
        "turns": [
            [
                {"model": result.model, **talk["turns"][turn]}
                for result, talk in zip(sides, talks, strict=True)
                if turn < len(talk["turns"])
            ]
            for turn in range(turns)
        ],
    }


def _talk(store: Store, result: Result, case: int) -> dict[str, Any]:
    row = next(iter(store.trees(result.run_id, after=case - 1, limit=1)), None)
    if row is None or row.position != case:
        return {"tree": None, "turns": []}
    path = store.tree(row.id).continued_path()
    replies = {node.turn: node.text for node in path if node.speaker == "assistant"}
    scores = result.table.scores[case]
    return {
        "tree": row.id,
        "turns": [
            {
                "turn": node.turn,
                "user": node.text,
                "reply": replies.get(node.turn),
                "score": float(scores[node.turn - 1]) if np.isfinite(scores[node.turn - 1]) else None,
            }
            for node in path
            if node.speaker == "user" and node.turn <= len(scores)
        ],
    }


def conversation_of(case: Mapping[str, Any], unit: str) -> Conversation:
    """A case as it is shown: both models side by side."""
    rows: list[tuple[Said, ...]] = []
    for turn in case["turns"]:
        rows.append(tuple(Said(f"turn {side['turn']}, user to {side['model']}", side["user"], "user") for side in turn))
        rows.append(tuple(_reply(side, unit) for side in turn))
    several = len(case["trees"]) > 1
    what = f"{case['difference']:+.2f} {unit}" if several else f"{case['difference']:.2f} {unit}"
    return Conversation(f"Case {case['case'] + 1}: {what}", tuple(case["persona"].items()), tuple(rows))


def _reply(side: Mapping[str, Any], unit: str) -> Said:
    score = "no score" if side["score"] is None else f"{side['score']:.2f} {unit}"
    return Said(side["model"], "(no reply)" if side["reply"] is None else side["reply"], "reply", score)
