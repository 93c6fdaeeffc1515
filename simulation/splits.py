"""Splits: some profiles and personalities are held out, and what says the same as one of them is kept from training.

A persona belongs to a split only if both of its halves do; a persona of one half each is in none. Blocks are rows of
the store (`trees.pool`), found with the pool's embedder at its thresholds, so that every door that reads from the
store obeys them: import, adding, growing, export and training.

Invariant: what is held out stays so; after `refresh_blocks` each item of the training split that is at least as
similar to a held-out one as the guard's threshold has a block.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from simulation.embedders import Embedder, Vectors
from simulation.persona_calibration import recalling
from simulation.pool import Pool, in_range, load_pool, vectors_of
from simulation.similarity import Neighbourhood
from trees.errors import SetupError
from trees.ids import derive_seed
from trees.personas import Kind, Personality, Profile
from trees.pool import (
    KINDS,
    Block,
    PoolItem,
    Threshold,
    drop_blocks,
    hold_out,
    keep_block,
    keep_split,
    keep_threshold,
    pool,
)
from trees.pool import thresholds as kept_thresholds
from trees.store import Store
from trees.writes import Write

Near = Literal["block", "move"]
MOST_TAKEN = 0.25
"""Of what a split leaves, the share that the guard may keep from training to find more paraphrases."""
GUARD_STEPS = 41
"""Thresholds that are tried between the one that finds enough and the one of the filter."""


@dataclass(frozen=True, slots=True)
class SplitDone:
    """What a split came to."""

    id: str
    held_out: Mapping[Kind, int]
    """In all, after it."""
    newly: Mapping[Kind, int]
    blocked: Sequence[Block]
    train: Mapping[Kind, int]
    """What is left to train on."""
    trees: int
    """Stored trees that leave training for it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that may not join the training split."""

    item: Profile | Personality
    held_out_id: str
    similarity: float

    @property
    def verbatim(self) -> bool:
        return self.item.id == self.held_out_id


async def split_pool(
    store: Store,
    embedder: Embedder,
    thresholds: Mapping[Kind, Threshold],
    asked: Mapping[Kind, int],
    seed: int,
    near: Near = "block",
    guards: Mapping[Kind, float | None] | None = None,
) -> SplitDone:
    """Hold out as many of each kind, in all, as asked; block or move what is near. All of it is one transaction.

    `guards` are the guard's thresholds set by hand; None has one chosen anew. Raises SetupError.
    """
    before = training_trees(store)
    newly: dict[Kind, int] = {}
    chosen: list[str] = []
    blocked: list[Block] = []
    writes: list[Write] = []
    used: dict[Kind, Threshold] = {}
    for kind in KINDS:
        there = await load_pool(store, embedder, kind)
        drawn = _drawn(kind, list(there.items.values()), asked.get(kind, 0), seed)
        reach = _Reach.of(there, embedder.name, drawn)
        used[kind] = _with_guard(thresholds[kind], reach, near, guards or {})
        found = reach.taken(used[kind].guarding, near)
        moved = [block.item_id for block in found] if near == "move" else []
        _require_some_left(kind, reach, len(found))
        blocked += found if near == "block" else []
        newly[kind] = len(drawn) + len(moved)
        chosen += drawn
        writes += [*keep_threshold(used[kind]), *hold_out(kind, [*drawn, *moved])]
    how: dict[str, object] = {"near": near}
    how.update({kind: threshold.guarding for kind, threshold in used.items()})
    split_id, row = keep_split(seed, {kind: asked.get(kind, 0) for kind in KINDS}, sorted(chosen), how)
    store.apply([*writes, *row, drop_blocks(), *(keep_block(block) for block in blocked)])
    counts = {kind: _count(store, kind) for kind in KINDS}
    return SplitDone(
        split_id,
        {kind: counts[kind]["held_out"] for kind in KINDS},
        newly,
        blocked,
        {kind: counts[kind]["train"] for kind in KINDS},
        before - training_trees(store),
    )


async def keep_settled(store: Store, embedder: Embedder, settled: Mapping[Kind, Threshold]) -> None:
    """Keep thresholds that are new; by another embedder than before, with what it blocks, in one transaction."""
    stored = kept_thresholds(store)
    changed = any(before.embedder != embedder.name for before in stored.values())
    writes: list[Write] = [drop_blocks()] if changed else []
    for kind, measured in settled.items():
        threshold = measured
        if changed and has_held_out(store):
            reach = _Reach.of(await load_pool(store, embedder, kind), embedder.name, [])
            threshold = _with_guard(measured, reach, "block", {}) if _was_split(store) else measured
            writes += [keep_block(block) for block in reach.taken(threshold.guarding, "block")]
        if threshold != stored.get(kind):
            writes += keep_threshold(threshold)
    store.apply(writes)


def _was_split(store: Store) -> bool:
    """Whether the guard's thresholds were chosen, and not only the filter's measured."""
    return bool(store.rows("SELECT 1 FROM splits LIMIT 1"))


@dataclass(frozen=True)
class _Reach:
    """A pool as a split sees it: what is held out, what is open, and what of that a threshold takes."""

    kind: Kind
    embedder: str
    open_ids: Sequence[str]
    open_rows: Vectors
    held_ids: Sequence[str]
    held_rows: Vectors

    @classmethod
    def of(cls, there: Pool, embedder: str, drawn: Sequence[str]) -> _Reach:
        """With the items drawn counted as held out."""
        taken = set(drawn)
        mask = np.array([i in taken for i in there.open.ids], dtype=bool)
        rows, held = there.open.vectors, there.held_out.vectors
        drawn_ids = [i for i in there.open.ids if i in taken]
        held = np.concatenate([part for part in (held, rows[mask]) if len(part)] or [rows[mask]])
        open_ids = [i for i in there.open.ids if i not in taken]
        return cls(there.kind, embedder, open_ids, rows[~mask], [*there.held_out.ids, *drawn_ids], held)

    def taken(self, guard: float, near: Near) -> list[Block]:
        """What says the same as a held-out item; where it moves, also what says the same as one that moved."""
        held = Neighbourhood()
        if self.held_ids:
            held.add(self.held_ids, self.held_rows)
        left, found = list(range(len(self.open_ids))), []
        while left and len(held):
            nearest = held.nearest(self.open_rows[left])
            close = [(at, one) for at, one in zip(left, nearest, strict=True) if one and one.similarity >= guard]
            found += [Block(self.open_ids[at], self.kind, one.id, one.similarity, self.embedder) for at, one in close]
            if near == "block" or not close:
                break
            gone = {at for at, _ in close}
            left = [at for at in left if at not in gone]
            held = Neighbourhood()
            held.add([self.open_ids[at] for at in sorted(gone)], self.open_rows[sorted(gone)])
        return found


def _with_guard(threshold: Threshold, reach: _Reach, near: Near, guards: Mapping[Kind, float | None]) -> Threshold:
    """The threshold with the guard's own: by hand, as it was set by hand before, or as low as the pool can bear."""
    told = {name: value for name, value in threshold.measured.items() if name != "guard_by"}
    given = guards.get(threshold.kind)
    if given is not None:
        return replace(threshold, guard=in_range(threshold.kind, given), measured={**told, "guard_by": "hand"})
    if threshold.measured.get("guard_by") == "hand" and threshold.kind not in guards:
        return threshold
    return replace(threshold, guard=_guard(threshold, reach, near), measured=told)


