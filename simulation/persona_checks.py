"""Rules that a new profile or personality must pass: cheap, before anything is compared or a model asked.

They look at words and numbers and claim no more than that: a profile holds facts and a personality traits, ages fit
the life told, the length is that of its kind, no format, instruction or control character is left in the text, and
nobody famous and nothing sensitive stands in it, as far as short lists of words know.

Invariant: the verdict is a function of the text and its kind; every reason is one of `REASONS`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Literal, get_args

from trees.personas import Kind, sentences

Reason = Literal[
    "too_short",  # fewer words, or fewer sentences, than tell of anybody
    "too_long",  # more words than a prompt should carry
    "control",  # control, bidirectional or invisible characters
    "format",  # remains of JSON, Markdown, numbering or labels
    "glued",  # two people in one text
    "instructions",  # words to the model that will read it
    "famous",  # a real person's name
    "sensitive",  # what a conversation partner should not be made of
    "traits_in_profile",  # temperament where a life should be told
    "facts_in_personality",  # a life where temperament should be told
    "contradiction",  # an age that does not fit the life
    "repetition",  # one sentence twice, or one word over and over
]
REASONS: tuple[Reason, ...] = get_args(Reason)

WORDS = (15, 160)
"""Fewest and most words of an item; those released with arXiv 2410.03642 have 36 to 102."""
FEWEST_SENTENCES = 2
_SHOWN = 60
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an item may go on; `reason` is None if it may."""

    reason: Reason | None
    detail: str = ""
    """What was found, in its own words."""


def check(text: str, kind: Kind) -> Verdict:
    """The first rule that a text breaks, or none."""
    for reason, rule, only in _RULES:
        if only in (None, kind) and (found := rule(text)) is not None:
            return Verdict(reason, found[:_SHOWN])
    return Verdict(None)


# Form


def _too_short(text: str) -> str | None:
    words, told = len(text.split()), len(sentences(text))
    if words < WORDS[0]:
        return f"{words} words"
    return f"{told} sentence" if told < FEWEST_SENTENCES else None


def _too_long(text: str) -> str | None:
    words = len(text.split())
    return f"{words} words" if words > WORDS[1] else None


def _control(text: str) -> str | None:
    odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c not in "\n\t\u200d"), None)
    return None if odd is None else f"U+{ord(odd):04X}"


_DEBRIS = re.compile(
    r"[{}\[\]<>|`]|\*\*|^#|__|\\n|https?://|^\s*(?:\d+[.)]|[-*•])\s|^\s*[\"“']|[\"”']\s*,?\s*$"
    r"|^\s*(?:profile|personality|persona|name|facts?|traits?|answer|output|example)\s*\d*\s*:",
    re.IGNORECASE,
)


def _format(text: str) -> str | None:
    found = _DEBRIS.search(text)
    return None if found is None else found.group().strip() or "a line's beginning"


_AGE = re.compile(r"\b(?:is|turned|am|are)\s+(?:an?\s+)?(\d{1,3})(?:[- ]years?[- ]old)?\b(?!\s*(?:%|percent|km|cm|kg))")
_YEARS_OLD = re.compile(r"\b(\d{1,3})[- ]years?[- ]old\b")
_SUBJECT = re.compile(r"^(?:She|He|They)\b")


def _glued(text: str) -> str | None:
    """Two people: a second age of the subject, or a subject that changes from he to she for good."""
    parts = sentences(text)
    own = [age for part in parts if _SUBJECT.match(part) for age in _subject_ages(part)]
    if len(set(own)) > 1:
        return f"ages {own[0]} and {own[1]}"
    subjects = [match.group() for part in parts if (match := _SUBJECT.match(part))]
    changes = [b for a, b in pairwise(subjects) if a != b and "They" not in (a, b)]
    return f"from {subjects[0]} to {changes[0]}" if len(changes) == 1 and len(subjects) >= 4 else None


