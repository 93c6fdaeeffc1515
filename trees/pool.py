"""The pool of personas in the store: how it grew, vectors, thresholds, splits, blocks and recorded draws.

A growing is a job, like a run: identity, seed, and generations that are each committed whole, with every candidate
and what became of it. An item's vectors are kept under the embedder's name. A block says that an item of the training
split tells the same as a held-out one; the view `pool` shows it as `blocked`.

Invariant: a generation's candidates, the items it added to the pool and their vectors are one transaction; the pool
has one embedder at a time, the one its thresholds name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trees.ids import canonical_json, digest_of
from trees.personas import Kind, Personality, Profile
from trees.store import Store
from trees.text import escape, unescape
from trees.values import Call
from trees.writes import Write, keep_answer, keep_personality, keep_profile

KINDS: tuple[Kind, ...] = ("profile", "personality")
GrowingState = Literal["new", "running", "stopped", "finished", "failed"]
PoolSplit = Literal["train", "held_out", "blocked"]
Item = Profile | Personality


@dataclass(frozen=True, slots=True)
class PoolItem:
    """A profile or a personality as it stands in the pool."""

    id: str
    kind: Kind
    text: str
    pronouns: str
    split: PoolSplit
    source: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item that was proposed, and what became of it."""

    kind: Kind
    generation: int
    number: int
    """The call within its generation, from 0."""
    place: int
    """The item within its answer, from 0."""
    text: str
    """As proposed; of a broken item what could be made out."""
    model: str
    call_id: str | None
    reason: str | None
    """Why it was rejected; None if it was kept."""
    detail: str = ""
    nearest_id: str | None = None
    similarity: float | None = None

    @property
    def item_id(self) -> str:
        return digest_of(self.kind, self.text)


@dataclass(frozen=True, slots=True)
class Generation:
    """One round of calls over the same pool."""

    kind: Kind
    generation: int
    asked: int
    failed: int
    candidates: int
    kept: int
    lacking: tuple[str, ...]
    cause: str | None


@dataclass(frozen=True, slots=True)
class GrowingRow:
    """A growing as the store describes it."""

    id: str
    seed: int
    identity: dict[str, Any]
    operation: dict[str, Any]
    base: dict[str, list[str]]
    state: GrowingState
    reason: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """From which similarity on two items of a kind say the same, for one embedder."""

    kind: Kind
    embedder: str
    threshold: float
    measured: Mapping[str, Any]
    """Precision, recall and the pairs they come from; `{"by": "hand"}` if it was set."""
    guard: float | None = None
    """From where on the guard of held-out items takes two for one; None: from `threshold` on."""
    choice: Mapping[str, Any] | None = None
    """How the embedder is opened again; None where it was kept before that was known."""

    @property
    def guarding(self) -> float:
        return self.threshold if self.guard is None else self.guard


@dataclass(frozen=True, slots=True)
class Block:
    """An item of the training split that says the same as a held-out one."""

    item_id: str
    kind: Kind
    held_out_id: str
    similarity: float
    embedder: str


@dataclass(frozen=True, slots=True)
class GrowingUse:
    """Why a growing made a call, and what its prompt was given."""

    growing_id: str
    place: str
    purpose: str
    prompt_id: str
    tail: Mapping[str, object]


# Reading


def pool(store: Store, kind: Kind | None = None, split: PoolSplit | None = None) -> list[PoolItem]:
    """The items of the pool, in the order in which they came."""
    sql = (
        "SELECT id, kind, text, pronouns, split, source FROM pool "
        "WHERE kind = coalesce(?, kind) AND split = coalesce(?, split) ORDER BY kind DESC, added_at, id"
    )
    return [PoolItem(r[0], r[1], unescape(r[2]), r[3], r[4], unescape(r[5])) for r in store.rows(sql, (kind, split))]


def growings(store: Store) -> list[GrowingRow]:
    """All growings, the one worked on last first."""
    columns = "id, seed, identity, operation, base, state, reason, created_at, updated_at"
    rows = store.rows(f"SELECT {columns} FROM growings ORDER BY updated_at DESC, id")
    return [
        GrowingRow(*(*r[:2], *map(json.loads, r[2:5]), r[5], unescape(r[6]) if r[6] else None, *r[7:9])) for r in rows
    ]


def growing(store: Store, growing_id: str) -> GrowingRow | None:
    return next((row for row in growings(store) if row.id == growing_id), None)


