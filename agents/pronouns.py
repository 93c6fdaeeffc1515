"""Pronouns of a personality, made to fit the profile it was paired with when a prompt is rendered.

Only words of the pronoun set the text is written in are changed. Where one form stands for two (`her` is `him` or
`his`, `his` is `her` or `hers`), the word after it decides. Into `they` the verbs of the subject agree as well: the
one after the pronoun, and those joined to it (`She is curious and loves ...`), where a verb can be told from a noun.

Invariant: a text fitted to the pronouns it is written in is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Pronouns = Literal["she", "he", "they"]

_FORMS: Mapping[str, tuple[str, str, str, str, str]] = {
    #       subject  object  possessive  of one's own  reflexive
    "she": ("she", "her", "her", "hers", "herself"),
    "he": ("he", "him", "his", "his", "himself"),
    "they": ("they", "them", "their", "theirs", "themself"),
}
_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_NEXT = re.compile(r"\s*([A-Za-z]+(?:['’][a-z]+)?|[^\sA-Za-z]|$)")
_CONTRACTED = re.compile(r"^(she|he|they)(['’])(s|re|ve|d|ll)$", re.IGNORECASE)
# What may follow an object but hardly a possessive: then "her" is "him", and "his" is "hers".
_NO_NOUN = frozenset(
    """a about after again against all also although always an and any are as at away back because been before being
    but by can could daily deeply did do does down during easily either else enough especially even feel for from get
    go had happy has he here his how i if in indoors into is it just know later let like more most much nor not
    now of off often on once or out over quickly quite rather really she should since slightly so sometimes soon
    than that the their them then there these they this those though through to today together tomorrow too under
    until up upset was we were what when where which while who why will with without would you""".split()
)
_ADVERBS = frozenset(
    """also always never often rarely seldom sometimes usually still just even only ever mostly simply then now soon
    both neither either almost not""".split()
)
_IRREGULAR = {"is": "are", "was": "were", "has": "have", "does": "do", "isn't": "aren't", "wasn't": "weren't",
              "hasn't": "haven't", "doesn't": "don't", "goes": "go"}  # fmt: skip
_BACK = {plural: single for single, plural in _IRREGULAR.items()}
_UNINFLECTED = frozenset(
    """can could will would shall should may might must cannot can't couldn't won't wouldn't shouldn't did didn't had
    hadn't""".split()
)
# Verbs that personalities join to their subject by "and", "but" or a comma; other words in -s there are taken as nouns.
_JOINED = frozenset(
    """accepts achieves acts adapts admires admits adores adds adheres adjusts advocates affects aims allows analyzes
    answers appreciates approaches argues arrives asks attempts attracts avoids becomes begins believes brings
    builds calls cares carries catches celebrates challenges changes chooses cleans clings collects comes communicates
    complains considers contributes cooks corrects craves creates cries deals decides defends demands depends
    desires despises develops dislikes displays does doubts dreams drives eats embraces embodies employs encourages
    ends engages enjoys ensures entertains exaggerates excels exercises exhibits expects explains explores
    expresses exudes faces falls fears feels finds fights focuses follows forgets forgives gains gets gives goes grows
    guards guides handles has hates helps hesitates hides holds hopes ignores imagines impresses improves inspires
    insists invests is jokes judges jumps keeps knows laughs leads leans learns leaves lends lets lightens likes
    listens lives longs looks loses loves maintains makes manages means mediates meets minds misses moves needs
    notices nurtures offers opens operates opts organizes overlooks overthinks owns pays perceives perseveres
    picks plans plays possesses practices prefers prepares presents prides prioritizes processes procrastinates
    promises protects proves provides pursues pushes puts questions quotes radiates reacts recalls reads
    recharges reflects refuses regards relaxes relies relishes remains remembers resists resonates respects
    respecting responds retreats rises runs says seeks seems sees senses serves sets shares shies shines shows
    sings sits smiles sounds speaks spends sparks stands starts stays sticks strives struggles studies succeeds
    supports surprises takes talks teaches tells tends thinks thrives tolerates treats tries trusts turns
    understands upholds uses values ventures views volunteers waits wants watches wears welcomes
    wins wishes withdraws works worries writes yearns""".split()
)
_JOINERS = re.compile(
    r"\b(and|but|or|yet|nor)\s+(?:(?:then|also|often|always|never|rarely|usually|sometimes|[a-z]+ly)\s+)*$"
)


