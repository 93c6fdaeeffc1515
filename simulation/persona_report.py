"""What a pool is like, as plain values: size, growth, diversity, coverage of axes, words, and what is nearly the same.

One function gives the facts of one kind; the terminal, the HTML page and `--json` show the same ones.

Invariant: facts are computed from the store and the kept vectors alone; nothing here asks a model for text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulation.embedders import Embedder
from simulation.generation import NO_VERDICT
from simulation.persona_axes import Axes
from simulation.persona_plan import Plan, count, tag
from simulation.pool import Pool, load_pool
from simulation.similarity import closest_pairs, nearest_similarities, plane, vendi_score
from trees.personas import Kind
from trees.pool import Candidate, Threshold, candidates, growings
from trees.store import Store

BINS = 20
"""Of the histogram of nearest-neighbour similarities, from 0 to 1."""
CLOSEST = 8
"""Pairs shown side by side."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W_]+)?")
_COMMON = frozenset(
    "the and for with that this from has her his their she who are was were not but its out into one two about after "
    "where when which while than then them they him had have been does did every over under very more most".split()
)


async def describe(
    store: Store,
    embedder: Embedder,
    threshold: Threshold,
    kind: Kind,
    axes: Axes,
    *,
    steered: bool = False,
) -> dict[str, Any]:
    """The facts of one kind of a store's pool."""
    there = await load_pool(store, embedder, kind)
    texts = {i: there.items[i].text for i in there.open.ids}
    by_growing = {row.id: candidates(store, row.id, kind) for row in reversed(growings(store))}
    proposed = [c for weighed in by_growing.values() for c in weighed]
    born = {c.item_id: c.generation for c in proposed if c.reason is None}
    filled = count(list(texts.values()), kind, axes)
    return {
        "kind": kind,
        "embedder": embedder.name,
        "knows_paraphrases": embedder.knows_paraphrases,
        "threshold": threshold.threshold,
        "guard": threshold.guarding,
        "measured": dict(threshold.measured),
        "size": len(there.items),
        "seeds": len(there.seeds),
        "grown": sum(i in born for i in texts),
        "held_out": len(there.held_out),
        "blocked": sum(item.split == "blocked" for item in there.items.values()),
        "growth": [row for growing, weighed in by_growing.items() for row in _growth(growing, weighed)],
        "reasons": dict(Counter(c.reason or "kept" for c in proposed).most_common()),
        **_diversity(there, threshold.threshold),
        "map": _map(there, born, axes, kind),
        "closest": _closest(there),
        "axes": _axes(filled, Plan(kind, axes) if steered else None, len(texts)),
        "pronouns": dict(Counter(there.items[i].pronouns for i in texts).most_common()),
        **_words(list(texts.values())),
    }


def _growth(growing: str, weighed: Sequence[Candidate]) -> list[dict[str, Any]]:
    """Candidates and kept by generation of one growing; what got no verdict counts as neither."""
    judged: Counter[int] = Counter(c.generation for c in weighed if c.reason not in NO_VERDICT)
    kept: Counter[int] = Counter(c.generation for c in weighed if c.reason is None)
    return [{"growing": growing, "generation": g, "candidates": judged[g], "kept": kept[g]} for g in sorted(judged)]


def _diversity(there: Pool, threshold: float) -> dict[str, Any]:
    nearest = nearest_similarities(there.open.vectors)
    counts, _ = np.histogram(np.clip(nearest, 0, 1), bins=BINS, range=(0, 1))
    alone = len(there.open) < 2
    return {
        "nearest_mean": None if alone else float(nearest.mean()),
        "nearest_median": None if alone else float(np.median(nearest)),
        "near_duplicates": 0 if alone else len(closest_pairs(there.open.vectors, None, threshold)),
        "nearest_histogram": counts.tolist(),
        "vendi": vendi_score(there.open.vectors),
    }


def _map(there: Pool, born: Mapping[str, int], axes: Axes, kind: Kind) -> list[dict[str, Any]]:
    """Each item's place in the plane of greatest spread, with what it may be coloured by."""
    places = plane(there.open.vectors)
    return [
        {
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "id": item,
            "text": there.items[item].text,
            "generation": born.get(item),
            "axes": dict(tag(there.items[item].text, kind, axes)),
        }
        for item, (x, y) in zip(there.open.ids, places, strict=True)
    ]


def _closest(there: Pool) -> list[dict[str, Any]]:
    ids = there.open.ids
    return [
        {
            "a": {"id": ids[a], "text": there.items[ids[a]].text},
            "b": {"id": ids[b], "text": there.items[ids[b]].text},
            "similarity": similarity,
        }
        for a, b, similarity in closest_pairs(there.open.vectors, CLOSEST)
    ]


def _axes(filled: Mapping[str, Mapping[str, int]], plan: Plan | None, size: int) -> list[dict[str, Any]]:
    """Filled against asked, value by value, in the order of the tables; what no word tells is `untold`."""
    rows = []
    for axis, counts in filled.items():
        asked = plan.targets(axis, size) if plan is not None else {}
        values = [{"value": value, "filled": n, "asked": asked.get(value)} for value, n in counts.items()]
        rows.append({"axis": axis, "values": values, "untold": size - sum(counts.values())})
    return rows


def _words(texts: Sequence[str]) -> dict[str, Any]:
    """Length, vocabulary, and the words in most items."""
    split = [[word.lower() for word in _WORD.findall(text)] for text in texts]
    lengths = [len(text.split()) for text in texts]
    every = [word for words in split for word in words]
    inside = Counter(word for words in split for word in set(words) if len(word) > 2 and word not in _COMMON)
    quartiles = np.percentile(lengths, [25, 50, 75]).tolist() if lengths else [0, 0, 0]
    return {
        "length_quartiles": quartiles,
        "distinct_words": len(set(every)),
        "words": len(every),
        "most_words": [{"word": word, "items": count} for word, count in inside.most_common(15)],
    }
