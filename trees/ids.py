"""Ids and seeds. They are derived, never drawn: the same thing at the same place has the same id in every process.

An id is the first 128 bits of a BLAKE2b hash, in hex, over the canonical JSON of a list whose first item says what
kind of thing it is. A seed is 31 bits of the same hash. Texts enter as they are: a lone surrogate is hashed by its
code point, since canonical JSON is ASCII.

- run    = H("run", identity configuration, seed, persona ids in order)
- tree   = H("tree", run, persona key)
- node   = H("node", run, parent, role name, replica); a root's parent is its tree
- call   = H("call", model identity, request); see `agents.calls`
- seed   = H("seed", run seed, node, role, purpose, sample, re-roll)
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

ID_LENGTH = 32
"""Characters of an id: 128 bits in hex."""


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and ASCII only, so that equal values give equal text."""
    return _ENCODER.encode(value)


def digest_of(kind: str, *parts: Any) -> str:
    """The id of a thing of this kind made of these parts (JSON values)."""
    return blake2b(canonical_json([kind, *parts]).encode("ascii"), digest_size=16).hexdigest()


def text_digest(text: str) -> str:
    """The digest of a text by its UTF-8 bytes; lone surrogates pass as their own three bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def run_id(identity: dict[str, Any], seed: int, personas: list[list[str | None]]) -> str:
    return digest_of("run", identity, seed, personas)


def tree_id(run: str, persona_key: str) -> str:
    return digest_of("tree", run, persona_key)


def node_id(run: str, parent: str, role: str, replica: str) -> str:
    return digest_of("node", run, parent, role, replica)


def derive_seed(run_seed: int, node: str, role: str, purpose: str, sample: int = 0, reroll: int = 0) -> int:
    """A seed of 31 bits for one thing asked at one place. Never 2**32 - 1, which llama.cpp reads as "random"."""
    return int(digest_of("seed", run_seed, node, role, purpose, sample, reroll)[:8], 16) & 0x7FFF_FFFF