def generations(store: Store, growing_id: str) -> list[Generation]:
    """A growing's generations, profiles first, in order."""
    sql = (
        "SELECT kind, generation, asked, failed, candidates, kept, lacking, cause FROM generations "
        "WHERE growing_id = ? ORDER BY kind DESC, generation"
    )
    return [
        Generation(*(*r[:6], tuple(json.loads(r[6])), unescape(r[7]) if r[7] else None))
        for r in store.rows(sql, (growing_id,))
    ]


def candidates(store: Store, growing_id: str, kind: Kind | None = None) -> list[Candidate]:
    """A growing's candidates in the order in which they were weighed."""
    sql = (
        "SELECT kind, generation, number, place, text, model, call_id, reason, detail, nearest_id, similarity "
        "FROM candidates WHERE growing_id = ? AND kind = coalesce(?, kind) "
        "ORDER BY kind DESC, generation, number, place"
    )
    return [
        Candidate(*(*r[:4], unescape(r[4]), *r[5:8], unescape(r[8]), *r[9:11]))
        for r in store.rows(sql, (growing_id, kind))
    ]


def rejections(store: Store, growing_id: str) -> dict[Kind, dict[str, int]]:
    """How many candidates were rejected for which reason; those kept under `kept`."""
    sql = (
        "SELECT kind, coalesce(reason, 'kept'), count(*) FROM candidates WHERE growing_id = ? "
        "GROUP BY 1, 2 ORDER BY 3 DESC, 2"
    )
    counts: dict[Kind, dict[str, int]] = {kind: {} for kind in KINDS}
    for kind, reason, count in store.rows(sql, (growing_id,)):
        counts[kind][reason] = count
    return counts


def grown_ids(store: Store) -> set[str]:
    """Ids of all items of the pool that a growing added."""
    return {r[0] for r in store.rows("SELECT DISTINCT item_id FROM candidates WHERE reason IS NULL")}


def vectors(store: Store, embedder: str, ids: Sequence[str]) -> dict[str, bytes]:
    """The vectors that are kept of these items, as float32 bytes."""
    sql = "SELECT item_id, vector FROM vectors WHERE embedder = ? AND item_id IN (SELECT value FROM json_each(?))"
    return dict(store.rows(sql, (embedder, canonical_json(list(ids)))))


def thresholds(store: Store) -> dict[Kind, Threshold]:
    """The pool's thresholds by kind; empty before anything was compared."""
    rows = store.rows("SELECT kind, embedder, threshold, measured, guard, choice FROM thresholds")
    return {r[0]: Threshold(r[0], r[1], r[2], json.loads(r[3]), r[4], json.loads(r[5]) if r[5] else None) for r in rows}


def blocks(store: Store) -> list[Block]:
    """The items that say the same as a held-out one."""
    rows = store.rows("SELECT item_id, kind, held_out_id, similarity, embedder FROM blocks ORDER BY kind, item_id")
    return [Block(*r) for r in rows]


# Writing


def keep_growing(row: GrowingRow) -> list[Write]:
    sql = (
        "INSERT INTO growings (id, seed, identity, operation, base, state, reason, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, 'new', NULL, ?, ?) ON CONFLICT DO NOTHING"
    )
    told = (canonical_json(row.identity), canonical_json(row.operation), canonical_json(row.base))
    now = time.time()
    return [(sql, (row.id, row.seed, *told, now, now))]


def set_growing_state(growing_id: str, state: GrowingState, reason: str | None = None) -> list[Write]:
    sql = "UPDATE growings SET state = ?, reason = ?, updated_at = ? WHERE id = ?"
    return [(sql, (state, escape(reason) if reason else None, time.time(), growing_id))]


def set_growing_operation(growing_id: str, operation: Mapping[str, object]) -> list[Write]:
    """Replace the sizes and budgets of a growing."""
    sql = "UPDATE growings SET operation = ?, updated_at = ? WHERE id = ?"
    return [(sql, (canonical_json(dict(operation)), time.time(), growing_id))]


def keep_growing_call(call: Call, use: GrowingUse) -> list[Write]:
    """A call's answer and why a growing asked for it."""
    return [*keep_answer(call), *keep_growing_use(call.id, use)]


