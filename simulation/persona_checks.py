"""Cheap rules for what a profile or a personality must not be, asked before any model looks at it.

Data model: a text and its kind in; the first reason to refuse it and the words that gave it, or none, out. The rules
read English and know only what they list: that no reason is found proves nothing about a text. Word lists are in
simulation/data/persona_words.toml.

Invariant: a verdict depends on the text and its kind alone.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

from trees.personas import Kind, sentences

FEWEST_WORDS = 18
MOST_WORDS = 140
"""The pools released with arXiv 2410.03642 lie between 36 and 102 words, this project's seeds within 34 and 90."""
_SHOWN = 80


class Reason(StrEnum):
    """Why a text is refused."""

    CONTROL = "control"
    """A control, bidirectional, zero-width or private-use character: it can hide or reorder what a reader sees."""
    INJECTION = "injection"
    """Speaks to a model instead of about a person: "ignore previous instructions", chat markers, role labels."""
    FORMAT = "format"
    """Debris of the answer it was cut from: JSON, markdown, numbering, wrapping quotes, several lines, a preamble."""
    GLUED = "glued"
    """Two records in one: a second opening with an age, a missing space after a quote, or the other pronoun."""
    VOICE = "voice"
    """Not about somebody in the third person: it says I or addresses a reader."""
    LENGTH = "length"
    """Shorter than FEWEST_WORDS or longer than MOST_WORDS."""
    REAL_PERSON = "real_person"
    """Is, or is named like, one of the very famous people listed. A fan of one, or a street, is nobody's likeness."""
    SENSITIVE = "sensitive"
    """Listed words of violence, sex, self-harm, hard drugs, crime or party politics, or a means of contact."""
    CONTRADICTION = "contradiction"
    """Its own facts do not go together: age against life, two ages, single and married."""
    TRAITS_IN_PROFILE = "traits_in_profile"
    """A profile in which at least two sentences, and a third of all, say what the person is like."""
    FACTS_IN_PERSONALITY = "facts_in_personality"
    """A personality that tells an age, a job, a place, a degree or a family."""


@dataclass(frozen=True, slots=True)
class Verdict:
    reason: Reason | None
    """None: no rule objects."""
    detail: str
    """The words that gave the reason, and for lengths the count; empty without a reason."""

    @property
    def accepted(self) -> bool:
        return self.reason is None


def check(text: str, kind: Kind) -> Verdict:
    """The first rule that objects, in the order of `Reason`."""
    for reason, rule in _RULES_OF_KIND[kind]:
        detail = rule(text)
        if detail is not None:
            return Verdict(reason, detail)
    return Verdict(None, "")


_JOINING = frozenset("\u200c\u200d")
"""Joiners are format characters that scripts and emoji need."""


def _control(text: str) -> str | None:
    for letter in text:
        if (
            unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs")
            and letter not in _JOINING
            and letter not in "\n\r\t"
        ):
            return f"U+{ord(letter):04X} {unicodedata.name(letter, 'unnamed')}"
    return None


_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:instructions?|prompts?|rules|context|everything above)\b"
    r"|\b(?:system|developer) (?:prompt|message)\b|\byou are now\b|\byou must (?:now|always|answer|respond|reply)\b"
    r"|\bfrom now on,? you\b|\b(?:pretend|act) as (?:an? )?(?:ai|assistant|model|system|developer)\b|\bjailbreak"
    r"|\bdo anything now\b|\bas an ai\b|\blanguage model\b(?=[^.]{0,30}\b(?:i|you|cannot)\b)"
    r"|\b(?:reveal|print|repeat) (?:your|the) (?:prompt|instructions)\b"
    r"|<\|[^|>]{0,40}\|>|\[/?INST\]|<</?SYS>>|^#+ *(?:instruction|response|system)"
    r"|(?:^|[\n.] *)(?:system|assistant|user|human) *:|\{\{|\{%|<script",
    re.IGNORECASE,
)


def _injection(text: str) -> str | None:
    return _found(_INJECTION, " ".join(text.split()))


