"""Words that carry content, roughly stemmed: enough to tell whether two texts speak of the same things."""

from __future__ import annotations

import re
from functools import lru_cache

from trees.text import UNSPACED, UNSPACED_RUN

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_STOP = frozenset(
    """a about after again all also am an and any are as at be because been before being but by can could did do does
    doing don down during each even ever every few for from further get gets getting go goes going got had has have
    having he her here hers herself him himself his how i if in into is it its itself just let like ll lot make makes
    many me more most much my myself no nor not now of off often on once one only or other our ours out over own
    person really re s same say says she should so some still such t than that the their theirs them themselves then
    there these they thing things this those through to too under until up user ve very was way we well were what when
    where which while who whom why will with would yes you your yours yourself""".split()
)
_ENDINGS = ("ings", "ing", "edly", "ies", "ied", "es", "ed", "ly", "s")


def words_of(text: str) -> list[str]:
    """The words of a text, folded, in order."""
    return [match.group().casefold() for match in _WORD.finditer(text)]


@lru_cache(1024)
def content_stems(text: str) -> frozenset[str]:
    """The stems of a text's content words; of scripts without spaces, each two characters that stand together."""
    stems: set[str] = set()
    for word in words_of(text):
        if UNSPACED.search(word):
            runs = UNSPACED_RUN.findall(word)
            stems.update(run[i : i + 2] for run in runs for i in range(max(len(run) - 1, 1)))
        elif (plain := word.replace("’", "'").split("'")[0]) and plain not in _STOP:
            stems.add(stem(plain))
    return frozenset(stems)


@lru_cache(4096)
def stem(word: str) -> str:
    """A word without its commonest English endings, so that `cooks`, `cooked` and `cooking` meet."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            base = word.removesuffix(ending)
            return base + "y" if ending in ("ies", "ied") else base.rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word