def keep_growing_use(call_id: str, use: GrowingUse) -> list[Write]:
    sql = (
        "INSERT INTO growing_uses (growing_id, place, purpose, call_id, prompt_id, tail) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING"
    )
    tail = canonical_json(dict(use.tail))
    return [(sql, (use.growing_id, use.place, use.purpose, call_id, use.prompt_id, tail))]


def keep_generation(growing_id: str, done: Generation, weighed: Sequence[Candidate]) -> list[Write]:
    """A generation with its candidates; what it adds to the pool is kept beside, by `keep_item`."""
    sql = (
        "INSERT INTO generations (growing_id, kind, generation, asked, failed, candidates, kept, lacking, cause, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    counts = (done.asked, done.failed, done.candidates, done.kept)
    cause = None if done.cause is None else escape(done.cause)
    row = (growing_id, done.kind, done.generation, *counts, canonical_json(list(done.lacking)), cause, time.time())
    return [(sql, row), *(_keep_candidate(growing_id, candidate) for candidate in weighed)]


def _keep_candidate(growing_id: str, candidate: Candidate) -> Write:
    sql = (
        "INSERT INTO candidates (growing_id, kind, generation, number, place, item_id, text, model, call_id, reason, "
        "detail, nearest_id, similarity) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    where = (candidate.kind, candidate.generation, candidate.number, candidate.place)
    came = (candidate.item_id, escape(candidate.text), candidate.model, candidate.call_id)
    became = (candidate.reason, escape(candidate.detail), candidate.nearest_id, candidate.similarity)
    return (sql, (growing_id, *where, *came, *became))


def keep_item(item: Item, *, source: str, split: str = "train") -> list[Write]:
    """A profile or a personality; one that is there already stays as it is."""
    if isinstance(item, Profile):
        return keep_profile(item, source=source, split=split)
    return keep_personality(item, source=source, split=split)


def keep_vector(embedder: str, item_id: str, vector: bytes) -> Write:
    sql = "INSERT INTO vectors (embedder, item_id, vector) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    return (sql, (embedder, item_id, vector))


def keep_threshold(threshold: Threshold) -> list[Write]:
    """Set a kind's threshold. With another embedder than before, the caller replaces those of both kinds."""
    sql = (
        "INSERT OR REPLACE INTO thresholds (kind, embedder, threshold, measured, guard, choice, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    measured = canonical_json(dict(threshold.measured))
    choice = None if threshold.choice is None else canonical_json(dict(threshold.choice))
    what = (threshold.kind, threshold.embedder, threshold.threshold)
    return [(sql, (*what, measured, threshold.guard, choice, time.time()))]


def hold_out(kind: Kind, ids: Sequence[str]) -> list[Write]:
    """Move items to the held-out split."""
    table = "profiles" if kind == "profile" else "personalities"
    return [(f"UPDATE {table} SET split = 'held_out' WHERE id = ?", (item,)) for item in ids]


def keep_split(
    seed: int, asked: Mapping[str, int], held_out: Sequence[str], near: Mapping[str, object]
) -> tuple[str, list[Write]]:
    """The id of a split and its row."""
    split_id = digest_of("split", seed, dict(asked), list(held_out), dict(near))
    sql = "INSERT INTO splits (id, seed, asked, held_out, near, at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    told = (canonical_json(dict(asked)), canonical_json(list(held_out)), canonical_json(dict(near)))
    return split_id, [(sql, (split_id, seed, *told, time.time()))]


def keep_block(block: Block) -> Write:
    sql = (
        "INSERT OR REPLACE INTO blocks (item_id, kind, held_out_id, similarity, embedder, at) VALUES (?, ?, ?, ?, ?, ?)"
    )
    return (sql, (block.item_id, block.kind, block.held_out_id, block.similarity, block.embedder, time.time()))


def drop_blocks() -> Write:
    """Forget all blocks, to find them anew."""
    return ("DELETE FROM blocks", ())


def keep_draw(seed: int, split: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, list[Write]]:
    """The id of a recorded draw of (profile, personality) and its rows."""
    draw_id = digest_of("draw", seed, split, [list(pair) for pair in pairs])
    head = "INSERT INTO draws (id, seed, count, split, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    row = (
        "INSERT INTO draw_pairs (draw_id, position, profile_id, personality_id) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING"
    )
    writes: list[Write] = [(head, (draw_id, seed, len(pairs), split, time.time()))]
    writes += [(row, (draw_id, position, *pair)) for position, pair in enumerate(pairs)]
    return draw_id, writes
