"""Trying a prompt out: what a model says under a draft at a place of a stored tree, beside what it said there.

A place is a use of a prompt of the same kind: same persona, same path, same sampling and seed; only the prompt differs.
What is said is shown and not kept.

Invariant: nothing is written to the store.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agents.models.open import open_model
from agents.models.protocol import ChatRequest, ModelFailure
from agents.prompts import Prompt
from agents.rerender import Rerender
from simulation.runs import config_of
from trees.errors import NotFound, SetupError
from trees.store import Store
from trees.values import Use
from trees.verify import USE_COLUMNS, use_from_row

TRIED = ("user", "responder")
"""Kinds of prompt whose answers are plain text, so that they can be tried on their own."""
DEADLINE_S = 180.0


def places(store: Store, tree_id: str, kind: str) -> list[Use]:
    """Where a kind of prompt was used in a tree, turn by turn; of one place the first use."""
    sql = (
        f"SELECT {USE_COLUMNS} FROM uses u JOIN prompts p ON p.id = u.prompt_id LEFT JOIN nodes n ON n.id = u.node_id "
        "WHERE u.tree_id = ? AND p.role = ? ORDER BY coalesce(n.rowid, 0), u.role, u.purpose"
    )
    found = [use_from_row(row) for row in store.rows(sql, (tree_id, kind))]
    return list({(use.node_id, use.role): use for use in reversed(found)}.values())[::-1]


def place_of(store: Store, tree_id: str, kind: str, number: int) -> Use:
    """One of them, counted from 1. Raises NotFound."""
    found = places(store, tree_id, kind)
    if not 1 <= number <= len(found):
        raise NotFound(
            f"tree {tree_id[:8]} has {len(found)} places where a {kind} prompt was used, not {number}",
            hint="Name another --place, or another tree.",
        )
    return found[number - 1]


def said_at(store: Store, use: Use) -> str:
    """What was answered there."""
    answer = store.answer(use.call_id) or {}
    completions = answer.get("completions", [])
    return str(completions[0].get("text", "")) if completions else json.dumps(answer)


def try_prompt(store: Store, use: Use, draft: Prompt) -> dict[str, Any]:
    """Ask the place's model under the draft. Raises SetupError for a model that cannot be asked."""
    if draft.kind not in TRIED:
        raise SetupError(
            f"a {draft.kind} prompt cannot be tried on its own", hint=f"Those that can: {', '.join(TRIED)}."
        )
    messages = Rerender(store).messages(use, draft)
    if messages is None:
        raise NotFound(f"the turn of call {use.call_id[:8]} is not stored", hint="Name another --place.")
    config = config_of(store.run(use.run_id))
    role = config.roles()[use.role.replace("responder.", "responders.")]
    name = config.models_of(role)[0]
    request = json.loads(store.rows("SELECT request FROM calls WHERE id = ?", (use.call_id,))[0][0])
    asked = ChatRequest(messages, role.sampling.value(), request.get("seed"))

    async def ask() -> str:
        model = open_model(name, config.models[name])
        try:
            await model.open()
            async with asyncio.timeout(DEADLINE_S):
                return (await model.chat(asked)).completions[0].text
        finally:
            await model.close()

    try:
        said = asyncio.run(ask())
    except (ModelFailure, TimeoutError) as error:
        raise SetupError(f"model {name!r} gave no answer: {error}") from error
    return {"model": name, "role": use.role, "before": said_at(store, use), "after": said}
