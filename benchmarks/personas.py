"""What comparing a candidate with the whole pool costs: 1,000 candidates into a pool of 3,000.

Each distinct text is encoded once, in batches, and compared by one matrix product. Beside it, on a sample of 5
candidates, the way of the code released with arXiv 2410.03642, which encodes the candidate and every item of the pool
again for each pair, one at a time. And the guard: of every labelled pair one side is held out and the other tries to
join the training split, word for word and as it stands.

    python benchmarks/personas.py [--quick] [--embedder minilm]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from common import Bar, finish, say

from agents.generator import Proposed
from simulation.embedders import Embedder, Vectors, open_embedder
from simulation.generation import Answer, draw_examples, weigh
from simulation.growing import item_of
from simulation.persona_axes import load_axes
from simulation.persona_calibration import labelled_pairs
from simulation.persona_composer import compose_profile
from simulation.pool import load_pool, settle_thresholds, vectors_of
from simulation.splits import refused_items
from trees.personas import sentences
from trees.pool import KINDS, keep_item
from trees.store import Store
from trees.writes import in_one

SAMPLE = 5
"""Candidates on which the released code's way is timed."""
PER_GENERATION = 20
SHOWN = 5
"""Examples drawn for each generation by how lonely they are, which compares what joined with all that is there."""


class Counting:
    """An embedder that counts which texts it is given and for how long it is at work."""

    def __init__(self, inner: Embedder) -> None:
        self.name = inner.name
        self.knows_paraphrases = inner.knows_paraphrases
        self.choice = inner.choice
        self.seen: Counter[str] = Counter()
        self.seconds = 0.0
        self._inner = inner

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        self.seen.update(texts)
        began = time.perf_counter()
        made = await self._inner.vectors(texts)
        self.seconds += time.perf_counter() - began
        return made

    async def close(self) -> None:
        await self._inner.close()


def profiles(count: int, first: int) -> list[str]:
    """Different composed profiles."""
    axes = load_axes()
    made: dict[str, None] = {}
    seed = first
    while len(made) < count:
        made.setdefault(compose_profile(seed, axes).text)
        seed += 1
    return list(made)


async def ours(embedder: Counting, pool_texts: Sequence[str], fresh: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "pool.db") as store:
        store.apply(in_one(keep_item(item_of("profile", text), source="benchmark") for text in pool_texts))
        say(f"encoding a pool of {len(pool_texts):,}")
        there = await load_pool(store, embedder, "profile")
        pool_s = embedder.seconds
        embedder.seconds = 0.0

        async def embed(texts: Mapping[str, str]) -> Mapping[str, Vectors]:
            return await vectors_of(store, embedder, texts)

        say(f"weighing {len(fresh):,} candidates")
        weighing, comparing, kept = 0.0, 0.0, 0
        for generation, begin in enumerate(range(0, len(fresh), PER_GENERATION)):
            texts = fresh[begin : begin + PER_GENERATION]
            answer = Answer(0, "benchmark", None, [Proposed(tuple(sentences(text))) for text in texts])
            began = time.perf_counter()
            draw_examples(there, SHOWN, generation)
            comparing += time.perf_counter() - began
            encoded = embedder.seconds
            began = time.perf_counter()
            done = await weigh(
                there,
                generation,
                [answer],
                threshold=0.95,
                guard=0.95,
                known={},
                embed=embed,
                approve=None,
                room=len(fresh),
            )
            weighing += time.perf_counter() - began - (embedder.seconds - encoded)
            rows = np.stack(list(done.vectors.values()))
            began = time.perf_counter()
            there.open.nearest(rows)
            comparing += time.perf_counter() - began
            kept += len(done.kept)
            if done.kept:
                there.open.add([c.item_id for c in done.kept], np.stack([done.vectors[c.item_id] for c in done.kept]))
    return {
        "pool_encode_s": pool_s,
        "encode_s": embedder.seconds,
        "compare_s": comparing,
        "weigh_s": weighing,
        "kept": kept,
    }


async def released_way(embedder: Embedder, pool_texts: Sequence[str], fresh: Sequence[str], items: int) -> float:
    """Seconds a candidate takes when candidate and item are encoded anew for every pair, one text at a time."""
    began = time.perf_counter()
    for text in fresh:
        for other in pool_texts[:items]:
            left = await embedder.vectors([text])
            right = await embedder.vectors([other])
            float((left @ right.T)[0, 0])
    return (time.perf_counter() - began) / len(fresh) / items * len(pool_texts)


async def guard(embedder: Embedder) -> dict[str, float]:
    """What a pool with held-out items refuses: the same words always, paraphrases mostly, others seldom."""
    found: dict[str, float] = {}
    for kind in KINDS:
        pairs = labelled_pairs(kind)
        with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "pool.db") as store:
            thresholds = await settle_thresholds(store, embedder)
            held = [item_of(kind, pair.a) for pair in pairs]
            store.apply(in_one(keep_item(item, source="benchmark", split="held_out") for item in held))
            verbatim = await refused_items(store, embedder, thresholds, held)
            for label in ("paraphrase", "same_kind", "different"):
                tried = [item_of(kind, pair.b) for pair in pairs if pair.label == label]
                refused = await refused_items(store, embedder, thresholds, tried)
                found[f"{kind}.{label}_refused"] = len(refused) / len(tried)
            found[f"{kind}.verbatim_refused"] = len(verbatim) / len(held)
    return found


async def measure(size: int, candidates: int, name: str, items: int) -> tuple[dict[str, float], list[Bar]]:
    embedder = Counting(await open_embedder(name))
    texts = profiles(size + candidates, 0)
    figures = await ours(embedder, texts[:size], texts[size:])
    most = max(embedder.seen.values())
    say(f"the released code's way, {SAMPLE} candidates against {items} items")
    each = await released_way(embedder, texts[:size], texts[size : size + SAMPLE], items)
    say("the guard at the doors")
    guarded = await guard(embedder)
    await embedder.close()
    share = figures["compare_s"] / figures["encode_s"]
    figures |= guarded | {
        "pool": size,
        "candidates": candidates,
        "encoded_most_often": most,
        "compare_share": share,
        "each_s": (figures["encode_s"] + figures["weigh_s"]) / candidates,
        "released_each_s": each,
        "times_faster": each / ((figures["encode_s"] + figures["weigh_s"]) / candidates),
    }
    return figures, [
        Bar("a text is encoded, at most", most, at_most=1),
        Bar("comparing, of the time of encoding", share, at_most=0.05),
        Bar("held-out profiles refused word for word", guarded["profile.verbatim_refused"], at_least=1),
        Bar("held-out personalities refused word for word", guarded["personality.verbatim_refused"], at_least=1),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 candidates into a pool of 300")
    parser.add_argument("--embedder", default="minilm", help="default: minilm")
    given = parser.parse_args()
    size, candidates, items = (300, 100, 30) if given.quick else (3000, 1000, 300)
    figures, bars = asyncio.run(measure(size, candidates, given.embedder, items))
    return finish("personas", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
