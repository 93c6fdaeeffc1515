"""Trees as JSON documents.

The canonical document holds what was said, judged and kept, and nothing of how or when: no times, attempts,
pids or token counts. So that of a resumed run with deterministic models equals an unbroken run's byte for
byte. The full document adds what it leaves out.

Invariant: every list is sorted by ids or numbers, never by the order of arrival.
"""

from __future__ import annotations

import json
from typing import Any

from trees.store import RunRow, Store, TreeRow
from trees.tree import ConversationTree
from trees.values import Judgement, Ledger, Node


def canonical_run(store: Store, run: RunRow) -> dict[str, Any]:
    """All trees of a run."""
    trees = [canonical_tree(row, store.tree(row.id)) for row in store.trees(run.id)]
    return {"run": run.id, "seed": run.seed, "revisions": store.revisions(run.id), "trees": trees}


def canonical_tree(row: TreeRow, tree: ConversationTree) -> dict[str, Any]:
    """One tree."""
    judgements = [j for made in tree.judgements.values() for j in made]
    return {
        "id": row.id,
        "run": row.run_id,
        "position": row.position,
        "profile": row.profile_id,
        "personality": row.personality_id,
        "revision": row.revision,
        "state": row.state,
        **({"situation": json.loads(row.situation.as_json())} if row.situation is not None else {}),
        "nodes": [_node(node) for node in sorted(tree, key=lambda n: (n.turn, n.id))],
        "ledgers": [_ledger(tree.ledgers[key]) for key in sorted(tree.ledgers)],
        "judgements": [_judgement(j) for j in sorted(judgements, key=lambda j: j.id)],
        "continued": [
            {"node": mark.node_id, "policy": mark.policy, "reason": mark.reason}
            for _, mark in sorted(tree.continued.items())
        ],
    }


def full_tree(store: Store, row: TreeRow, tree: ConversationTree) -> dict[str, Any]:
    """One tree with the calls that were asked for it, the failures and the persona."""
    return {
        **canonical_tree(row, tree),
        "title": row.title,
        "cause": row.cause,
        "calls": _calls(store, row.id),
        "failures": _failures(store, row.id),
        "profile_text": store.profile(row.profile_id).text if row.profile_id else None,
        "personality_text": store.personality(row.personality_id).text if row.personality_id else None,
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "parent": node.parent_id,
        "turn": node.turn,
        "speaker": node.speaker,
        "role": node.role,
        "replica": node.replica,
        "origin": node.origin,
        "text": node.text,
        "digest": node.digest,
        "reasoning": node.reasoning,
        "call": node.call_id,
        "answer": node.answer,
        "model": node.model_id,
        "hinted": node.hinted,
        "drift": node.drift,
        "rerolls": node.rerolls,
        "operation": node.operation_id,
    }


def _ledger(ledger: Ledger) -> dict[str, Any]:
    return {
        "node": ledger.node_id,
        "facts": list(ledger.facts),
        "sees_persona": ledger.sees_persona,
        "call": ledger.call_id,
        "dropped": ledger.dropped,
        "failure": ledger.failure,
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "id": judgement.id,
        "node": judgement.node_id,
        "judge": judgement.judge_id,
        "repeat": judgement.repeat,
        "covers": list(judgement.covers),
        "complete": judgement.complete,
        "presentations": [
            {
                "order": list(shown.order),
                "call": shown.call_id,
                "raw": shown.raw,
                "probabilities": dict(shown.probabilities),
                "label": shown.label,
            }
            for shown in judgement.presentations
        ],
        "scores": [
            {"node": score.node_id, "unit": score.unit, "value": score.value}
            for score in sorted(judgement.scores, key=lambda s: s.node_id)
        ],
        "verdicts": [
            {
                "first": v.first_id,
                "second": v.second_id,
                "outcome": v.outcome,
                "margin": v.margin,
                "unit": v.unit,
            }
            for v in sorted(judgement.verdicts, key=lambda v: (v.first_id, v.second_id))
        ],
    }


def _calls(store: Store, tree_id: str) -> list[dict[str, Any]]:
    sql = (
        "SELECT c.id, c.kind, c.model_id, u.node_id, u.role, u.purpose, u.prompt_id, u.epoch, c.tokens_in, "
        "c.tokens_cached, c.tokens_out, c.first_token_s, c.seconds, c.attempts, c.at "
        "FROM uses u JOIN calls c ON c.id = u.call_id WHERE u.tree_id = ? ORDER BY c.at, c.id, u.purpose"
    )
    names = [
        "id",
        "kind",
        "model",
        "node",
        "role",
        "purpose",
        "prompt",
        "epoch",
        "tokens_in",
        "tokens_cached",
        "tokens_out",
        "first_token_s",
        "seconds",
        "attempts",
        "at",
    ]
    calls = [dict(zip(names, row, strict=True)) for row in store.rows(sql, (tree_id,))]
    return [{**call, "attempts": json.loads(call["attempts"] or "[]")} for call in calls]


def _failures(store: Store, tree_id: str) -> list[dict[str, Any]]:
    columns = "node_id, role, purpose, call_id, kind, message, at, resolved_at"
    names = ["node", "role", "purpose", "call", "kind", "message", "at", "resolved_at"]
    rows = store.rows(f"SELECT {columns} FROM failures WHERE tree_id = ? ORDER BY id", (tree_id,))
    return [dict(zip(names, row, strict=True)) for row in rows]
