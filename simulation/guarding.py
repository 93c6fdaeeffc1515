"""The guard at every door between the pool and training: nothing that says the same as a held-out item gets through.

Where nothing is held out there is nothing to guard, and no embedder is loaded. Where something is, but the pool was
never measured (`espalier personas split` does), what is held out is refused word for word and the caller says so.

Invariant: after `guard_training` every item of the store has been compared with what is held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.models.config import ModelConfig
from simulation.pool import open_pool_embedder, settle_thresholds
from simulation.splits import Refused, has_held_out, refresh_blocks, refused_items
from trees.personas import Personality, Profile
from trees.pool import Block, thresholds
from trees.store import Store


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a guard found at a door."""

    refused: Sequence[Refused]
    paraphrases: bool
    """Whether paraphrases were looked for, and not only the same words."""


async def guard_joining(
    store: Store, items: Sequence[Profile | Personality], configured: Mapping[str, ModelConfig] | None = None
) -> Guarded:
    """Which of these items may not join the training split. Raises SetupError if the embedder cannot be loaded."""
    if not has_held_out(store):
        return Guarded((), True)
    if not thresholds(store):
        return Guarded(await refused_items(store, None, {}, items), False)
    embedder = await open_pool_embedder(store, None, configured)
    try:
        settled = await settle_thresholds(store, embedder)
        return Guarded(await refused_items(store, embedder, settled, items), embedder.knows_paraphrases)
    finally:
        await embedder.close()


async def guard_training(store: Store, configured: Mapping[str, ModelConfig] | None = None) -> list[Block]:
    """Bring the blocks up to date before anything is read for training. Raises SetupError as above."""
    if not has_held_out(store) or not thresholds(store):
        return []
    embedder = await open_pool_embedder(store, None, configured)
    try:
        return await refresh_blocks(store, embedder, await settle_thresholds(store, embedder))
    finally:
        await embedder.close()
