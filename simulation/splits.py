"""Splits: some profiles and personalities are held out, and what says the same as one of them is kept from training.

A persona belongs to a split only if both of its halves do; a persona of one half each is in none. Blocks are rows of
the store (`trees.pool`), found with the pool's embedder at its thresholds, so that every door that reads from the
store obeys them: import, adding, growing, export and training.

Invariant: what is held out stays so; after `refresh_blocks` each item of the training split that is at least as
similar to a held-out one as the threshold has a block.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulation.embedders import Embedder
from simulation.pool import Pool, load_pool, vectors_of
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
    pool,
)
from trees.store import Store

Near = Literal["block", "move"]


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
) -> SplitDone:
    """Hold out as many of each kind, in all, as asked; block or move what is near. Raises SetupError."""
    before = training_trees(store)
    newly: dict[Kind, int] = {}
    chosen: list[str] = []
    writes = []
    for kind in KINDS:
        items = pool(store, kind)
        drawn = _drawn(kind, items, asked.get(kind, 0), seed)
        newly[kind] = len(drawn)
        chosen += drawn
        writes += hold_out(kind, drawn)
    how: dict[str, object] = {"near": near}
    how.update({kind: threshold.threshold for kind, threshold in thresholds.items()})
    split_id, row = keep_split(seed, {kind: asked.get(kind, 0) for kind in KINDS}, sorted(chosen), how)
    store.apply([*writes, *row])
    blocked = await refresh_blocks(store, embedder, thresholds)
    while near == "move" and blocked:
        # What is moved may be near to others in its turn.
        store.apply([write for block in blocked for write in hold_out(block.kind, [block.item_id])])
        for block in blocked:
            newly[block.kind] += 1
        blocked = await refresh_blocks(store, embedder, thresholds)
    counts = {kind: _count(store, kind) for kind in KINDS}
    return SplitDone(
        split_id,
        {kind: counts[kind]["held_out"] for kind in KINDS},
        newly,
        blocked,
        {kind: counts[kind]["train"] for kind in KINDS},
        before - training_trees(store),
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
        found += _near_held_out(await load_pool(store, embedder, kind), thresholds[kind])
    store.apply([drop_blocks(), *(keep_block(block) for block in found)])
    return found


def _near_held_out(there: Pool, threshold: Threshold) -> list[Block]:
    if not len(there.held_out) or not len(there.open):
        return []
    nearest = there.held_out.nearest(there.open.vectors)
    return [
        Block(item, there.kind, near.id, near.similarity, threshold.embedder)
        for item, near in zip(there.open.ids, nearest, strict=True)
        if near is not None and near.similarity >= threshold.threshold
    ]


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
        if alike[row, at] >= threshold.threshold
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
