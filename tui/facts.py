"""How a run stands, from the store alone: what `status` prints and what the progress line reads.

Every figure is a query; nothing is kept between two of them, so whoever asks sees what is committed. The
figures are plain values, ready for JSON.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, get_args

from trees.jobs import Lock, lock_of
from trees.statistics import (
    Agreement,
    JudgeStatistics,
    Rate,
    agreement,
    drift_statistics,
    failures_by_cause,
    judge_statistics,
    model_activity,
    usage,
)
from trees.store import RunRow, Store
from trees.text import unescape
from trees.values import Outcome

_SPENT = """
SELECT count(*), total(tokens_in), total(tokens_cached), total(tokens_out), total(seconds), min(at), max(at)
FROM calls WHERE id IN (SELECT call_id FROM uses WHERE run_id = ?)
"""
_TREES = "SELECT count(*), total(turns), total(nodes), total(nodes > 0) FROM trees WHERE run_id = ?"
_CAUSES = """
SELECT json_extract(cause, '$.kind'), json_extract(cause, '$.message'), count(*) FROM trees
WHERE run_id = ? AND state = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
_PAIRS = """
SELECT p.judge_id, count(*) FROM pairs p JOIN trees t ON t.id = p.tree_id WHERE t.run_id = ? GROUP BY 1
"""
_JUDGED_BY = """
SELECT g.id, g.name FROM judgements j JOIN judges g ON g.id = j.judge_id
JOIN nodes n ON n.id = j.node_id JOIN trees t ON t.id = n.tree_id
WHERE t.run_id = ? GROUP BY g.id ORDER BY max(j.at) DESC, g.id
"""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def progress_facts(store: Store, run: RunRow) -> dict[str, Any]:
    """The few figures that change while a run is played."""
    states = dict(store.rows("SELECT state, count(*) FROM trees WHERE run_id = ? GROUP BY state", (run.id,)))
    planned, turns, nodes, begun = store.rows(_TREES, (run.id,))[0]
    calls, read, cached, written, seconds, first, last = store.rows(_SPENT, (run.id,))[0]
    failed = store.rows("SELECT count(*) FROM failures WHERE run_id = ?", (run.id,))[0][0]
    by_state = {state: states.get(state, 0) for state in ("growing", "done", "failed")}
    return {
        "trees": {"planned": planned, "begun": int(begun), **by_state},
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
    drift = drift_statistics(store, run.id)
    return {
        **facts,
        "run": run_line(run),
        "roles": [_plain(row) for row in usage(store, run.id)],
        "models": model_facts(store, run),
        "failures": [_plain(row) for row in failures_by_cause(store, run.id)],
        "failed_trees": [
            {"kind": kind, "message": unescape(message), "trees": number}
            for kind, message, number in store.rows(_CAUSES, (run.id,))
        ],
        "judges": judge_facts(store, run, facts["pairs"]),
        "drift": {**_plain(drift), "drifting": dict(drift.drifting)},
        "engine": engine_line(lock_of(store, run.id)),
    }


def judge_facts(store: Store, run: RunRow, pairs: Mapping[str, int]) -> list[dict[str, Any]]:
    """How each judge of a run behaved, and how far the others agree with the people who judged."""
    rows = judge_statistics(store, run.id)
    people = [row for row in rows if row.kind == "human"]
    return [
        {
            **_judge(row, pairs.get(row.id, 0)),
            "agreement": {
                person.name: agreement_facts(agreement(store, run.id, row.id, person.id))
                for person in people
                if person.id != row.id
            },
        }
        for row in rows
    ]


def agreement_facts(found: Agreement) -> dict[str, Any]:
    """Agreement of two judges, with what it is of."""
    return {**_plain(found), "interval": None if found.interval is None else list(found.interval)}


def model_facts(store: Store, run: RunRow) -> list[dict[str, Any]]:
    """What each model of a run did and does, as its engine measured it."""
    return [_plain(row) for row in model_activity(store, run.id)]


def run_line(run: RunRow) -> dict[str, Any]:
    """A run in lists."""
    fields = ("id", "kind", "name", "seed", "state", "reason", "created_at", "updated_at")
    return {field: getattr(run, field) for field in fields}


def engine_line(lock: Lock | None) -> dict[str, Any] | None:
    """Who is at work on a job, and when it was last heard of."""
    if lock is None:
        return None
    fields = ("pid", "host", "alive", "taken_at", "socket")
    age = round(time.time() - lock.heartbeat_at, 1)
    return {**{field: getattr(lock, field) for field in fields}, "heartbeat_age_s": age}


def turns_of(run: RunRow) -> int:
    """How often the user speaks in a tree of this run; 0 where nobody planned it (chat, import)."""
    played: Mapping[str, Any] = run.identity.get("play", {})
    return int(played.get("turns", 0))


def deciding_judge(store: Store, run: RunRow, name: str | None = None) -> str | None:
    """The id of a judge of a run by its name; if none is named, of the one that branching follows.

    None if that judge, or where none is named any judge, has judged nothing in the run.
    """
    played: Mapping[str, Any] = run.identity.get("play", {})
    wanted = name or played.get("judge") or next(iter(played.get("judges", {})), None)
    made = store.rows(_JUDGED_BY, (run.id,))
    named = [judge_id for judge_id, judge_name in made if judge_name == wanted]
    if named or name is not None:
        return named[0] if named else None
    return made[0][0] if made else None


def model_labels(store: Store) -> dict[str, str]:
    """Names of models by id."""
    return dict(store.rows("SELECT id, label FROM models"))


def _judge(judge: JudgeStatistics, pairs: int) -> dict[str, Any]:
    return {
        "id": judge.id,
        "judge": judge.name,
        "kind": judge.kind,
        "turns": judge.turns,
        "incomplete": judge.incomplete,
        **{outcome: judge.outcomes.get(outcome, 0) for outcome in OUTCOMES},
        "pairs": pairs,
        "win_rates": {responder: rate(share) for responder, share in judge.win_rates.items()},
        "hinted": rate(judge.hinted),
        "first_shown": rate(judge.first_shown),
        "first_expected": judge.first_expected,
        "flips": rate(judge.flips),
    }


def rate(share: Rate) -> dict[str, Any]:
    """A share with its two counts and its interval."""
    low, high = share.interval
    return {"count": share.count, "of": share.of, "value": share.value, "interval": [low, high]}


def _plain(row: Any) -> dict[str, Any]:
    return {field: getattr(row, field) for field in row.__slots__}
