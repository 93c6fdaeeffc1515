"""One generation of a growing pool: which examples are shown, and what becomes of each candidate.

Everything here is a function of the pool as it stood when the generation began and of the answers in the order of
their calls, so that an interrupted generation, begun again, ends the same.

Invariant: seeds are shown in every call, however large the pool; every candidate gets a reason or is kept; of two
candidates that say the same, the first one is kept.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from agents.generator import Proposed
from simulation.embedders import Vectors
from simulation.persona_checks import check
from simulation.pool import Pool
from simulation.similarity import Nearest, Neighbourhood
from trees.personas import Kind
from trees.pool import Candidate

SEED_SHARE = 3
"""One example of so many is a seed."""

UNCHECKED = "unchecked"
"""The second look got no answer: the candidate may be proposed again."""
NO_VERDICT = frozenset({"not_needed", UNCHECKED})
"""Reasons that say nothing about a candidate, so that no accept rate counts it."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a candidate may not join."""

    reason: str
    detail: str


Approve = Callable[[Sequence[Candidate]], Awaitable[Sequence[Rejection | None]]]
"""The second look: for each candidate why it may not join, or None."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call, or one draw of the composer, proposed."""

    number: int
    model: str
    call_id: str | None
    proposed: Sequence[Proposed]
    cause: str | None = None
    """Why there is no answer."""


@dataclass(frozen=True)
class Weighed:
    """A generation's candidates with the vectors that were computed for them, by item id."""

    candidates: Sequence[Candidate]
    vectors: Mapping[str, Vectors] = field(default_factory=dict)
    checked: int = 0
    """How many were shown to a model for a second look."""

    @property
    def kept(self) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.reason is None]