_FORMAT = re.compile(
    r"^\s*[\[{\"'`“*#>|-]|^\s*\(?\d{1,3}[.):]\s|^\s*[•–—]|[\]}\"`|]\s*,?\s*$"
    r"|[{}\[\]|<>]|\*\*|__|```|\\[nrt\"']|\\u[0-9a-fA-F]{4}|</?[a-z][a-z0-9]*(?: [^<>]*)?/?>"
    r"|^\s*(?:user |persona |person )?(?:profile|personality|persona|character|traits?|name|age)\s*(?:#?\d+\s*)?[:=]"
    r"|\"(?:profile|personality|facts|traits|pronouns|kind)\"\s*:"
    r"|^\s*(?:here (?:is|are)|sure\b|certainly\b|of course\b|okay\b|note:)"
    r"|\n",
    re.IGNORECASE,
)


def _format(text: str) -> str | None:
    found = _FORMAT.search(text.strip())
    return None if found is None else repr(text.strip()[max(0, found.start() - 10) : found.end() + 20].strip())


_OPENING = re.compile(r"\b(?:He|She|They) (?:is|are) (?:an? )?\d{1,3}\b(?!\s*(?:%|percent|years? younger))")
_NO_SPACE = re.compile(r"[.!?][\"”’']+[,;]?\s*[\"“]?(?:He|She|They)\b|[a-z][.!?](?:He|She|They) (?:is|are|has|have)\b")
_GLUED_SUBJECTS = 3


def _glued(text: str) -> str | None:
    openings = [match.group() for match in _OPENING.finditer(text)]
    if len(openings) > 1:
        return " ... ".join(openings)
    if (joint := _found(_NO_SPACE, text)) is not None:
        return joint
    starts = [sentence.split(maxsplit=1)[0].rstrip(",") for sentence in sentences(text)]
    if min(starts.count("He"), starts.count("She")) >= _GLUED_SUBJECTS:
        return f"{starts.count('He')} sentences about him, {starts.count('She')} about her"
    return None


_SAID = re.compile(r"\"[^\"]*\"|“[^”]*”|(?<!\w)'[^']+'(?!\w)")
_FIRST_PERSON = re.compile(r"\b(?:I|I'm|I’m|I've|I’ve|I'd|I'll|[Mm]y|[Mm]yself)\b")
_ADDRESSED = re.compile(r"^(?:you|your|you're|imagine|meet|write|create|generate|describe)\b", re.IGNORECASE)


def _voice(text: str) -> str | None:
    told = _SAID.sub("", text).strip()
    if (addressed := _found(_ADDRESSED, told)) is not None:
        return addressed
    own = _FIRST_PERSON.findall(told)
    begins = _FIRST_PERSON.match(told) is not None
    return ", ".join(own[:3]) if begins or len(own) > 1 else None


_LETTERS = re.compile(r"[^\W\d_]+")


def _length(text: str) -> str | None:
    words = sum(_LETTERS.search(word) is not None for word in text.split())
    return None if FEWEST_WORDS <= words <= MOST_WORDS else f"{words} words, not {FEWEST_WORDS} to {MOST_WORDS}"


def _real_person(text: str) -> str | None:
    return _found(_famous(), text)


@cache
def _famous() -> re.Pattern[str]:
    """A famous name where a person is introduced: first in a sentence, or after is, named, called, as."""
    names = "|".join(re.escape(name) for name in sorted(_lists()["famous"], key=len, reverse=True))
    introduced = r"(?:^|(?<=[.!?] )|\b(?:is|are|am|named|called|known as|famous as) )"
    return re.compile(rf"{introduced}(?:{names})\b(?!['’]s? (?:fan|fans|books?|novels?|songs?|music))", re.IGNORECASE)


_CONTACT = re.compile(
    r"[\w.+-]+@[\w-]+\.\w{2,}|https?://\S+|\bwww\.\S+|\b\d{3}-\d{2}-\d{4}\b|(?:\+\d{1,3}[ -]?)?"
    r"(?:\(\d{2,4}\)|\d{2,4})[ -]\d{3,4}[ -]\d{3,4}\b"
)


def _sensitive(text: str) -> str | None:
    contact = _found(_CONTACT, text)
    return contact if contact is not None else _found(_sensitive_words(), text)


@cache
def _sensitive_words() -> re.Pattern[str]:
    either = "|".join(re.escape(words) for words in _lists()["sensitive"])
    return re.compile(rf"\b(?:{either})\b", re.IGNORECASE)


