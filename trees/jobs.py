"""Long jobs: who is at work, what they are told, what happened. The same for runs, trainings and persona growing.

A job has at most one engine: the process named in its lock row, by host, pid and the start time of that process, so
that a reused pid is not mistaken for it. The engine renews its heartbeat. Anybody may ask for something by a command
row; the engine takes it, and answers in the same row. Events tell what happened, in order.

Invariant: a lock is taken in one transaction, and only from nobody or from a process that no longer exists.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trees.errors import Locked
from trees.ids import canonical_json
from trees.store import Store
from trees.text import escape, unescape
from trees.writes import Write

HEARTBEAT_S = 2.0
"""How often an engine renews its lock, in seconds."""
LATE_S = 30.0
"""A heartbeat older than this from another host, which cannot be asked, counts as late."""


_STEERING = {"training": "train pause|stop", "rounds": "rounds stop"}
"""The commands that steer a kind of job, where they are not the plain ones."""


@dataclass(frozen=True, slots=True)
class Lock:
    """Who is the engine of a job."""

    job_id: str
    kind: str
    host: str
    pid: int
    process_started: float
    taken_at: float
    heartbeat_at: float
    socket: str | None

    @property
    def alive(self) -> bool:
        """Whether that very process still exists; on another host, whether its heartbeat is recent."""
        if self.host != socket.gethostname():
            return time.time() - self.heartbeat_at < LATE_S
        return process_started(self.pid) == self.process_started


@dataclass(frozen=True, slots=True)
class Command:
    """Something a person asked of a job."""

    id: int
    job_id: str
    verb: str
    args: dict[str, Any]
    asked_by: str
    state: str
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    seq: int
    job_id: str
    kind: str
    data: dict[str, Any]
    at: float


def process_started(pid: int) -> float | None:
    """When the process with this pid started, in the kernel's clock ticks since boot; None if there is none.

    Where there is no /proc, the answer is 0.0 for a process that exists, so that only the pid is compared.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            after_name = stat.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") or not _exists(pid) else 0.0
    except ProcessLookupError:
        return None
    return None if after_name[0] in (b"Z", b"X") else float(after_name[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def whoami() -> str:
    """Who asks, for commands and operations: this process."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


def lock_of(store: Store, job_id: str) -> Lock | None:
    """The job's lock, alive or not."""
    columns = "job_id, kind, host, pid, process_started, taken_at, heartbeat_at, socket"
    rows = store.rows(f"SELECT {columns} FROM locks WHERE job_id = ?", (job_id,))
    return Lock(*rows[0]) if rows else None


def live_engine(store: Store, job_id: str) -> Lock | None:
    """The job's lock if its engine is alive."""
    lock = lock_of(store, job_id)
    return lock if lock is not None and lock.alive else None


def take_lock(store: Store, job_id: str, kind: str, socket_path: str | None = None) -> Lock:
    """Become the job's engine. Raises Locked with the pid of the one that is; a dead one's lock is taken over."""
    pid, now = os.getpid(), time.time()
    mine = Lock(job_id, kind, socket.gethostname(), pid, process_started(pid) or 0.0, now, now, socket_path)
    with store.transaction():
        held = lock_of(store, job_id)
        if held is not None and held.alive and (held.pid, held.host) != (mine.pid, mine.host):
            raise Locked(
                f"{kind} {job_id[:8]} has an engine already: pid {held.pid} on {held.host}",
                hint=f"Steer it with `espalier {_STEERING.get(kind, 'pause|stop')} {job_id[:8]}`, or wait for it.",
            )
        store.connection.execute(
            "INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (job_id, kind, mine.host, mine.pid, mine.process_started, now, now, socket_path),
        )
    return mine


def heartbeat(lock: Lock) -> list[Write]:
    """Renew a lock."""
    return [("UPDATE locks SET heartbeat_at = ? WHERE job_id = ? AND pid = ?", (time.time(), lock.job_id, lock.pid))]


def release(lock: Lock) -> list[Write]:
    """Give a lock back."""
    sql = "DELETE FROM locks WHERE job_id = ? AND pid = ? AND process_started = ?"
    return [(sql, (lock.job_id, lock.pid, lock.process_started))]


def ask(store: Store, job_id: str, verb: str, args: Mapping[str, object]) -> int:
    """Leave a command for the job's engine; returns its number."""
    sql = "INSERT INTO commands (job_id, verb, args, asked_by, asked_at) VALUES (?, ?, ?, ?, ?)"
    with store.transaction():
        row = (job_id, verb, canonical_json(dict(args)), escape(whoami()), time.time())
        number = store.connection.execute(sql, row).lastrowid
    assert number is not None
    return number


def commands(store: Store, job_id: str, *, state: str = "asked") -> list[Command]:
    """A job's commands in one state, oldest first."""
    return _commands(store, "job_id = ? AND state = ?", (job_id, state))


def command(store: Store, number: int) -> Command:
    """One command. Raises IndexError if there is none of this number."""
    return _commands(store, "id = ?", (number,))[0]


def _commands(store: Store, where: str, values: tuple[object, ...]) -> list[Command]:
    columns = "id, job_id, verb, args, asked_by, state, result"
    rows = store.rows(f"SELECT {columns} FROM commands WHERE {where} ORDER BY id", values)
    return [
        Command(r[0], r[1], r[2], json.loads(r[3]), unescape(r[4]), r[5], json.loads(r[6]) if r[6] else None)
        for r in rows
    ]


def take(number: int) -> list[Write]:
    """Note that the engine has begun with a command."""
    return [("UPDATE commands SET state = 'taken' WHERE id = ?", (number,))]


def settle_old(lock: Lock) -> list[Write]:
    """As an engine begins: commands that an earlier one was cut off from doing are refused, and so is steering that was
    meant for an engine which had left. Everything else that was asked still waits to be done.
    """
    cut_off = canonical_json({"error": "the engine ended before it was done: ask again"})
    too_late = canonical_json({"error": "the engine that it was meant for had left"})
    sql = "UPDATE commands SET state = 'refused', result = ?, done_at = ? WHERE job_id = ? AND "
    now = time.time()
    return [
        (f"{sql} state = 'taken'", (cut_off, now, lock.job_id)),
        (
            f"{sql} state = 'asked' AND verb IN ('stop', 'pause', 'resume') AND asked_at < ?",
            (too_late, now, lock.job_id, lock.taken_at),
        ),
    ]


def answer(number: int, result: Mapping[str, object], *, refused: bool = False) -> list[Write]:
    """Answer a command."""
    sql = "UPDATE commands SET state = ?, result = ?, done_at = ? WHERE id = ?"
    return [(sql, ("refused" if refused else "done", canonical_json(dict(result)), time.time(), number))]


def events(store: Store, job_id: str, *, after: int = 0, limit: int = 500) -> list[Event]:
    """A job's events after a sequence number, oldest first."""
    sql = "SELECT seq, job_id, kind, data, at FROM events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?"
    return [Event(r[0], r[1], r[2], json.loads(r[3]), r[4]) for r in store.rows(sql, (job_id, after, limit))]