def _guard(threshold: Threshold, reach: _Reach, near: Near) -> float | None:
    """As low as finds LEAST_RECALL of the labelled paraphrases, but for what takes more than MOST_TAKEN of the pool."""
    low = recalling(threshold.measured)
    if low is None or low >= threshold.threshold:
        return None
    most = int(MOST_TAKEN * len(reach.open_ids))
    steps = np.linspace(low, threshold.threshold, GUARD_STEPS)
    return next((float(step) for step in steps[:-1] if len(reach.taken(float(step), near)) <= most), None)


def _require_some_left(kind: Kind, reach: _Reach, taken: int) -> None:
    if taken and taken == len(reach.open_ids):
        word = "profiles" if kind == "profile" else "personalities"
        raise SetupError(
            f"all {taken} {word} that are left say the same as a held-out one, so there would be nothing to train on",
            hint=f"Hold out fewer, or set --{kind}-threshold higher.",
        )


def _drawn(kind: Kind, items: Sequence[PoolItem], asked: int, seed: int) -> list[str]:
    """Ids newly held out: a draw that does not depend on the order in which items came."""
    held = sum(item.split == "held_out" for item in items)
    open_ids = sorted(item.id for item in items if item.split != "held_out")
    missing = asked - held
    if missing >= len(open_ids) and missing > 0:
        word = "profiles" if kind == "profile" else "personalities"
        raise SetupError(
            f"{asked} {word} cannot be held out: the pool has {len(items)}, and something has to be left to train on",
            hint="Hold out fewer, or let the pool grow: espalier personas grow.",
        )
    return random.Random(derive_seed(seed, kind, "split", "hold out")).sample(open_ids, max(0, missing))