_AGE = re.compile(
    r"\b(?:he|she|they)(?:['’]s|['’]re| is| are| (?:just |recently )?turned)\s+(?:an?\s+|aged\s+|now\s+)?(\d{1,3})\b"
    r"(?!\s*(?:%|percent|kilo|cent|met|feet|foot|pounds|minutes|hours|days|weeks|months))"
    r"|^an?\s+(\d{1,3})-year-old\b",
    re.IGNORECASE,
)
_CHILD = re.compile(
    r"\b(\d{1,2})-year-old (?:twin )?(?:son|daughter|boy|girl|child|twins|sons|daughters)\b", re.IGNORECASE
)
_MARRIED_FOR = re.compile(r"\bmarried (?:to [^.,]{1,30} )?for (\d{1,2}) years\b", re.IGNORECASE)
_WORKED_FOR = re.compile(
    r"\b(?:worked|taught|served|driven|practiced)\b[^.]{0,40}\bfor (\d{1,2}) years\b", re.IGNORECASE
)
_YOUNGEST_PARENT = 13
_YOUNGEST_SPOUSE = 15
_YOUNGEST_WORKER = 13
_OLDEST = 115


@dataclass(frozen=True, slots=True)
class _Span:
    """Words that a person says only within some ages, in years."""

    pattern: re.Pattern[str]
    first: int
    last: int


def _span(words: str, first: int = 0, last: int = _OLDEST) -> _Span:
    return _Span(re.compile(rf"\b(?:{words})\b", re.IGNORECASE), first, last)


_HIS = "(?:his|her|their)"
_SPANS = (
    _span(r"is (?:now |recently |newly )?(?:an? )?(?:\d+-year-old )?retired|are retired|retiree|pensioner", 38),
    _span(rf"(?:grandchildren|grandchild|great-grandchildren)(?! of)|{_HIS} (?:grandson|granddaughter|grandsons)", 33),
    _span(r"(?:grown|adult|grown-up) (?:children|sons?|daughters?|kids)", 35),
    _span(r"teenage (?:children|sons?|daughters?|kids)", 28),
    _span(r"has a (?:doctorate|phd|ph\.d)|(?:is|as) an? (?:professor|surgeon|judge|widower|widow)", 22),
    _span(r"has a master['’]s|holds a master['’]s", 20),
    _span(r"(?:has|holds) a (?:bachelor['’]s )?degree", 19),
    _span(r"(?:is|are) (?:married|divorced)", 16),
    _span(
        r"(?:in|attends|goes to) (?:kindergarten|elementary school|primary school|middle school) (?:as a pupil)", 0, 15
    ),
    _span(r"(?:is|are) an? (?:\d+-year-old )?(?:high school (?:student|senior|junior)|schoolboy|schoolgirl)", 12, 21),
    _span(r"(?:he|she|they) (?:is|are) (?:pregnant|expecting (?:her|their) first child)", 14, 58),
    _span(r"(?:newborn|baby) (?:son|daughter) of (?:his|her|their) own", 14, 75),
)
_NOT_TOGETHER = tuple(
    (re.compile(one, re.IGNORECASE), re.compile(other, re.IGNORECASE))
    for one, other in (
        (
            r"\b(?:he|she|they) (?:is|are) single\b(?! (?:parent|mother|father|mom|dad))",
            r"\b(?:he|she|they) (?:is|are) (?:happily )?married\b",
        ),
        (
            r"\b(?:has|have) never (?:been )?married\b|\bnever married\b",
            r"\b(?:is|are) (?:now )?(?:divorced|widowed|married)\b",
        ),
        (
            r"\b(?:has|have) no (?:children|kids)\b|\bis childless\b",
            rf"\b{_HIS} (?:own )?(?:sons?|daughters?|children|kids)\b",
        ),
        (
            r"\blives? alone\b",
            rf"\blives? with {_HIS} (?:wife|husband|partner|parents|family|girlfriend|boyfriend|children)\b",
        ),
        (r"\b(?:is|are) an only child\b", rf"\b{_HIS} (?:older |younger |twin )?(?:brothers?|sisters?)\b"),
        (
            r"\b(?:is|are) (?:a )?(?:strict )?(?:vegan|vegetarian)\b",
            r"\bfavorite food is (?:steak|barbecue|ribs)\b|\bloves (?:steak|eating meat)\b",
        ),
        (r"\b(?:is|are) unemployed\b", r"\bworks? full-time\b"),
    )
)


