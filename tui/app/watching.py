"""A run that is watched: its figures as they were last read, what can be told from two readings, and the time left.

Readings are events; the state is what they add up to. Rates are differences of two readings, so they are what the
store really grew by, whoever else wrote to it.

Invariant: bounded. `KEPT` readings of a few numbers are remembered, however long a run is watched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from trees.jobs import Event, lock_of
from trees.store import Store
from tui.app.standing import RunLine, run_line
from tui.facts import model_facts, progress_facts, run_facts

KEPT = 90
"""Readings that rates are told from: a minute and a half at one a second."""
WINDOW_S = 10.0
"""Over how long a rate is meant."""
ENOUGH_TURNS = 5
"""Before so many turns were seen, no time left is guessed."""
EVENTS = 200
"""Latest events that are shown."""


@dataclass(frozen=True, slots=True)
class Read:
    """The figures that change while a run is played."""

    at: float
    line: RunLine
    facts: Mapping[str, Any]
    models: tuple[Mapping[str, Any], ...]
    roles: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]
    events: tuple[Event, ...]
    socket: str | None


@dataclass(frozen=True, slots=True)
class ReadJudges:
    """What judges said so far: slower to find out, so it is read less often."""

    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is remembered of a reading."""

    at: float
    turns: int
    tokens: Mapping[str, int]
    """Tokens written by role and model."""


@dataclass(frozen=True, slots=True)
class Watching:
    """Everything that Monitor shows of one run."""

    run_id: str
    read: Read | None = None
    judges: Mapping[str, Any] | None = None
    readings: tuple[Reading, ...] = field(default=())


def reduce(watching: Watching, event: Read | ReadJudges) -> Watching:
    """The state after a reading. One of another run is passed over."""
    if isinstance(event, ReadJudges):
        return replace(watching, judges=event.facts) if event.facts["run"]["id"] == watching.run_id else watching
    if event.line.id != watching.run_id:
        return watching
    tokens = {_key(row): int(row["tokens_out"]) for row in event.roles}
    reading = Reading(event.at, event.line.turns, tokens)
    return replace(watching, read=event, readings=(*watching.readings, reading)[-KEPT:])


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['role']} {row['model']}"


def rate_of(watching: Watching, row: Mapping[str, Any]) -> float:
    """Tokens a second that a role wrote lately."""
    if not watching.readings:
        return 0.0
    last = watching.readings[-1]
    first = next((r for r in watching.readings if last.at - r.at <= WINDOW_S), last)
    return _written(_key(row), first, last)


def trend_of(watching: Watching, row: Mapping[str, Any], width: int) -> list[float]:
    """The rates between the latest readings, oldest first, as many as `width`."""
    key, recent = _key(row), watching.readings[-width - 1 :]
    return [_written(key, before, after) for before, after in pairwise(recent)]


def _written(key: str, before: Reading, after: Reading) -> float:
    """Tokens a second between two readings."""
    seconds = after.at - before.at
    return (after.tokens.get(key, 0) - before.tokens.get(key, 0)) / seconds if seconds > 0 else 0.0


def spark(values: list[float], *, plain: bool) -> str:
    """Values as a row of bars, the highest full."""
    bars = " .:-=+*#" if plain else " ▁▂▃▄▅▆▇█"
    top = max(values, default=0.0)
    return "".join(bars[round(max(value, 0.0) / top * (len(bars) - 1))] if top > 0 else bars[0] for value in values)


def time_left(watching: Watching) -> tuple[float, float] | None:
    """Seconds until the run is done, as a range; None while too little was seen.

    The two ends are the pace since the run is watched and that of the last third of it, ten percent wider.
    """
    readings, read = watching.readings, watching.read
    if read is None or not read.line.turns_planned or len(readings) < 2:
        return None
    owed = max(read.line.turns_planned - read.line.turns, 0)
    first, last = readings[0], readings[-1]
    late = next(r for r in readings if r.at >= last.at - (last.at - first.at) / 3)
    if last.turns - first.turns < ENOUGH_TURNS:
        return None
    paces = [_pace(first, last), _pace(late, last)]
    known = [pace for pace in paces if pace > 0]
    return (owed / max(known) * 0.9, owed / min(known) * 1.1) if known else None


def _pace(first: Reading, last: Reading) -> float:
    """Turns a second between two readings."""
    return (last.turns - first.turns) / (last.at - first.at) if last.at > first.at else 0.0


# Reading


def read_run(store: Store, run_id: str, now: float) -> Read:
    """One reading. Raises NotFound."""
    from trees.statistics import failures_by_cause, usage

    run = store.run(run_id)
    lock = lock_of(store, run_id)
    return Read(
        now,
        run_line(store, run, now),
        progress_facts(store, run),
        tuple(model_facts(store, run)),
        tuple(_plain(row) for row in usage(store, run_id)),
        tuple(_plain(row) for row in failures_by_cause(store, run_id)),
        tuple(latest_events(store, run_id)),
        lock.socket if lock is not None and lock.alive else None,
    )


def latest_events(store: Store, run_id: str) -> list[Event]:
    """A run's latest events, oldest first."""
    import json

    sql = "SELECT seq, job_id, kind, data, at FROM events WHERE job_id = ? ORDER BY seq DESC LIMIT ?"
    rows = store.rows(sql, (run_id, EVENTS))
    return [Event(seq, job, kind, json.loads(data), at) for seq, job, kind, data, at in reversed(rows)]


def read_judges(store: Store, run_id: str) -> ReadJudges:
    """What judges said so far. Raises NotFound."""
    return ReadJudges(run_facts(store, store.run(run_id)))


def _plain(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def in_words(event: Event) -> str:
    """An event in a line."""
    data = event.data
    match event.kind:
        case "run.planned":
            return f"planned: {data.get('trees')} trees of {data.get('turns')} turns"
        case "benchmark.configured":
            return f"measured for the benchmark {data.get('name')!r}"
        case "engine.started":
            return f"an engine began, pid {data.get('pid')}"
        case "engine.left":
            return f"the engine left: {data.get('state')} {data.get('reason') or ''}".rstrip()
        case "trees.let_in":
            return f"trees at once: {data.get('was')} to {data.get('in_flight')}"
        case "permits.changed":
            return f"{data.get('model')}: calls at once {data.get('was')} to {data.get('limit')}"
        case "judge.left_out":
            return f"judge {data.get('judge')} is left out: {data.get('why')}"
        case "command":
            return f"{data.get('verb')} {data.get('args') or ''} by {data.get('asked_by')}"
    return f"{event.kind} {data}"