async def refresh_blocks(store: Store, embedder: Embedder, thresholds: Mapping[Kind, Threshold]) -> list[Block]:
    """Find all blocks anew, in one transaction. Items without a vector get one."""
    found: list[Block] = []
    for kind in KINDS:
        found += _Reach.of(await load_pool(store, embedder, kind), embedder.name, []).taken(
            thresholds[kind].guarding, "block"
        )
    store.apply([drop_blocks(), *(keep_block(block) for block in found)])
    return found


async def refused_items(
    store: Store,
    embedder: Embedder | None,
    thresholds: Mapping[Kind, Threshold],
    items: Sequence[Profile | Personality],
) -> list[Refused]:
    """Which of these may not join the training split. Without an embedder only what is held out word for word."""
    held = {kind: pool(store, kind, "held_out") for kind in KINDS}
    ids = {item.id for kind in KINDS for item in held[kind]}
    refused = [Refused(item, item.id, 1.0) for item in items if item.id in ids]
    if embedder is None:
        return refused
    for kind in KINDS:
        fresh = [item for item in items if kind_of(item) == kind and item.id not in ids]
        if fresh and held[kind]:
            refused += await _near(store, embedder, thresholds[kind], fresh, held[kind])
    return refused


async def _near(
    store: Store,
    embedder: Embedder,
    threshold: Threshold,
    fresh: Sequence[Profile | Personality],
    held: Sequence[PoolItem],
) -> list[Refused]:
    found = await vectors_of(store, embedder, {item.id: item.text for item in [*fresh, *held]})
    alike = np.stack([found[item.id] for item in fresh]) @ np.stack([found[item.id] for item in held]).T
    best = alike.argmax(axis=1)
    return [
        Refused(item, held[at].id, float(alike[row, at]))
        for row, (item, at) in enumerate(zip(fresh, best, strict=True))
        if alike[row, at] >= threshold.guarding
    ]


def kind_of(item: Profile | Personality) -> Kind:
    return "profile" if isinstance(item, Profile) else "personality"


def has_held_out(store: Store) -> bool:
    """Whether anything is held out, so that joining items must be looked at."""
    return bool(store.rows("SELECT 1 FROM pool WHERE split = 'held_out' LIMIT 1"))


def training_trees(store: Store) -> int:
    """Stored trees whose persona is in the training split."""
    return int(store.rows("SELECT count(*) FROM personas WHERE split = 'train'")[0][0])


def _count(store: Store, kind: Kind) -> dict[str, int]:
    counts = {"train": 0, "held_out": 0, "blocked": 0}
    counts.update(dict(store.rows("SELECT split, count(*) FROM pool WHERE kind = ? GROUP BY split", (kind,))))
    return counts
