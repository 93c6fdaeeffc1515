"""People as values: a profile (facts of a life), a personality (traits and way of writing), and one of each paired.

Files hold one item a line: an object `{"kind": "profile", "pronouns": "she", "facts": [...]}` (a personality has
`traits`), or, as the pools released with arXiv 2410.03642, a JSON string. A line into which two records were glued
gives two and says so; a broken line is reported by number and never costs the good ones.

Invariant: an item's id is the digest of its text as written, so the same item is the same row wherever it came from.
"""

from __future__ import annotations

import codecs
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trees.ids import digest_of

Pronouns = Literal["she", "he", "they"]
Kind = Literal["profile", "personality"]

SPLITS = ("train", "blocked", "held_out")
"""What a line may say of itself; of two lines on one item the later of these counts."""
LONGEST = 20_000
"""Characters of a line, at most."""
_SHOWN = 80
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*\s+(?=[\"'“‘(]*[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:St|Dr|Mr|Mrs|Ms|Prof|Jr|Sr|vs|etc|e\.g|i\.e|No|Mt|Ft|a\.m|p\.m)|\b[A-Z](?:\.[A-Z])*)\.$"
)
_SUBJECT = re.compile(r"\b(she|he|they)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Profile:
    """Facts of a life."""

    facts: tuple[str, ...]
    pronouns: Pronouns
    text: str
    """As written."""

    @property
    def id(self) -> str:
        return digest_of("profile", self.text)


@dataclass(frozen=True, slots=True)
class Personality:
    """Traits, and a way of writing. Its pronouns stay as written; they are fitted when a prompt is rendered."""

    traits: tuple[str, ...]
    pronouns: Pronouns
    text: str
    """As written."""

    @property
    def id(self) -> str:
        return digest_of("personality", self.text)


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that could not be taken."""

    line: int
    """From 1."""
    what: str
    text: str
    """The line's beginning."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file holds."""

    items: tuple[Profile | Personality, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What was taken in another way than it stands there."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """By id the split that an item's line names, where it names one."""


class _Broken(ValueError):
    """A record that is not a persona's half."""


def parse_personas(data: bytes, *, kind: Kind | None, source: str) -> Parsed:
    """Read a file's bytes. `kind` says what its plain strings are; objects say so themselves."""
    if data.startswith(_UTF_16):
        return Parsed((), (Problem(1, "this is UTF-16: save it as UTF-8", ""),), ())
    items: dict[str, Profile | Personality] = {}
    problems: list[Problem] = []
    notes: list[str] = []
    splits: dict[str, str] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            records = list(_records(raw))
            found = [_item(record, kind) for record in records]
            said = [_split_of(record) for record in records]
            for item, split in zip(found, said, strict=True):
                if split is not None:
                    splits[item.id] = max(split, splits.get(item.id, split), key=SPLITS.index)
        except _Broken as error:
            problems.append(Problem(number, str(error), raw.decode("utf-8", "replace").strip()[:_SHOWN]))
            continue
        if len(found) > 1:
            notes.append(f"{source}, line {number} holds {len(found)} records glued together: taken as {len(found)}")
        for item in found:
            if item.id in items:
                notes.append(f"{source}, line {number} repeats an earlier one: {item.text[:_SHOWN]!r} is left out")
            items.setdefault(item.id, item)
    return Parsed(tuple(items.values()), tuple(problems), tuple(notes), splits)


def profile_of(facts: Sequence[str], pronouns: Pronouns | None = None) -> Profile:
    """A profile from its facts. Raises ValueError if there is none."""
    kept = tuple(fact.strip() for fact in facts if fact.strip())
    if not kept:
        raise ValueError("a profile needs at least one fact")
    text = " ".join(kept)
    return Profile(kept, pronouns or pronouns_of(text), text)


def personality_of(traits: Sequence[str], pronouns: Pronouns | None = None) -> Personality:
    """A personality from its traits. Raises ValueError if there is none."""
    kept = tuple(trait.strip() for trait in traits if trait.strip())
    if not kept:
        raise ValueError("a personality needs at least one trait")
    text = " ".join(kept)
    return Personality(kept, pronouns or pronouns_of(text), text)


def pronouns_of(text: str) -> Pronouns:
    """The subject pronoun a text uses most; of equals the first; `they` if it uses none."""
    found = [match.group(1).lower() for match in _SUBJECT.finditer(text)]
    if not found:
        return "they"
    most = max(found, key=found.count)
    return "she" if most == "she" else "he" if most == "he" else "they"


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a text; abbreviations, initials and decimals end none."""
    parts: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        so_far = text[start : match.end()].strip()
        if not _ABBREVIATION.search(so_far):
            parts.append(so_far)
            start = match.end()
    rest = text[start:].strip()
    return tuple([*parts, rest] if rest else parts)


def draw_pairs(
    profile_ids: Sequence[str], personality_ids: Sequence[str], count: int, seed: int
) -> list[tuple[str, str]]:
    """A draw of (profile, personality) without repeats, the same for the same pools, whatever their order.

    Profiles are used in turn, and so are personalities, each in an order that the seed shuffles, so both are used as
    evenly as `count` allows; a longer draw begins with the shorter one. Raises ValueError if there are fewer pairs.
    """
    profiles, personalities = sorted(set(profile_ids)), sorted(set(personality_ids))
    possible = len(profiles) * len(personalities)
    if count > possible:
        raise ValueError(
            f"{count} personas cannot be drawn without repeats from {len(profiles)} profiles and "
            f"{len(personalities)} personalities, which make {possible} pairs"
        )
    draw = random.Random(seed)
    draw.shuffle(profiles)
    draw.shuffle(personalities)
    return [_pair(number, profiles, personalities) for number in range(count)]


def _pair(number: int, profiles: Sequence[str], personalities: Sequence[str]) -> tuple[str, str]:
    """The n-th cell of a walk over the whole table that moves along both axes at once.

    Along the diagonal every step takes the next of each; when the diagonal closes (after their least common multiple)
    it is shifted by one, so no cell comes twice.
    """
    p, q = len(profiles), len(personalities)
    shift = number * _greatest_common_divisor(p, q) // (p * q)
    return profiles[number % p], personalities[(number + shift) % q]


def _greatest_common_divisor(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _records(raw: bytes) -> Iterator[Any]:
    """The JSON values that stand in a line. Raises _Broken."""
    if len(raw) > LONGEST:
        raise _Broken(f"longer than {LONGEST:,} characters")
    try:
        line = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _Broken(f"not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}") from error
    at = 0
    while at < len(line):
        try:
            value, at = json.JSONDecoder().raw_decode(line, at)
        except RecursionError as error:
            raise _Broken("not a record: lists or objects in each other without end") from error
        except ValueError as error:
            raise _Broken(f"not JSON: {error}") from error
        yield value
        while at < len(line) and line[at] in " \t,":
            at += 1


def _split_of(record: Any) -> str | None:
    """The split that a record names. A misspelt one is not taken for training."""
    split = record.get("split") if isinstance(record, dict) else None
    if split is not None and split not in SPLITS:
        raise _Broken(f"its split is {split!r}, not 'train', 'blocked' or 'held_out'")
    return split


def _item(record: Any, kind: Kind | None) -> Profile | Personality:
    if isinstance(record, str):
        if kind is None:
            raise _Broken("a plain text: say whether it is a profile or a personality")
        text = record.strip()
        if not text:
            raise _Broken("an empty text")
        found = sentences(text)
        if kind == "profile":
            return Profile(found, pronouns_of(text), text)
        return Personality(found, pronouns_of(text), text)
    if not isinstance(record, dict):
        raise _Broken(f"a JSON {type(record).__name__}, not a text or an object")
    return _item_of_object(record)


def _item_of_object(record: dict[str, Any]) -> Profile | Personality:
    kind, pronouns = record.get("kind"), record.get("pronouns")
    if kind not in ("profile", "personality"):
        raise _Broken(f"its kind is {kind!r}, not 'profile' or 'personality'")
    if pronouns not in (None, "she", "he", "they"):
        raise _Broken(f"its pronouns are {pronouns!r}, not 'she', 'he' or 'they'")
    field = "facts" if kind == "profile" else "traits"
    values = record.get(field)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _Broken(f"its {field} are not a list of texts")
    try:
        made = profile_of(values, pronouns) if kind == "profile" else personality_of(values, pronouns)
    except ValueError as error:
        raise _Broken(str(error)) from error
    text = record.get("text")
    if text is None:
        return made
    if not isinstance(text, str) or text.split() != made.text.split():
        raise _Broken(f"its text is not what its {field} say")
    return replace(made, text=text)