def _subject_ages(sentence: str) -> list[int]:
    opening = re.match(
        r"(?:She|He|They)\s+(?:is|are)\s+(?:an?\s+)?(\d{1,3})\b(?!\s*(?:%|percent|km|cm|kg|minutes))", sentence
    )
    return [int(opening.group(1))] if opening else []


_INSTRUCTIONS = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:instructions?|prompts?|rules?|above|previous)\b"
    r"|\b(?:system|assistant|user)\s*:|<\|[a-z_]+\|>|\byou are (?:now|an? (?:ai|assistant|language model|chatbot))\b"
    r"|\bas an ai\b|\blanguage model\b|\b(?:respond|reply|answer|output|print) (?:only|with|exactly)\b"
    r"|\bsure[,!] here (?:is|are)\b|\bhere (?:is|are) (?:a|an|the|some|\d+|two|three|four|five) (?:new )?"
    r"(?:profiles?|personalit|people|persona)",
    re.IGNORECASE,
)


def _instructions(text: str) -> str | None:
    found = _INSTRUCTIONS.search(text)
    return None if found is None else found.group()


def _repetition(text: str) -> str | None:
    parts = [part.casefold() for part in sentences(text)]
    twice = next((part for at, part in enumerate(parts) if part in parts[:at]), None)
    if twice is not None:
        return twice
    words = [word.casefold() for word in _WORD.findall(text)]
    different = len(set(words)) / max(len(words), 1)
    return f"{different:.0%} of the words are different" if len(words) >= 30 and different < 0.4 else None


# Who and what


@cache
def _listed(name: str) -> re.Pattern[str]:
    """The names or words of a shipped list, as one pattern."""
    text = (resources.files("simulation") / "data" / name).read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, lines), key=len, reverse=True)) + r")\b", re.IGNORECASE)


_ABOUT = re.compile(r"\b(?:is|as|named|called|name is|known as|am)\s+$")


def _famous(text: str) -> str | None:
    """A famous name that the person bears; to like or read somebody famous is nobody's name."""
    for found in _listed("famous_names.txt").finditer(text):
        if found.start() == 0 or _ABOUT.search(text[: found.start()]):
            return found.group()
    return None


def _sensitive(text: str) -> str | None:
    found = _listed("sensitive_words.txt").search(text)
    return None if found is None else found.group()


# Facts and traits

_TRAIT = re.compile(
    r"^(?:She|He|They)\s+(?:is|are)\s+(?:(?:very|really|quite|extremely|also|often|always|so|a bit|rather)\s+)*"
    r"(?:outgoing|introvert\w*|extrovert\w*|shy|kind|caring|loyal|impulsive|sociable|confident|curious|patient|stubborn|"
    r"organi[sz]ed|creative|sensitive|emotional|rational|optimistic|pessimistic|easy-?going|thoughtful|empathetic|"
    r"humorous|sarcastic|reliable|dependable|ambitious|friendly|honest|generous|modest|perfectionist|talkative|quiet|"
    r"warm|blunt|cheerful|anxious|adventurous|independent|practical|compassionate)\b",
    re.IGNORECASE,
)


def _traits_in_profile(text: str) -> str | None:
    """More than half of the sentences tell of temperament alone."""
    parts = sentences(text)
    traits = [part for part in parts if _TRAIT.match(part)]
    return traits[0] if len(traits) * 2 > len(parts) else None


_FACT = re.compile(
    r"\b\d{1,3}[- ]years?[- ]old\b|^(?:She|He|They)\s+(?:is|are)\s+(?:an?\s+)?\d{1,3}\b"
    r"|\b(?:lives?|live) (?:in|at|with|near|above|alone)\b"
    r"|\b(?:works?|was born|were born|grew up|studie[sd]|studying|graduated|moved) "
    r"(?:in|at|as|for|from|to|with|on) "
    r"|\b(?:married|divorced|widow\w*) (?:to|with|for|since|and)\b"
    r"|\b(?:has|have) (?:an? |one |two |three |four |five )(?:\w+ )?(?:son|daughter|child|children|kids?|cats?|dogs?|"
    r"wife|husband|degree|brothers?|sisters?|grand\w+)\b",
    re.IGNORECASE,
)


