"""A conversation tree as tokens: what is read once, what is predicted, and what is compared.

A segment is a run of tokens that stands in one place of the tree. What a model reads before a reply is a context; the
generation prompt's tokens belong to the context before the reply, and what a template writes after a reply's end
token to the next one.

Invariant: parents come before their children, so a walk in order meets every ancestor first; a reply segment is
predicted whole, a context not at all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Tokens with one place in the tree."""

    parent: int
    """Index of the segment before it, always smaller than its own; -1 at the root."""
    tokens: tuple[int, ...]
    """At least one."""
    reply: bool
    """All of its tokens are predicted (trained), else none."""
    node: str
    """The store's node id, or "" where there is none."""


@dataclass(frozen=True)
class PairOf:
    """Two replies of which one was preferred: indices of reply segments that share their parent."""

    chosen: int
    rejected: int
    weight: float = 1.0


@dataclass(frozen=True)
class TokenTree:
    """One conversation tree, ready to be trained on."""

    id: str
    persona: str
    segments: tuple[Segment, ...]
    targets: tuple[int, ...]
    """For SFT: reply segments, each trained once."""
    pairs: tuple[PairOf, ...]
    """For DPO."""
