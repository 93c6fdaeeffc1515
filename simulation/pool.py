"""The pool of one kind in memory: its items with their vectors, ready to be compared with.

Vectors are computed once, in batches, and kept in the store under the embedder's name; a pool whose thresholds name
another embedder is refused, since similarities of two embedders cannot be compared.

Invariant: every item of the pool has a vector here, and one in the store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents.models.config import ModelConfig
from agents.models.sentences import SHIPPED
from simulation.embedders import LEXICAL, Embedder, Vectors, open_embedder, reopen_embedder
from simulation.persona_calibration import calibrate, labelled_pairs
from simulation.similarity import Neighbourhood
from trees.errors import SetupError
from trees.personas import Kind
from trees.pool import KINDS, PoolItem, Threshold, grown_ids, keep_vector, pool, thresholds
from trees.pool import vectors as stored_vectors
from trees.store import Store


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
    before = next(iter(thresholds(store).values()), None)
    if choice is None and before is not None:
        embedder = await _again(before, configured)
    else:
        embedder = await open_embedder(choice or SHIPPED, configured)
    if before is not None and before.embedder != embedder.name and not change:
        await embedder.close()
        raise SetupError(
            f"the pool's vectors and thresholds are those of {before.embedder!r}, and this embedder is "
            f"{embedder.name!r}",
            hint="Name that one with --embedder, or measure the pool anew with --change-embedder.",
        )
    return embedder


async def _again(before: Threshold, configured: Mapping[str, ModelConfig] | None) -> Embedder:
    """The embedder of the pool's thresholds, opened as it was."""
    known = {SHIPPED: SHIPPED, "lexical-1": LEXICAL}.get(before.embedder.partition("@")[0])
    how = before.choice or ({"name": known} if known else None)
    try:
        if how is not None:
            return await reopen_embedder(how, configured)
    except SetupError as error:
        raise SetupError(error.message, hint=_ANEW) from error
    raise SetupError(
        f"the pool was measured by {before.embedder!r}, and the store does not say how that is opened",
        hint=f"Name it once: espalier personas split --held-out 0x0 --embedder NAME. {_ANEW}",
    )


_ANEW = "Or measure the pool by another: espalier personas split --held-out 0x0 --embedder minilm --change-embedder."


async def settle_thresholds(store: Store, embedder: Embedder, anew: Collection[Kind] = ()) -> dict[Kind, Threshold]:
    """The thresholds in force: the stored ones (but for kinds `anew`), else measured on the labelled pairs.

    Nothing is kept: `simulation.splits.keep_settled` does.
    """
    settled: dict[Kind, Threshold] = {}
    stored = thresholds(store)
    for kind in KINDS:
        before = stored.get(kind)
        if before is not None and before.embedder == embedder.name and kind not in anew:
            settled[kind] = replace(before, choice=embedder.choice or before.choice)
        else:
            settled[kind] = await calibrated(embedder, kind)
    return settled


def by_hand(settled: Mapping[Kind, Threshold], given: Mapping[Kind, float]) -> dict[Kind, Threshold]:
    """These thresholds for one growing; the guard of held-out items keeps its own. Raises SetupError."""
    return dict(settled) | {
        kind: replace(
            settled[kind],
            threshold=in_range(kind, value),
            measured={**settled[kind].measured, "by": "hand"},
            guard=settled[kind].guarding,
        )
        for kind, value in given.items()
    }


async def calibrated(embedder: Embedder, kind: Kind) -> Threshold:
    """The threshold that tells paraphrases from the rest of the labelled pairs, with what it gets right."""
    pairs = labelled_pairs(kind)
    left, right = await _both(embedder, pairs)
    alike = (left * right).sum(axis=1)
    measured = calibrate([(float(value), pair.label) for value, pair in zip(alike, pairs, strict=True)])
    told = {"by": "labelled pairs", **measured.as_dict()}
    return Threshold(kind, embedder.name, measured.threshold, told, choice=embedder.choice)


async def _both(embedder: Embedder, pairs: Sequence[Any]) -> tuple[Vectors, Vectors]:
    return await embedder.vectors([pair.a for pair in pairs]), await embedder.vectors([pair.b for pair in pairs])


def in_range(kind: Kind, given: float) -> float:
    if not 0 < given <= 1:
        raise SetupError(
            f"the threshold of {kind} is {given:g}, and a similarity from which items count as the same lies above 0 "
            "and is at most 1",
            hint="Say `measured` to have it measured on labelled pairs.",
        )
    return given
