"""What a benchmark's models may have seen of its people: lineages read, and people compared with what was trained on.

The store knows the lineage of every adapter that was trained beside it (`trees.trainings`); a folder that was exported
brings its own in `lineage.json`. A lineage names the people whose words were seen, by profile and personality. The
benchmark's people are compared with those, and with the store's training split: word for word by id, and by similarity
from the pool's guard on where the pool was measured (`espalier personas split`); else words are compared, from a
calibrated threshold on, which finds what was copied with changes and no paraphrases.

Invariant: what cannot be known reads `unknown`; nothing is taken for unseen because it could not be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.models.config import ModelConfig
from agents.models.model_folder import LINEAGE
from agents.models.protocol import ModelIdentity
from simulation.embedders import Embedder, LexicalEmbedder, Vectors
from simulation.pool import calibrated, open_pool_embedder, settle_thresholds, vectors_of
from simulation.runs import Persona
from trees.errors import NotFound, SetupError
from trees.personas import Kind, Personality, Profile
from trees.pool import KINDS, Threshold, pool, thresholds
from trees.store import Store
from trees.trainings import adapters, trainings

UNKNOWN = "unknown"
_SHORT = 8
_AT_ONCE = 2000
"""People compared with at once, so that memory does not grow with their number."""
_WORDS: Mapping[Kind, str] = {"profile": "profiles", "personality": "personalities"}


@dataclass(frozen=True, slots=True)
class Seen:
    """Where weights come from, and whose words they saw."""

    words: str
    """For a column: `none`, `unknown`, or the trainings from the base on."""
    people: Mapping[Kind, frozenset[str]]
    """Ids of profiles and personalities."""
    base: str = ""
    trainings: tuple[str, ...] = ()
    """Kind and id of each, from the base on."""
    data: tuple[str, ...] = ()
    """Digest of what each of them was trained on."""
    known: bool = False
    """Whether nothing but these people's words was trained on, from the base on."""
    not_compared: int = 0
    """People of whom this store lacks a half's text: by id they are told, by what they say they cannot be."""


@dataclass(frozen=True, slots=True)
class Alike:
    """A person of the benchmark, and one who was trained on and says the same."""

    kind: Kind
    id: str
    other_id: str
    similarity: float


_NOBODY: Mapping[Kind, frozenset[str]] = {"profile": frozenset(), "personality": frozenset()}


def seen_by(store: Store | None, identity: ModelIdentity, config: ModelConfig) -> Seen:
    """What is known of the data behind a model. Raises SetupError for a lineage file that cannot be read.

    What weights from outside were trained on cannot be known; an adapter's trainings can, if this store made it or its
    folder says so.
    """
    if identity.backend == "scripted":
        return Seen("none", _NOBODY, known=True)
    found = (_in_store(store, identity, config) if store is not None else None) or _beside(config)
    return Seen(UNKNOWN, _NOBODY) if found is None else _less_compared(store, found)


def _less_compared(store: Store | None, lineage: Mapping[str, Any]) -> Seen:
    """The lineage with how many of its people are not in the store, which their words then say too."""
    seen = _seen(lineage)
    held = {kind: {item.id for item in _held(store, kind, seen.people[kind])} if store else set() for kind in KINDS}
    absent = sum(p not in held["profile"] or q not in held["personality"] for p, q in lineage["people"])
    if not absent:
        return seen
    of = "of them" if seen.known else "people"
    return replace(seen, words=f"{seen.words}, {absent} {of} not compared", not_compared=absent)


def _in_store(store: Store, identity: ModelIdentity, config: ModelConfig) -> Mapping[str, Any] | None:
    """The lineage of an adapter that was trained here, or of weights all of which were."""
    if identity.adapter is not None:
        return next((row.lineage for row in adapters(store) if row.id == identity.adapter), None)
    path = _named(config, "path", "model")
    for row in trainings(store):
        if row.result is not None and path == (store.path.parent / row.result).resolve():
            return row.lineage
    return None


def _beside(config: ModelConfig) -> Mapping[str, Any] | None:
    """The lineage that lies in the folder of an adapter, or of a model that an adapter was merged into."""
    folder = _named(config, "adapter") if getattr(config, "adapter", None) else _named(config, "path", "model")
    file = folder / LINEAGE if folder is not None else None
    if file is None or not file.is_file():
        return None
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        _seen(read)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"the lineage {file} cannot be read: {error!r}") from error
    found: Mapping[str, Any] = read
    return found


def _named(config: ModelConfig, *fields: str) -> Path | None:
    names = [str(value) for field in fields if (value := getattr(config, field, None))]
    return Path(names[0]).expanduser().resolve() if names else None


def _seen(lineage: Mapping[str, Any]) -> Seen:
    steps = lineage["trainings"]
    named = tuple(f"{step['kind']} {step['id'][:_SHORT]}" for step in steps)
    people = [(str(profile), str(personality)) for profile, personality in lineage["people"]]
    known = bool(lineage["known"])
    words = " > ".join([f"base {(lineage.get('origin') or lineage['base'])[:_SHORT]}", *named])
    return Seen(
        f"{words}, {len(people)} people" if known else f"{words}, in part {UNKNOWN}",
        {"profile": frozenset(p for p, _ in people), "personality": frozenset(q for _, q in people)},
        str(lineage["base"]),
        named,
        tuple(str(step["data"]) for step in steps),
        known,
    )


