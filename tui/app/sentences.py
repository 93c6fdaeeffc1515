"""Two texts compared by sentences and, within a changed sentence, by words: a paragraph is one line to other diffs.

Invariant: the parts of a comparison, put together again, are the two texts without their line breaks' lengths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from tui.draw import Span

_END = re.compile(r"(?<=[.!?。！？…])[\"'”’)\]]*\s+|\n+|(?<=[。！？])")
_WORDS = re.compile(r"\s+|[^\s]+")

Row = tuple[tuple[Span, ...], tuple[Span, ...]]
"""A sentence of the first text beside the one of the second that stands in its place; either may be empty."""

REMOVED, ADDED, SAME = "red", "green", ""
MOST = 250_000
"""Pairs of parts that are compared at most: beyond it the time is felt, and nobody reads the difference."""


def sentences(text: str) -> list[str]:
    """A text in sentences, none of them empty."""
    return [part.strip() for part in _END.split(text) if part and part.strip()]


def compared(first: str, second: str) -> list[Row]:
    """The sentences of two texts side by side."""
    a, b = sentences(first), sentences(second)
    rows: list[Row] = []
    for kind, i1, i2, j1, j2 in _steps(a, b):
        if kind == "equal":
            rows += [((Span(said, SAME),), (Span(said, SAME),)) for said in a[i1:i2]]
        else:
            rows += _changed(a[i1:i2], b[j1:j2])
    return rows


def _steps(a: Sequence[str], b: Sequence[str]) -> Sequence[tuple[str, int, int, int, int]]:
    """How one row of parts becomes the other; all of it is replaced where there are too many to compare."""
    if len(a) * len(b) > MOST:
        return [("replace", 0, len(a), 0, len(b))]
    return SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes()


def _changed(before: Sequence[str], after: Sequence[str]) -> list[Row]:
    both = min(len(before), len(after))
    paired = [_by_words(x, y) for x, y in zip(before, after, strict=False)]
    return [
        *paired,
        *(((Span(said, REMOVED),), ()) for said in before[both:]),
        *(((), (Span(said, ADDED),)) for said in after[both:]),
    ]


def _by_words(before: str, after: str) -> Row:
    a, b = _WORDS.findall(before), _WORDS.findall(after)
    left: list[Span] = []
    right: list[Span] = []
    for kind, i1, i2, j1, j2 in _steps(a, b):
        same = kind == "equal"
        left += [Span("".join(a[i1:i2]), SAME if same else REMOVED)] if i2 > i1 else []
        right += [Span("".join(b[j1:j2]), SAME if same else ADDED)] if j2 > j1 else []
    return tuple(left), tuple(right)
