"""Conversations that a report shows: chosen by what judges said of them, never drawn.

Invariant: facts here are plain values; texts are as they were said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Judgement, Node, winner
from tui.reports.blocks import Conversation, Said

_CLEAR = """
SELECT u.tree_id, avg(v.margin), count(*) FROM current_verdicts v
JOIN nodes u ON u.id = v.turn_id JOIN trees t ON t.id = u.tree_id
WHERE t.run_id = ? AND v.judge_id = ? AND v.outcome = 'win' GROUP BY u.tree_id ORDER BY 2 DESC, 3 DESC, 1
"""
_ANY = "SELECT id FROM trees WHERE run_id = ? AND nodes > 0 ORDER BY nodes DESC, id"


def sample_trees(store: Store, run_id: str, judge_id: str | None) -> list[dict[str, Any]]:
    """The tree whose wins were the clearest, the one in the middle, and the least clear one; without wins the largest.

    Each as its conversation that was really played, turn by turn, the winning reply beside one it beat.
    """
    ranked = [row[0] for row in store.rows(_CLEAR, (run_id, judge_id))] if judge_id is not None else []
    if ranked:
        places = {"clearest wins": 0, "in the middle": len(ranked) // 2, "least clear wins": len(ranked) - 1}
        chosen = {ranked[place]: title for title, place in reversed(places.items())}
        order = [ranked[place] for place in sorted(set(places.values()))]
        return [_tree(store, tree, chosen[tree], judge_id) for tree in order]
    return [_tree(store, row[0], "largest", judge_id) for row in store.rows(f"{_ANY} LIMIT 1", (run_id,))]


def _tree(store: Store, tree_id: str, why: str, judge_id: str | None) -> dict[str, Any]:
    row, tree = store.tree_row(tree_id), store.tree(tree_id)
    return {
        "tree": tree_id,
        "why": why,
        "persona": persona_of(store, row.profile_id, row.personality_id),
        "turns": [_turn(tree, node, judge_id) for node in tree.continued_path() if node.speaker == "user"],
    }


def persona_of(store: Store, profile_id: str | None, personality_id: str | None) -> dict[str, str]:
    """Both halves of a persona in their words; nothing where nobody is known."""
    found = {}
    if profile_id is not None:
        found["profile"] = store.profile(profile_id).text
    if personality_id is not None:
        found["personality"] = store.personality(personality_id).text
    return found


def _turn(tree: ConversationTree, user: Node, judge_id: str | None) -> dict[str, Any]:
    replies = tree.children(user.id)
    made = tree.judgements.get(user.id, [])
    judged = [j for j in made if j.judge_id == judge_id and j.complete]
    judgement = max(judged, key=lambda j: (len(j.covers), j.repeat), default=None)
    best = winner(judgement) if judgement is not None else None
    ledger = tree.ledgers.get(user.id)
    return {
        "turn": user.turn,
        "user": user.text,
        "revealed": list(ledger.facts) if ledger is not None else [],
        "unreadable": ledger.failure if ledger is not None else None,
        "replies": [_reply(tree, reply, judgement, best) for reply in _shown(replies, judgement, best, tree)],
        "others": max(len(replies) - 2, 0),
        "outcomes": _outcomes(judgement),
    }


def _shown(
    replies: Sequence[Node], judgement: Judgement | None, best: str | None, tree: ConversationTree
) -> list[Node]:
    """The winner and the reply it beat by most; without a winner the one gone on from and another one."""
    by_id = {reply.id: reply for reply in replies}
    if judgement is not None and best in by_id:
        beaten = [v for v in judgement.verdicts if v.outcome == "win" and v.first_id == best and v.second_id in by_id]
        lost = max(beaten, key=lambda v: v.margin or 0.0, default=None)
        return [by_id[best], *([by_id[lost.second_id]] if lost is not None else [])]
    return sorted(replies, key=lambda reply: reply.id not in tree.continued)[:2]


def _reply(tree: ConversationTree, reply: Node, judgement: Judgement | None, best: str | None) -> dict[str, Any]:
    scores = {s.node_id: s for s in judgement.scores} if judgement is not None else {}
    score, mark = scores.get(reply.id), tree.continued.get(reply.id)
    return {
        "role": reply.role,
        "text": reply.text,
        "hinted": reply.hinted,
        "won": None if best is None else reply.id == best,
        "continued": mark.reason if mark is not None else None,
        "score": None if score is None else {"value": score.value, "unit": score.unit},
    }


def _outcomes(judgement: Judgement | None) -> dict[str, int]:
    said = [verdict.outcome for verdict in judgement.verdicts] if judgement is not None else []
    return {outcome: said.count(outcome) for outcome in dict.fromkeys(said)}


def conversation_of(tree: Mapping[str, Any]) -> Conversation:
    """A sample as it is shown: under each message of the user the winner beside the loser."""
    rows: list[tuple[Said, ...]] = []
    for turn in tree["turns"]:
        rows.append((_user_said(turn),))
        rows.append(tuple(_reply_said(reply) for reply in turn["replies"]))
    title = f"Tree {tree['tree'][:8]}: {tree['why']}"
    return Conversation(title, tuple(tree["persona"].items()), tuple(row for row in rows if row))


def _user_said(turn: Mapping[str, Any]) -> Said:
    notes = [f"revealed: {fact}" for fact in turn["revealed"]]
    if turn["unreadable"]:
        notes.append(f"what it revealed could not be read: {turn['unreadable']}")
    if turn["outcomes"] and all(reply["won"] is None for reply in turn["replies"]):
        said = ", ".join(f"{number} {outcome.replace('_', ' ')}" for outcome, number in turn["outcomes"].items())
        notes.append(f"no winner: {said}")
    if turn["others"]:
        notes.append(f"{turn['others']} more replies are not shown")
    return Said(f"turn {turn['turn']}, user", turn["user"], "user", notes=tuple(notes))


def _reply_said(reply: Mapping[str, Any]) -> Said:
    won = {True: "winner", False: "loser", None: ""}[reply["won"]]
    score = reply["score"]
    marks = [won, f"{score['value']:+.3f} {score['unit']}" if score else "", "hinted" if reply["hinted"] else ""]
    notes = (f"the conversation went on from it: {reply['continued']}",) if reply["continued"] else ()
    manner = {True: "winner", False: "loser", None: "reply"}[reply["won"]]
    return Said(reply["role"], reply["text"], manner, ", ".join(mark for mark in marks if mark), notes)  # type: ignore[arg-type]
