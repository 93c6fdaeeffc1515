"""How runs stand, for lists and for the one pill that says it: from the store's rows and the clock alone.

Invariant: exactly one word at a time, and it never rests on colour: every word has a sign beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trees.jobs import Lock, lock_of
from trees.store import RunRow, Store
from tui.facts import turns_of

Word = Literal["new", "warming", "running", "paused", "late", "crashed", "stopped", "done", "failed"]

LATE_S = 10.0
"""An engine not heard of for longer than this many seconds is late."""

SIGNS: dict[Word, tuple[str, str, str]] = {
    "new": ("○", "o", "muted"),
    "warming": ("◌", "~", "accent"),
    "running": ("●", "*", "good"),
    "paused": ("‖", "=", "warn"),
    "late": ("◐", "?", "warn"),
    "crashed": ("✗", "x", "bad"),
    "stopped": ("■", "#", "warn"),
    "done": ("✓", "+", "good"),
    "failed": ("✗", "x", "bad"),
}
"""Per word: its sign, the sign in ASCII, its tone (see `tui.app.content`)."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run as Home lists it."""

    id: str
    name: str
    kind: str
    word: Word
    reason: str | None
    trees: int
    done: int
    failed: int
    turns: int
    turns_planned: int
    updated_at: float
    pid: int | None
    """Of its engine, if one is at work."""
    read_at: float = field(compare=False)
    """When it was read; how a run stands does not differ by it."""

    @property
    def live(self) -> bool:
        return self.pid is not None

    @property
    def share(self) -> float:
        """How much of what is planned is stored; 1 where nothing was planned."""
        return min(self.turns / self.turns_planned, 1.0) if self.turns_planned else 1.0


def word_of(run: RunRow, lock: Lock | None, now: float) -> Word:
    """The one word for a run."""
    if lock is not None and lock.alive:
        if now - lock.heartbeat_at > LATE_S:
            return "late"
        if run.state == "paused":
            return "paused"
        return "running" if run.state == "running" else "warming"
    if run.state in ("running", "paused") or lock is not None:
        return "crashed"
    words: dict[str, Word] = {"finished": "done", "failed": "failed", "new": "new"}
    return words.get(run.state, "stopped")


def run_line(store: Store, run: RunRow, now: float) -> RunLine:
    """One run as it stands."""
    lock = lock_of(store, run.id)
    sql = "SELECT count(*), total(state = 'done'), total(state = 'failed'), total(turns) FROM trees WHERE run_id = ?"
    trees, done, failed, turns = store.rows(sql, (run.id,))[0]
    return RunLine(
        id=run.id,
        name=run.name,
        kind=run.kind,
        word=word_of(run, lock, now),
        reason=run.reason,
        trees=trees,
        done=int(done),
        failed=int(failed),
        turns=int(turns),
        turns_planned=trees * turns_of(run),
        updated_at=run.updated_at,
        pid=lock.pid if lock is not None and lock.alive else None,
        read_at=now,
    )


def run_lines(store: Store, now: float) -> list[RunLine]:
    """All runs, those with an engine first, then the latest."""
    lines = [run_line(store, run, now) for run in store.runs()]
    return sorted(lines, key=lambda line: (not line.live, -line.updated_at, line.id))


def next_step(line: RunLine) -> str:
    """What a person may want to do with a run now."""
    match line.word:
        case "running" | "warming" | "late":
            return "enter watches it"
        case "paused":
            return "enter, then space goes on"
        case "crashed":
            return f"R resumes: {line.done} of {line.trees} trees are kept"
        case "stopped" | "new":
            return "R goes on with it"
        case "failed":
            return "R asks again what failed"
        case "done":
            return "R asks again what failed" if line.failed else "enter reads its trees"


def ago(seconds: float) -> str:
    """How long ago, in one unit: 12 s, 3 min, 5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
