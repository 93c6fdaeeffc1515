"""The guard at every door between the pool and training: nothing that says the same as a held-out item gets through.

Where nothing is held out there is nothing to guard, and no embedder is loaded. Where something is, but the pool was
never measured (`espalier personas split` does), items that join are compared word for word and the caller says so;
before anything is read for training the pool is measured.

Invariant: after `guard_training` every item of the store has been compared with what is held out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from agents.models.config import ModelConfig
from simulation.embedders import Embedder, KeptVectors, LexicalEmbedder
from simulation.pool import open_pool_embedder, settle_thresholds
from simulation.splits import Refused, has_held_out, keep_settled, refresh_blocks, refused_items
from trees.errors import SetupError
from trees.personas import Personality, Profile
from trees.pool import KINDS, Block, pool, thresholds, vectors
from trees.store import Store


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a guard found at a door."""

    refused: Sequence[Refused]
    paraphrases: bool
    """Whether paraphrases were looked for, or nothing had to be."""
    measured: bool = True
    """Whether more was compared than the same words."""


async def guard_joining(
    store: Store, items: Sequence[Profile | Personality], configured: Mapping[str, ModelConfig] | None = None
) -> Guarded:
    """Which of these items may not join the training split. Raises SetupError if the embedder cannot be loaded."""
    if not items or not has_held_out(store):
        return Guarded((), True)
    if not thresholds(store):
        return Guarded(await refused_items(store, None, {}, items), False, False)
    embedder = await _opened(store, {item.id for item in items}, configured)
    try:
        settled = await settle_thresholds(store, embedder)
        return Guarded(await refused_items(store, embedder, settled, items), embedder.knows_paraphrases)
    finally:
        await embedder.close()


async def guard_training(store: Store, configured: Mapping[str, ModelConfig] | None = None) -> list[Block]:
    """Bring the blocks up to date before anything is read for training. Raises SetupError as above.

    A pool that was never measured is measured now, by words alone where MiniLM cannot be loaded.
    """
    if not has_held_out(store):
        return []
    embedder = await (_opened(store, set(), configured) if thresholds(store) else _first(store))
    try:
        settled = await settle_thresholds(store, embedder)
        await keep_settled(store, embedder, settled)
        return await refresh_blocks(store, embedder, settled)
    finally:
        await embedder.close()


async def _opened(store: Store, fresh: Collection[str], configured: Mapping[str, ModelConfig] | None) -> Embedder:
    """The pool's embedder; where every item has its vector already, its name is enough."""
    names = {threshold.embedder for threshold in thresholds(store).values()}
    ids = {item.id for item in pool(store)} | set(fresh)
    if (
        names
        and len(thresholds(store)) == len(KINDS)
        and all(len(vectors(store, n, list(ids))) == len(ids) for n in names)
    ):
        return KeptVectors(next(iter(names)))
    return await open_pool_embedder(store, None, configured)


async def _first(store: Store) -> Embedder:
    try:
        return await open_pool_embedder(store, None)
    except SetupError:
        return LexicalEmbedder()