def _contradiction(text: str) -> str | None:
    for one, other in _NOT_TOGETHER:
        both = _found(one, text), _found(other, text)
        if all(both):
            return " and ".join(words for words in both if words)
    ages = [int(match.group(1) or match.group(2)) for match in _AGE.finditer(text)]
    return _against_age(text, ages[0]) if ages else None


def _against_age(text: str, age: int) -> str | None:
    if age > _OLDEST:
        return f"{age} years old"
    for years, what in _years_lived(text):
        if age < years:
            return f"{age} years old and {what}"
    for span in _SPANS:
        words = _found(span.pattern, text)
        if words is not None and not span.first <= age <= span.last:
            return f"{age} years old and {words!r}"
    return None


def _years_lived(text: str) -> Iterator[tuple[int, str]]:
    """How old somebody must be for what is told, and what that is."""
    for pattern, youngest in (
        (_CHILD, _YOUNGEST_PARENT),
        (_MARRIED_FOR, _YOUNGEST_SPOUSE),
        (_WORKED_FOR, _YOUNGEST_WORKER),
    ):
        for match in pattern.finditer(text):
            yield int(match.group(1)) + youngest, repr(match.group())


_FACT = re.compile(
    r"\b\d{1,3}-year-old\b|\b(?i:he|she|they)(?: is| are|['’]s) \d{2}\b"
    r"|\b(?:is|are) (?:married|divorced|widowed|engaged to)\b"
    r"|\b(?:works|worked|working) (?:as|at|for) (?:an? |the )?"
    r"(?!team|hours|perfection|everyone|others|best|what|little|much|hard|well)\w+"
    r"|\b(?:has|holds|have|earned) an? (?:bachelor|master|degree|doctorate|phd|diploma|certificate)\b"
    r"(?! of (?!arts|science))"
    r"|\bgraduated from\b"
    r"|\b(?:has|have|raises|raised) (?:one|two|three|four|five|six|an?|\d) (?:young |grown |teenage |adult )?"
    r"(?:sons?|daughters?|children|kids|dogs?|cats?)\b"
    r"|\b(?i:was born in|grew up in|lives in|moved to) (?:the )?[A-Z]\w+",
)


def _facts_in_personality(text: str) -> str | None:
    return _found(_FACT, text)


def _traits_in_profile(text: str) -> str | None:
    told = [match.group() for sentence in sentences(text) if (match := _trait().match(sentence))]
    many = len(told) > 1 and 3 * len(told) >= len(sentences(text))
    return "; ".join(told) if many else None


@cache
def _trait() -> re.Pattern[str]:
    """A sentence that says what somebody is like; to be passionate or curious about something is an interest."""
    adjectives = "|".join(re.escape(word) for word in _lists()["traits"])
    degree = r"(?:also |very |highly |quite |always |extremely |generally |often |usually |a |an )*"
    return re.compile(
        rf"(?:He|She|They)(?: is| are|['’]s|['’]re) {degree}(?:{adjectives})\b"
        r"(?! (?:about|for|teacher|school|investigator))",
        re.IGNORECASE,
    )


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    table = tomllib.loads((resources.files("simulation") / "data" / "persona_words.toml").read_text(encoding="utf-8"))
    return {name: tuple(words.split() if isinstance(words, str) else words) for name, words in table.items()}


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return None if match is None else match.group().strip()[:_SHOWN]


_RULES: tuple[tuple[Reason, Callable[[str], str | None]], ...] = (
    (Reason.CONTROL, _control),
    (Reason.INJECTION, _injection),
    (Reason.FORMAT, _format),
    (Reason.GLUED, _glued),
    (Reason.VOICE, _voice),
    (Reason.LENGTH, _length),
    (Reason.REAL_PERSON, _real_person),
    (Reason.SENSITIVE, _sensitive),
    (Reason.CONTRADICTION, _contradiction),
)
_RULES_OF_KIND: Mapping[Kind, tuple[tuple[Reason, Callable[[str], str | None]], ...]] = {
    "profile": (*_RULES, (Reason.TRAITS_IN_PROFILE, _traits_in_profile)),
    "personality": (*_RULES, (Reason.FACTS_IN_PERSONALITY, _facts_in_personality)),
}