def fit_pronouns(text: str, written: Pronouns, wanted: Pronouns) -> str:
    """The text with its subject's pronouns changed from the ones it is written in to the ones wanted."""
    if written == wanted:
        return text
    if "they" in (written, wanted):
        text = "".join(_fit_verbs(part, written, wanted) for part in _sentences(text))
    return _fit_words(text, written, wanted)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?;])(?=\s)", text)


def _fit_words(text: str, written: Pronouns, wanted: Pronouns) -> str:
    def fit(match: re.Match[str]) -> str:
        word = match.group()
        contracted = _CONTRACTED.match(word)
        if contracted:
            if contracted.group(1).lower() != written:
                return word
            return _cased(_FORMS[wanted][0], contracted.group(1)) + contracted.group(2) + contracted.group(3)
        form = _form_of(word.lower(), written, text[match.end() :])
        return word if form is None else _cased(_FORMS[wanted][form], word)

    return _WORD.sub(fit, text)


def _form_of(word: str, written: Pronouns, after: str) -> int | None:
    """Which of the five forms a word is; None if it belongs to another set."""
    forms = _FORMS[written]
    if word == forms[4] or (written == "they" and word == "themselves"):
        return 4
    if word not in forms:
        return None
    if written == "she" and word == "her":
        return 2 if _noun_follows(after) else 1
    if written == "he" and word == "his":
        return 2 if _noun_follows(after) else 3
    return forms.index(word)


def _noun_follows(after: str) -> bool:
    match = _NEXT.match(after)
    following = match.group(1).lower() if match else ""
    return following[:1].isalpha() and following not in _NO_NOUN


def _cased(form: str, model: str) -> str:
    """A form written with a capital where the word it replaces has one."""
    return form.capitalize() if model[:1].isupper() else form


def _fit_verbs(sentence: str, written: Pronouns, wanted: Pronouns) -> str:
    """The verbs of the pronoun in a sentence, in the number that goes with the wanted one."""
    subject = _FORMS[written][0]
    parts: list[str] = []
    last = 0
    expecting = owned = False
    for match in _WORD.finditer(sentence):
        word = match.group().lower()
        contracted = _CONTRACTED.match(word)
        new: str | None = None
        if contracted and contracted.group(1) == subject:
            new = match.group()[: len(subject)] + _contraction(contracted, sentence[match.end() :], wanted)
            owned, expecting = True, False
        elif word == subject:
            expecting = owned = True
        elif expecting and not _is_adverb(word):
            new = _agree(match.group(), wanted)
            expecting = False
        elif owned and _is_joined(word, sentence[: match.start()], written):
            new = _agree(match.group(), wanted)
        if new is not None:
            parts += [sentence[last : match.start()], new]
            last = match.end()
    return "".join([*parts, sentence[last:]])


def _contraction(match: re.Match[str], after: str, wanted: Pronouns) -> str:
    mark, ending = match.group(2), match.group(3)
    if wanted == "they" and ending == "s":
        following = _NEXT.match(after)
        word = following.group(1).lower() if following else ""
        perfect = word in ("been", "got", "had", "never") or word.endswith("ed")
        return mark + ("ve" if perfect else "re")
    if wanted != "they" and ending in ("re", "ve"):
        return mark + "s"
    return mark + ending


def _is_adverb(word: str) -> bool:
    return word in _ADVERBS or (word.endswith("ly") and word not in ("rely", "apply", "reply", "fly"))


def _is_joined(word: str, before: str, written: Pronouns) -> bool:
    """Whether a word is a further verb of the subject: one of the known ones, after a joiner or a comma."""
    plain = word.replace("’", "'")
    irregular = _BACK if written == "they" else _IRREGULAR
    if plain not in irregular and (_third_person(plain) if written == "they" else plain) not in _JOINED:
        return False
    tail = before.rstrip()
    return bool(_JOINERS.search(before)) or tail.endswith(",")


def _agree(verb: str, wanted: Pronouns) -> str:
    lower = verb.lower().replace("’", "'")
    if lower in _UNINFLECTED:
        return verb
    if wanted == "they":
        return _IRREGULAR.get(lower) or _bare(verb)
    return _BACK.get(lower) or _third_person(verb)


def _bare(verb: str) -> str:
    """`loves` to `love`, `tries` to `try`, `watches` to `watch`."""
    if verb.endswith("ies") and len(verb) > 4:
        return verb[:-3] + "y"
    if verb.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return verb[:-2]
    if verb.endswith("s") and not verb.endswith("ss"):
        return verb[:-1]
    return verb


def _third_person(verb: str) -> str:
    """`love` to `loves`, `try` to `tries`, `watch` to `watches`; past forms stay."""
    if verb.endswith("ed"):
        return verb
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ies"
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    return verb + "s"