def _facts_in_personality(text: str) -> str | None:
    found = _FACT.search(text)
    return None if found is None else found.group()


# A life that fits the age

_LIVES: Sequence[tuple[re.Pattern[str], int, int, str]] = tuple(
    (re.compile(pattern, re.IGNORECASE), low, high, told)
    for pattern, low, high, told in (
        (
            r"\bgrand(?:children|child|sons?|daughters?|kids?)\b",
            34,
            120,
            "grandchildren",
        ),
        (r"\b(?:retired|pensioner|retiree|in retirement)\b", 45, 120, "retired"),
        (r"\bwidow(?:er|ed)?\b", 22, 120, "widowed"),
        (r"\b(?:high[- ]school|secondary[- ]school) (?:student|pupil|senior|junior|freshman)\b", 12, 20, "at school"),
        (r"\b(?:sophomore|undergraduate|college student|university student)\b", 16, 80, "a student"),
        (r"\b(?:professor|surgeon|judge|principal|headteacher|ceo)\b", 25, 120, "a long career"),
        (r"\b(?:married|husband|wife|divorced)\b", 16, 120, "married"),
    )
)
_OTHERS = re.compile(
    r",? \b(?:who|whose|whom|which|where)\b"
    r"|\b(?:his|her|their|an?|the) (?:\w+ ){0,2}(?:grand(?:mother|father|parents|ma|pa)|mother|father|parents|"
    r"neighbour\w*|neighbor\w*|aunt|uncle|friend|colleague|landlady|landlord)\b",
    re.IGNORECASE,
)
"""From here on a sentence tells of somebody else."""
_PARENT = re.compile(
    r"\b(?:has|have|raises?|raising|mother of|father of|parent of|with) (?:an? |two |three |her |his |their )?"
    r"(?:\w+ )?(\d{1,2})[- ]year[- ]old (?:son|daughter|child|twins?|boy|girl)\b",
    re.IGNORECASE,
)
_SINCE = re.compile(r"\bfor (?:the (?:past|last) )?(\d{1,2}) years\b|\b(\d{1,2}) years (?:of|as|in)\b", re.IGNORECASE)
YOUNGEST_PARENT, OLDEST_PERSON = 14, 110
"""Years."""


def _contradiction(text: str) -> str | None:
    parts = sentences(text)
    ages = [age for part in parts for age in _subject_ages(part)]
    if not ages:
        return None
    age = ages[0]
    if not 5 <= age <= OLDEST_PERSON:
        return f"{age} years old"
    for part in parts:
        if (found := _does_not_fit(part, age)) is not None:
            return found
    return None


def _does_not_fit(sentence: str, age: int) -> str | None:
    own = _OTHERS.split(sentence, maxsplit=1)[0]
    for pattern, low, high, told in _LIVES:
        if pattern.search(own) and not low <= age <= high:
            return f"{told} at {age}"
    child = _PARENT.search(sentence)
    if child is not None and age - int(child.group(1)) < YOUNGEST_PARENT:
        return f"a child of {child.group(1)} at {age}"
    years = [int(a or b) for a, b in _SINCE.findall(sentence)]
    return f"{max(years)} years of it at {age}" if years and max(years) >= age else None


_RULES: Sequence[tuple[Reason, Callable[[str], str | None], Kind | None]] = (
    ("control", _control, None),
    ("instructions", _instructions, None),
    ("format", _format, None),
    ("too_short", _too_short, None),
    ("too_long", _too_long, None),
    ("glued", _glued, None),
    ("repetition", _repetition, None),
    ("famous", _famous, None),
    ("sensitive", _sensitive, None),
    ("traits_in_profile", _traits_in_profile, "profile"),
    ("facts_in_personality", _facts_in_personality, "personality"),
    ("contradiction", _contradiction, "profile"),
)
"""Reason, rule, and the kind it is for; None is both."""
