"""Rounds in the store: playing, training and measuring in turn, step by step.

Rounds are a frozen configuration, and their id is its digest. A round is a few steps in a fixed order; a step is one
command line, done by a process of its own, and its row says what came of it: the run, the training or the benchmark,
which the store describes elsewhere.

Invariant: the process that holds the lock of the rounds is the only one that writes their rows; a step is begun only
when all steps before it are done.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trees.errors import NotFound
from trees.ids import canonical_json, digest_of
from trees.jobs import process_started
from trees.store import Store
from trees.text import escape, unescape
from trees.writes import Write

StepKind = Literal["simulate", "judge", "lint", "sft", "dpo", "benchmark"]
StepState = Literal["running", "done", "stopped", "failed"]
RoundsState = Literal["new", "running", "stopped", "finished", "failed"]
LISTING = "List them with `espalier rounds list`."


@dataclass(frozen=True, slots=True)
class RoundsRow:
    """Rounds as the store describes them."""

    id: str
    name: str
    configuration: dict[str, Any]
    operation: dict[str, Any]
    state: RoundsState
    reason: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step that was begun."""

    round: int
    place: int
    kind: StepKind
    words: tuple[str, ...]
    state: StepState
    reason: str | None
    made: str | None
    figures: dict[str, Any]
    host: str | None
    pid: int | None
    process_started: float | None
    attempts: int
    took_s: float
    began_at: float
    ended_at: float | None

    @property
    def at_work(self) -> bool:
        """Whether the process that was begun for it still exists, on this machine."""
        if self.state != "running" or self.pid is None or self.host != socket.gethostname():
            return False
        return process_started(self.pid) == self.process_started


def rounds_id(configuration: Mapping[str, Any]) -> str:
    return digest_of("rounds", dict(configuration))


# Writes


def keep_rounds(
    rounds: str, name: str, configuration: Mapping[str, Any], operation: Mapping[str, Any], at: float
) -> list[Write]:
    """Rounds by what they are; of those that are there already the half that may change is replaced."""
    sql = (
        "INSERT INTO rounds VALUES (?, ?, ?, ?, 'new', NULL, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET operation = excluded.operation"
    )
    return [(sql, (rounds, escape(name), canonical_json(dict(configuration)), canonical_json(dict(operation)), at, at))]


def set_rounds_state(rounds: str, state: RoundsState, reason: str | None = None) -> list[Write]:
    sql = "UPDATE rounds SET state = ?, reason = ?, updated_at = ? WHERE id = ?"
    return [(sql, (state, None if reason is None else escape(reason), time.time(), rounds))]


def begin_step(rounds: str, round_: int, place: int, kind: StepKind, words: Sequence[str]) -> list[Write]:
    """A step that begins, or is tried again."""
    sql = (
        "INSERT INTO round_steps (rounds_id, round, place, kind, words, state, figures, attempts, took_s, began_at) "
        "VALUES (?, ?, ?, ?, ?, 'running', '{}', 1, 0, ?) ON CONFLICT (rounds_id, round, place) DO UPDATE SET "
        "words = excluded.words, state = 'running', reason = NULL, attempts = attempts + 1, ended_at = NULL, "
        "host = NULL, pid = NULL, process_started = NULL"
    )
    return [(sql, (rounds, round_, place, kind, canonical_json(list(words)), time.time()))]


def set_step_process(rounds: str, round_: int, place: int, pid: int) -> list[Write]:
    """Name the process that is at work on a step."""
    sql = (
        "UPDATE round_steps SET host = ?, pid = ?, process_started = ? WHERE rounds_id = ? AND round = ? AND place = ?"
    )
    return [(sql, (socket.gethostname(), pid, process_started(pid) or 0.0, rounds, round_, place))]


def set_step_made(rounds: str, round_: int, place: int, made: str) -> list[Write]:
    """Name the run or training that a step's process is at work on."""
    sql = "UPDATE round_steps SET made = ? WHERE rounds_id = ? AND round = ? AND place = ?"
    return [(sql, (made, rounds, round_, place))]


def end_step(
    rounds: str,
    round_: int,
    place: int,
    state: StepState,
    *,
    took_s: float,
    made: str | None = None,
    figures: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> list[Write]:
    """How a step ended, and what came of it. What is known of the thing it made stays unless it is named anew."""
    sql = (
        "UPDATE round_steps SET state = ?, reason = ?, made = coalesce(?, made), figures = ?, took_s = took_s + ?, "
        "ended_at = ? WHERE rounds_id = ? AND round = ? AND place = ?"
    )
    said = None if reason is None else escape(reason)
    values = (state, said, made, canonical_json(dict(figures or {})), took_s, time.time(), rounds, round_, place)
    return [(sql, values)]


# Reads


def rounds_row(store: Store, rounds: str) -> RoundsRow:
    """Rounds, by their whole id. Raises NotFound."""
    found = _rows(store, "WHERE id = ?", (rounds,))
    if not found:
        raise NotFound(f"no rounds {rounds} in {store.path}", hint=LISTING)
    return found[0]


def all_rounds(store: Store) -> list[RoundsRow]:
    """All rounds, the latest first."""
    return _rows(store, "ORDER BY created_at DESC, id", ())


def find_rounds(store: Store, prefix: str | None) -> RoundsRow:
    """The rounds that an id begins or that have this name; those worked on last if none are named. Raises NotFound."""
    if prefix is None:
        found = _rows(store, "ORDER BY updated_at DESC, id LIMIT 1", ())
        hint = "Begin: espalier rounds init rounds.toml, then espalier rounds rounds.toml."
        what = f"no rounds in {store.path}"
    else:
        wanted = prefix.strip().lower()
        by_id = _rows(store, "WHERE id >= ? AND id < ?", (wanted, wanted + "g")) if wanted else []
        found = by_id or _rows(store, "WHERE name = ? ORDER BY updated_at DESC LIMIT 1", (escape(prefix),))
        what, hint = f"no rounds {prefix!r} in {store.path}", LISTING
    if len(found) > 1:
        ids = ", ".join(row.id[:12] for row in found)
        raise NotFound(f"several rounds begin with {prefix!r}: {ids}", hint="Give more of the id.")
    if not found:
        raise NotFound(what, hint=hint)
    return found[0]


def steps(store: Store, rounds: str) -> list[StepRow]:
    """The steps that were begun, in order."""
    columns = (
        "round, place, kind, words, state, reason, made, figures, host, pid, process_started, attempts, took_s, "
        "began_at, ended_at"
    )
    sql = f"SELECT {columns} FROM round_steps WHERE rounds_id = ? ORDER BY round, place"
    return [
        StepRow(
            *(*r[:3], tuple(json.loads(r[3])), r[4], None if r[5] is None else unescape(r[5]), r[6]),
            *(json.loads(r[7]), *r[8:]),
        )
        for r in store.rows(sql, (rounds,))
    ]


def _rows(store: Store, where: str, values: Sequence[object]) -> list[RoundsRow]:
    columns = "id, name, configuration, operation, state, reason, created_at, updated_at"
    return [
        RoundsRow(
            *(r[0], unescape(r[1]), json.loads(r[2]), json.loads(r[3]), r[4]),
            *(None if r[5] is None else unescape(r[5]), *r[6:]),
        )
        for r in store.rows(f"SELECT {columns} FROM rounds {where}", values)
    ]