# ---- people


def refuse_known(store: Store, people: Sequence[Persona], seen: Seen, model: str) -> None:
    """Raise SetupError if a half of any persona is in the store's training split, or was seen by the model."""
    for kind, items in halves(people).items():
        trained = {item.id for item in pool(store, kind) if item.split != "held_out"}
        _refuse(kind, items, sorted(items.keys() & trained), "belong to this store's training split")
        among = sorted(items.keys() & seen.people[kind])
        _refuse(kind, items, among, f"were trained on: {model!r} comes of {seen.words}, which saw them")


async def refuse_alike(
    store: Store, people: Sequence[Persona], seen: Seen, model: str, configured: Mapping[str, ModelConfig]
) -> bool:
    """Raise SetupError if a half of any persona says the same as one that was, or may be, trained on.

    Returns whether paraphrases were looked for, and not only words that are alike. Those whose text the store lacks are
    not compared; `Seen.not_compared` counts them.
    """
    others = {kind: _trained_on(store, kind, seen) for kind in KINDS}
    if not any(others.values()):
        return True
    embedder, settled = await _measured(store, configured)
    try:
        for kind, items in halves(people).items():
            found = await alike(store, embedder, settled[kind], items, others[kind])
            if found:
                raise _too_alike(found, items, others[kind], model)
        return embedder.knows_paraphrases
    finally:
        await embedder.close()


async def _measured(store: Store, configured: Mapping[str, ModelConfig]) -> tuple[Embedder, Mapping[Kind, Threshold]]:
    """The pool's embedder at its thresholds; words alone where the pool was never measured."""
    if thresholds(store):
        embedder = await open_pool_embedder(store, None, configured)
        return embedder, await settle_thresholds(store, embedder)
    words = LexicalEmbedder()
    return words, {kind: await calibrated(words, kind) for kind in KINDS}


async def alike(
    store: Store, embedder: Embedder, threshold: Threshold, items: Mapping[str, str], others: Mapping[str, str]
) -> list[Alike]:
    """Which of these texts (by id) say the same as one of the others, the most similar first.

    Vectors are kept in the store if they are its pool's; others would take its space and be asked for by nobody.
    """
    if not items or not others:
        return []
    mine = await _rows(store, embedder, items)
    nearest: dict[str, Alike] = {}
    for begin in range(0, len(others), _AT_ONCE):
        some = dict(list(others.items())[begin : begin + _AT_ONCE])
        close = mine @ (await _rows(store, embedder, some)).T
        ids = list(some)
        for row, item in enumerate(items):
            at = int(close[row].argmax())
            found = Alike(threshold.kind, item, ids[at], float(close[row, at]))
            nearest[item] = max(nearest.get(item, found), found, key=lambda each: each.similarity)
    reached = [found for found in nearest.values() if found.similarity >= threshold.guarding]
    return sorted(reached, key=lambda each: -each.similarity)


async def _rows(store: Store, embedder: Embedder, texts: Mapping[str, str]) -> Vectors:
    """One vector a text, in their order."""
    if any(threshold.embedder == embedder.name for threshold in thresholds(store).values()):
        vectors = await vectors_of(store, embedder, texts)
        return np.stack([vectors[each] for each in texts])
    return await embedder.vectors(list(texts.values()))


def halves(people: Sequence[Persona]) -> dict[Kind, dict[str, str]]:
    """Both halves of these people, each text once, by id."""
    return {"profile": {p.id: p.text for p, _ in people}, "personality": {q.id: q.text for _, q in people}}


def _trained_on(store: Store, kind: Kind, seen: Seen) -> dict[str, str]:
    """Texts of the training split, and of whom a model saw as far as the store holds them.

    Nothing trains on a blocked item, and that it is like a held-out one is why.
    """
    texts = {item.id: item.text for item in pool(store, kind, "train")}
    return texts | {item.id: item.text for item in _held(store, kind, seen.people[kind] - texts.keys())}


def _held(store: Store, kind: Kind, ids: frozenset[str]) -> Iterator[Profile | Personality]:
    for each in sorted(ids):
        try:
            yield store.profile(each) if kind == "profile" else store.personality(each)
        except NotFound:
            continue


def _refuse(kind: Kind, items: Mapping[str, str], found: Sequence[str], why: str) -> None:
    if found:
        raise SetupError(
            f"{len(found)} of the {len(items)} {_WORDS[kind]} {why}; the first is {found[0][:_SHORT]}: "
            f"{items[found[0]][:60]!r}",
            hint=_HINT,
        )


def _too_alike(found: Sequence[Alike], items: Mapping[str, str], others: Mapping[str, str], model: str) -> SetupError:
    first = found[0]
    return SetupError(
        f"{len(found)} of the {len(items)} {_WORDS[first.kind]} say the same as some that {model!r} was, or may be, "
        f"trained on; the most alike ({first.similarity:.2f}) are {first.id[:_SHORT]}: {items[first.id][:60]!r} and "
        f"{first.other_id[:_SHORT]}: {others[first.other_id][:60]!r}",
        hint=_HINT,
    )


_HINT = "A model must be measured on people it cannot have met: name others in [cases], or measure in another store."
