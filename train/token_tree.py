"""A conversation tree as tokens: what training reads, before anything is packed.

A tree is a list of segments in which every parent stands before its children. A context segment ends with the
generation prompt of the reply under it, so a reply begins with the first token that a model would have to write and
ends with the token that ends its turn. Targets (SFT) and pairs (DPO) name reply segments by index.

Invariant: the tokens of `path(i)`, joined, are exactly what a flattened row for segment i holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from trees.ids import digest_of


@dataclass(frozen=True)
class Segment:
    """A run of tokens that belongs together: what stands before a reply (context), or a reply with its end token."""

    parent: int
    """Index of the segment before it, always smaller than its own; -1 at the root."""
    tokens: tuple[int, ...]
    """At least one."""
    reply: bool
    """All of its tokens are predicted (trained), else none."""
    node: str
    """The store's node id, or ""."""


@dataclass(frozen=True)
class PairOf:
    """Two reply segments that share their parent, the better one first."""

    chosen: int
    rejected: int
    weight: float = 1.0


@dataclass(frozen=True)
class TokenTree:
    """One tree of one persona, ready to be packed. Raises ValueError for what is no tree."""

    id: str
    persona: str
    segments: tuple[Segment, ...]
    targets: tuple[int, ...]
    """SFT: reply segments, each trained once."""
    pairs: tuple[PairOf, ...]
    """DPO."""

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError(f"tree {self.id!r} has no segments")
        for index, segment in enumerate(self.segments):
            self._check_segment(index, segment)
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"tree {self.id!r} names a target twice: {self.targets}")
        for target in self.targets:
            self._check_reply(target)
        for pair in self.pairs:
            self._check_pair(pair)

    def path(self, index: int) -> tuple[int, ...]:
        """Indices of the segments from the root to this one, itself included."""
        found = [index]
        while self.segments[found[-1]].parent >= 0:
            found.append(self.segments[found[-1]].parent)
        return tuple(reversed(found))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """For each segment the number of tokens before it on its path: the position of its first token."""
        found: list[int] = []
        for segment in self.segments:
            parent = segment.parent
            found.append(0 if parent < 0 else found[parent] + len(self.segments[parent].tokens))
        return tuple(found)

    @cached_property
    def digest(self) -> str:
        """Names what a model reads of it: tokens and their arrangement, neither ids nor targets."""
        return digest_of("token tree", [[s.parent, list(s.tokens), s.reply] for s in self.segments])

    @property
    def token_count(self) -> int:
        """Tokens with every shared prefix once."""
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def flattened_count(self) -> int:
        """Tokens of the rows that the targets (one row each) and the pairs (two each) are without sharing."""
        rows = [*self.targets, *(side for pair in self.pairs for side in (pair.chosen, pair.rejected))]
        return sum(self.depths[row] + len(self.segments[row].tokens) for row in rows)

    def row(self, index: int) -> tuple[int, ...]:
        """The tokens of a path, joined: the flattened form of segment `index`."""
        return joined([self.segments[each].tokens for each in self.path(index)])

    def _check_segment(self, index: int, segment: Segment) -> None:
        if not -1 <= segment.parent < index:
            raise ValueError(f"segment {index} of tree {self.id!r} has parent {segment.parent}, which is not before it")
        if not segment.tokens:
            raise ValueError(f"segment {index} of tree {self.id!r} has no tokens")
        if segment.reply and segment.parent < 0:
            raise ValueError(f"segment {index} of tree {self.id!r} is a reply with nothing before it")

    def _check_reply(self, index: int) -> None:
        if not 0 <= index < len(self.segments) or not self.segments[index].reply:
            raise ValueError(f"{index} is no reply segment of tree {self.id!r}")

    def _check_pair(self, pair: PairOf) -> None:
        self._check_reply(pair.chosen)
        self._check_reply(pair.rejected)
        if pair.chosen == pair.rejected:
            raise ValueError(f"{pair.chosen} of tree {self.id!r} is paired with itself")
        if self.segments[pair.chosen].parent != self.segments[pair.rejected].parent:
            raise ValueError(f"{pair.chosen} and {pair.rejected} of tree {self.id!r} have different parents")
        if not (math.isfinite(pair.weight) and pair.weight >= 0):
            raise ValueError(f"the weight {pair.weight} of a pair of tree {self.id!r} is no finite number from 0 up")


def joined(runs: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Runs of tokens as one."""
    return tuple(token for run in runs for token in run)
