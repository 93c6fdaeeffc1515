"""How a run stands, from the store alone: what `status` prints and what the progress line reads.

Every figure is a query; nothing is kept between two of them, so whoever asks sees what is committed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from trees.jobs import Lock, lock_of
from trees.store import RunRow, Store
from trees.text import unescape

_SPENT = """
SELECT count(*), total(tokens_in), total(tokens_cached), total(tokens_out), total(seconds), min(at), max(at)
FROM calls WHERE id IN (SELECT call_id FROM uses WHERE run_id = ?)
"""
_BY_ROLE = """
SELECT role, label, count(*), total(tokens_in), total(tokens_cached), total(tokens_out), total(seconds)
FROM (SELECT DISTINCT u.role, m.label, c.id, c.tokens_in, c.tokens_cached, c.tokens_out, c.seconds
      FROM uses u JOIN calls c ON c.id = u.call_id JOIN models m ON m.id = c.model_id WHERE u.run_id = ?)
GROUP BY role, label ORDER BY role, label
"""
_FAILURES = """
SELECT kind, role, count(*), sum(resolved_at IS NULL), max(message) FROM failures WHERE run_id = ?
GROUP BY kind, role ORDER BY count(*) DESC, kind, role
"""
_CAUSES = """
SELECT json_extract(cause, '$.kind'), json_extract(cause, '$.message'), count(*) FROM trees
WHERE run_id = ? AND state = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_OF_RUN = "IN (SELECT n.id FROM nodes n JOIN trees t ON t.id = n.tree_id WHERE t.run_id = ?)"
_JUDGES = f"""
SELECT g.id, g.name, g.kind, count(*), sum(NOT j.complete) FROM judgements j JOIN judges g ON g.id = j.judge_id
WHERE j.node_id {_OF_RUN} GROUP BY g.id ORDER BY g.name, g.id
"""
_OUTCOMES = f"SELECT judge_id, outcome, count(*) FROM current_verdicts WHERE turn_id {_OF_RUN} GROUP BY 1, 2"
_PAIRS = "SELECT p.judge_id, count(*) FROM pairs p JOIN trees t ON t.id = p.tree_id WHERE t.run_id = ? GROUP BY 1"
OUTCOMES = ("win", "tie", "both_bad", "unstable", "abstain")


def progress_facts(store: Store, run: RunRow) -> dict[str, Any]:
    """The few figures that change while a run is played."""
    states = dict(store.rows("SELECT state, count(*) FROM trees WHERE run_id = ? GROUP BY state", (run.id,)))
    turns, nodes, begun = store.rows("SELECT total(turns), total(nodes), sum(nodes > 0) FROM trees WHERE run_id = ?", (run.id,))[0]
    planned = sum(states.values())
    calls, read, cached, written, seconds, first, last = store.rows(_SPENT, (run.id,))[0]
    failed = store.rows("SELECT count(*) FROM failures WHERE run_id = ?", (run.id,))[0][0]
    return {
        "trees": {
            "planned": planned,
            "begun": begun or 0,
            "growing": states.get("growing", 0),
            "done": states.get("done", 0),
            "failed": states.get("failed", 0),
        },
        "turns": {"stored": int(turns), "planned": planned * turns_of(run)},
        "nodes": int(nodes),
        "calls": {
            "answered": calls,
            "failed": failed,
            "tokens_in": int(read),
            "tokens_cached": int(cached),
            "tokens_out": int(written),
            "seconds": round(seconds, 3),
            "first_at": first,
            "last_at": last,
        },
        "pairs": dict(store.rows(_PAIRS, (run.id,))),
    }


def run_facts(store: Store, run: RunRow) -> dict[str, Any]:
    """Everything that `status` shows of one run."""
    facts = progress_facts(store, run)
    pairs = facts["pairs"]
    return {
        **facts,
        "run": run_line(run),
        "pairs": sum(pairs.values()),
        "roles": _roles(store, run.id),
        "failures": _failures(store, run.id),
        "failed_trees": [
            {"kind": kind, "message": message, "trees": number}
            for kind, message, number in store.rows(_CAUSES, (run.id,))
        ],
        "judges": _judges(store, run.id, pairs),
        "engine": engine_line(lock_of(store, run.id)),
    }


def run_line(run: RunRow) -> dict[str, Any]:
    """A run in lists."""
    return {
        "id": run.id,
        "kind": run.kind,
        "name": run.name,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
    }


def engine_line(lock: Lock | None) -> dict[str, Any] | None:
    """Who is at work on a job, and when it was last heard of."""
    if lock is None:
        return None
    return {
        "pid": lock.pid,
        "host": lock.host,
        "alive": lock.alive,
        "taken_at": lock.taken_at,
        "heartbeat_age_s": round(time.time() - lock.heartbeat_at, 1),
        "socket": lock.socket,
    }


def turns_of(run: RunRow) -> int:
    """How often the user speaks in a tree of this run; 0 where nobody planned it (chat, import)."""
    played = run.identity.get("play", {})
    return int(played.get("turns", 0))


def deciding_judge(store: Store, run: RunRow, name: str | None = None) -> str | None:
    """The id of a judge by name among those that judged a run; if none is named, of the one that branching follows."""
    played = run.identity.get("play", {})
    wanted = name or played.get("judge") or next(iter(played.get("judges", {})), None)
    sql = f"SELECT g.id, g.name FROM judgements j JOIN judges g ON g.id = j.judge_id WHERE j.node_id {_OF_RUN} GROUP BY g.id ORDER BY max(j.at) DESC"
    made = store.rows(sql, (run.id,))
    named = [judge_id for judge_id, judge_name in made if judge_name == wanted]
    if named or name is not None:
        return named[0] if named else None
    return made[0][0] if made else None


def model_labels(store: Store) -> dict[str, str]:
    """Names of models by id."""
    return dict(store.rows("SELECT id, label FROM models"))


def _roles(store: Store, run_id: str) -> list[dict[str, Any]]:
    names = ("role", "model", "calls", "tokens_in", "tokens_cached", "tokens_out", "seconds")
    rows = (dict(zip(names, row, strict=True)) for row in store.rows(_BY_ROLE, (run_id,)))
    tokens = ("tokens_in", "tokens_cached", "tokens_out")
    return [{**row, **{key: int(row[key]) for key in tokens}, "seconds": round(row["seconds"], 3)} for row in rows]


def _failures(store: Store, run_id: str) -> list[dict[str, Any]]:
    names = ("kind", "role", "calls", "unresolved", "example")
    rows = (dict(zip(names, row, strict=True)) for row in store.rows(_FAILURES, (run_id,)))
    return [{**row, "example": unescape(row["example"])} for row in rows]


def _judges(store: Store, run_id: str, pairs: Mapping[str, int]) -> list[dict[str, Any]]:
    outcomes: dict[str, dict[str, int]] = {}
    for judge, outcome, number in store.rows(_OUTCOMES, (run_id,)):
        outcomes.setdefault(judge, {})[outcome] = number
    return [
        {
            "id": judge,
            "judge": name,
            "kind": kind,
            "judgements": made,
            "incomplete": incomplete or 0,
            **{outcome: outcomes.get(judge, {}).get(outcome, 0) for outcome in OUTCOMES},
            "pairs": pairs.get(judge, 0),
        }
        for judge, name, kind, made, incomplete in store.rows(_JUDGES, (run_id,))
    ]
