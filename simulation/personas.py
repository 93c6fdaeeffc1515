"""The people that are shipped, written by hand: 20 x 20 seeds, and 20 x 5 that models are measured on alone."""

from __future__ import annotations

from functools import cache
from importlib import resources

from trees.personas import Kind, Personality, Profile, parse_personas


@cache
def seed_profiles() -> tuple[Profile, ...]:
    return tuple(item for item in _read("profiles.jsonl", "profile") if isinstance(item, Profile))


@cache
def seed_personalities() -> tuple[Personality, ...]:
    return tuple(item for item in _read("personalities.jsonl", "personality") if isinstance(item, Personality))


@cache
def held_out_profiles() -> tuple[Profile, ...]:
    return tuple(item for item in _read("held_out_profiles.jsonl", "profile") if isinstance(item, Profile))


@cache
def held_out_personalities() -> tuple[Personality, ...]:
    found = _read("held_out_personalities.jsonl", "personality")
    return tuple(item for item in found if isinstance(item, Personality))


def _read(name: str, kind: Kind) -> tuple[Profile | Personality, ...]:
    parsed = parse_personas((resources.files("simulation") / "data" / name).read_bytes(), kind=kind, source=name)
    assert not parsed.problems, f"{name} is shipped whole"
    return parsed.items
