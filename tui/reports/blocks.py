"""A report as values: sections of blocks. The page and the terminal show the same report, each in its own way.

Invariant: blocks hold text as it was said; whoever shows them makes it safe for where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tui.reports.plots import Plot

Tone = Literal["", "quiet", "warn"]
Manner = Literal["user", "reply", "winner", "loser"]


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What something is, a line each: what of it, and how it is."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in rows."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()
    """Headings of the columns of numbers."""


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be copied as it stands: a command, a configuration."""

    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot, with a sentence on how to read it."""

    plot: Plot
    told: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A message in a conversation."""

    who: str
    text: str
    manner: Manner
    mark: str = ""
    """What was found of it: a score, a verdict."""
    notes: tuple[str, ...] = ()
    """What it revealed, what a judge said."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages from top to bottom; what stands in one row stands side by side."""

    title: str
    about: tuple[tuple[str, str], ...]
    """Whose it is, a line each."""
    rows: tuple[tuple[Said, ...], ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that are shown on demand."""

    title: str
    blocks: tuple[Block, ...]


Block = Words | Facts | Table | Code | Picture | Conversation | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is reported of one thing."""

    title: str
    about: str
    """What it is and how it stands, in a sentence."""
    sections: tuple[Section, ...]

    def plots(self) -> Iterator[Plot]:
        """Every plot of it, folded ones too."""
        for section in self.sections:
            yield from _plots(section.blocks)


def _plots(blocks: tuple[Block, ...]) -> Iterator[Plot]:
    for block in blocks:
        if isinstance(block, Picture):
            yield block.plot
        elif isinstance(block, Folded):
            yield from _plots(block.blocks)