def draw_examples(pool: Pool, count: int, seed: int) -> list[str]:
    """Ids of the items shown in one call: a third of them seeds, the others the likelier the lonelier they are."""
    draw = random.Random(seed)
    ids = pool.ids()
    if len(ids) <= count:
        return draw.sample(ids, len(ids))
    seeds = draw.sample(pool.seeds, min(len(pool.seeds), -(-count // SEED_SHARE)))
    lonely = _loneliness(pool)
    rest = [i for i in ids if i not in set(seeds)]
    # Weighted sampling without replacement by exponential keys (Efraimidis & Spirakis 2006).
    keys = {i: draw.random() ** (1 / lonely[i]) for i in rest}
    chosen = sorted(rest, key=lambda i: (-keys[i], i))[: count - len(seeds)]
    shown = [*seeds, *chosen]
    draw.shuffle(shown)
    return shown


def _loneliness(pool: Pool) -> dict[str, float]:
    """How far each item is from its nearest neighbour: 1 less the cosine, never 0."""
    alike = pool.open.greatest()
    # Rounded, since the last digits of a product of matrices depend on how many rows were multiplied at once.
    return {i: max(1e-3, round(1 - float(value), 5)) for i, value in zip(pool.open.ids, alike, strict=True)}


async def weigh(
    pool: Pool,
    generation: int,
    answers: Sequence[Answer],
    *,
    threshold: float,
    guard: float,
    known: Mapping[str, str],
    embed: Callable[[Mapping[str, str]], Awaitable[Mapping[str, Vectors]]],
    approve: Approve | None,
    room: int,
) -> Weighed:
    """Give every candidate its reason.

    `threshold` is the pool's and `guard` that of held-out items; `known` are ids proposed before, with what became of
    them; `room` is how many may still join.
    """
    listed = [c for answer in answers for c in _candidates(pool.kind, generation, answer)]
    looked = _cheaply(listed, pool, known)
    texts = {c.item_id: c.text for c in looked if c.reason is None}
    vectors = await embed(texts)
    compared = _compared(looked, pool, vectors, threshold, guard)
    checked = 0 if approve is None else sum(c.reason is None for c in compared)
    if approve is not None:
        compared = await _approved(compared, approve)
    return Weighed(_joined(compared, vectors, threshold, room), vectors, checked)


def _candidates(kind: Kind, generation: int, answer: Answer) -> list[Candidate]:
    return [
        Candidate(kind, generation, answer.number, place, one.text, answer.model, answer.call_id, one.broken)
        for place, one in enumerate(answer.proposed)
    ]


def _cheaply(listed: Sequence[Candidate], pool: Pool, known: Mapping[str, str]) -> list[Candidate]:
    """The rules, and texts that were there word for word."""
    seen: set[str] = set()
    looked = []
    for candidate in listed:
        judged = candidate if candidate.reason is not None else _looked_at(candidate, pool, known, seen)
        looked.append(judged)
        if candidate.reason is None:
            seen.add(candidate.item_id)
    return looked


def _looked_at(candidate: Candidate, pool: Pool, known: Mapping[str, str], seen: set[str]) -> Candidate:
    item = candidate.item_id
    if item in pool.items:
        held = pool.items[item].split == "held_out"
        return replace(candidate, reason="held_out" if held else "duplicate", nearest_id=item, similarity=1.0)
    if item in seen or item in known:
        return replace(candidate, reason="repeated", detail=known.get(item, "in this generation"))
    found = check(candidate.text, candidate.kind)
    return candidate if found.reason is None else replace(candidate, reason=found.reason, detail=found.detail)


def _compared(
    looked: Sequence[Candidate], pool: Pool, vectors: Mapping[str, Vectors], threshold: float, guard: float
) -> list[Candidate]:
    """With the whole pool: what the nearest item is, and whether it says the same."""
    open_ones = [c for c in looked if c.reason is None]
    if not open_ones:
        return list(looked)
    rows = np.stack([vectors[c.item_id] for c in open_ones])
    nearest = iter(zip(pool.held_out.nearest(rows), pool.open.nearest(rows), strict=True))
    return [c if c.reason is not None else _against(c, *next(nearest), threshold, guard) for c in looked]


def _against(
    candidate: Candidate, held: Nearest | None, near: Nearest | None, threshold: float, guard: float
) -> Candidate:
    if held is not None and held.similarity >= guard:
        return replace(candidate, reason="near_held_out", nearest_id=held.id, similarity=held.similarity)
    if near is None:
        return candidate
    reason = "near_duplicate" if near.similarity >= threshold else None
    return replace(candidate, reason=reason, nearest_id=near.id, similarity=near.similarity)


async def _approved(compared: Sequence[Candidate], approve: Approve) -> list[Candidate]:
    asked = [c for c in compared if c.reason is None]
    answers = iter(await approve(asked))
    found = {c.item_id: said for c, said in zip(asked, answers, strict=True)}
    return [
        replace(c, reason=said.reason, detail=said.detail) if (said := found.get(c.item_id)) is not None else c
        for c in compared
    ]


def _joined(
    compared: Sequence[Candidate], vectors: Mapping[str, Vectors], threshold: float, room: int
) -> list[Candidate]:
    """One after the other, each against those of this generation that joined before it."""
    joined = Neighbourhood()
    done = []
    for candidate in compared:
        settled = candidate if candidate.reason is not None else _joining(candidate, joined, vectors, threshold, room)
        if settled.reason is None:
            joined.add([settled.item_id], vectors[settled.item_id][None, :])
        done.append(settled)
    return done


def _joining(
    candidate: Candidate, joined: Neighbourhood, vectors: Mapping[str, Vectors], threshold: float, room: int
) -> Candidate:
    if len(joined) >= room:
        return replace(candidate, reason="not_needed", detail="the pool has the size that was asked for")
    near = joined.nearest(vectors[candidate.item_id][None, :])[0]
    if near is None or (candidate.similarity is not None and near.similarity <= candidate.similarity):
        return candidate
    reason = "near_duplicate" if near.similarity >= threshold else None
    return replace(candidate, reason=reason, nearest_id=near.id, similarity=near.similarity)
