"""The pool of one kind in memory: its items with their vectors, ready to be compared with.

Vectors are computed once, in batches, and kept in the store under the embedder's name; a pool whose thresholds name
another embedder is refused, since similarities of two embedders cannot be compared.

Invariant: every item of the pool has a vector here, and one in the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.models.config import ModelConfig
from agents.models.sentences import SHIPPED
from simulation.embedders import Embedder, Vectors, open_embedder
from simulation.persona_calibration import calibrate, labelled_pairs
from simulation.similarity import Neighbourhood
from trees.errors import SetupError
from trees.personas import Kind
from trees.pool import KINDS, PoolItem, Threshold, drop_blocks, grown_ids, keep_threshold, keep_vector, pool, thresholds
from trees.pool import vectors as stored_vectors
from trees.store import Store
from trees.writes import Write


@dataclass
class Pool:
    """The items of one kind. Held-out items stand apart."""

    kind: Kind
    items: dict[str, PoolItem]
    seeds: list[str]
    """Items that no growing added, in the order in which they came; none that is held out."""
    open: Neighbourhood = field(default_factory=Neighbourhood)
    """All but the held-out ones."""
    held_out: Neighbourhood = field(default_factory=Neighbourhood)

    def ids(self) -> list[str]:
        """What may be shown and counted: the training split."""
        return [item.id for item in self.items.values() if item.split == "train"]


async def load_pool(store: Store, embedder: Embedder, kind: Kind) -> Pool:
    """The pool with its vectors; what has none yet is embedded and kept. Raises SetupError."""
    items = {item.id: item for item in pool(store, kind)}
    found = await vectors_of(store, embedder, {item.id: item.text for item in items.values()})
    grown = grown_ids(store)
    held = [item.id for item in items.values() if item.split == "held_out"]
    rest = [item.id for item in items.values() if item.split != "held_out"]
    loaded = Pool(kind, items, [i for i in rest if i not in grown and items[i].split == "train"])
    for neighbourhood, ids in ((loaded.open, rest), (loaded.held_out, held)):
        if ids:
            neighbourhood.add(ids, np.stack([found[i] for i in ids]))
    return loaded


async def vectors_of(store: Store, embedder: Embedder, texts: Mapping[str, str]) -> dict[str, Vectors]:
    """The vector of each text by its item's id: from the store, or computed and kept there."""
    known = {i: from_bytes(raw) for i, raw in stored_vectors(store, embedder.name, list(texts)).items()}
    missing = [i for i in texts if i not in known]
    if missing:
        computed = await embedder.vectors([texts[i] for i in missing])
        store.apply([keep_vector(embedder.name, i, as_bytes(row)) for i, row in zip(missing, computed, strict=True)])
        known.update(zip(missing, computed, strict=True))
    return known


def as_bytes(vector: Vectors) -> bytes:
    """A vector as the store keeps it: float32, little-endian."""
    return vector.astype("<f4").tobytes()


def from_bytes(raw: bytes) -> Vectors:
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)


async def open_pool_embedder(
    store: Store, choice: str | None, configured: Mapping[str, ModelConfig] | None = None, *, change: bool = False
) -> Embedder:
    """The pool's embedder: the one named, else the one used so far, else MiniLM.

    Raises SetupError if the pool's thresholds are another embedder's and `change` is not set.
    """
    used = {kind: threshold.embedder for kind, threshold in thresholds(store).items()}
    before = next(iter(used.values()), None)
    embedder = await open_embedder(choice or _choice_of(before) or SHIPPED, dict(configured or {}))
    if before is not None and before != embedder.name and not change:
        await embedder.close()
        raise SetupError(
            f"the pool's vectors and thresholds are those of {before!r}, and this embedder is {embedder.name!r}",
            hint="Name that one with --embedder, or measure the pool anew with --change-embedder.",
        )
    return embedder


def _choice_of(name: str | None) -> str | None:
    """The option that gave an embedder its name, where the name says so."""
    if name is None:
        return None
    return {"minilm": SHIPPED, "lexical-1": "lexical"}.get(name.partition("@")[0])


async def settle_thresholds(
    store: Store, embedder: Embedder, by_hand: Mapping[Kind, float] | None = None
) -> dict[Kind, Threshold]:
    """The thresholds in force: those given, else the stored ones, else calibrated on the labelled pairs; kept.

    Raises SetupError if one is out of range.
    """
    settled: dict[Kind, Threshold] = {}
    writes: list[Write] = []
    stored = thresholds(store)
    for kind in KINDS:
        before = stored.get(kind)
        given = (by_hand or {}).get(kind)
        if given is not None:
            settled[kind] = Threshold(kind, embedder.name, _in_range(kind, given), {"by": "hand"})
        elif before is not None and before.embedder == embedder.name:
            settled[kind] = before
        else:
            settled[kind] = await calibrated(embedder, kind)
        if settled[kind] != before:
            writes += keep_threshold(settled[kind])
    if any(before.embedder != embedder.name for before in stored.values()):
        writes.append(drop_blocks())
    store.apply(writes)
    return settled


async def calibrated(embedder: Embedder, kind: Kind) -> Threshold:
    """The threshold that tells paraphrases from the rest of the labelled pairs, with what it gets right."""
    pairs = labelled_pairs(kind)
    left, right = await _both(embedder, pairs)
    alike = (left * right).sum(axis=1)
    measured = calibrate([(float(value), pair.label) for value, pair in zip(alike, pairs, strict=True)])
    return Threshold(kind, embedder.name, measured.threshold, {"by": "labelled pairs", **measured.as_dict()})


async def _both(embedder: Embedder, pairs: Sequence[Any]) -> tuple[Vectors, Vectors]:
    return await embedder.vectors([pair.a for pair in pairs]), await embedder.vectors([pair.b for pair in pairs])


def _in_range(kind: Kind, given: float) -> float:
    if not 0 < given <= 1:
        raise SetupError(
            f"the threshold of {kind} is {given:g}, and a similarity from which items count as the same lies above 0 "
            "and is at most 1",
            hint="Leave it out to have it measured on labelled pairs.",
        )
    return given
