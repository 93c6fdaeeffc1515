"""What of a long path is shown to a model whose context it has outgrown.

The first exchange stays, and the middle goes in one large step, down to about half of the room; that cut stays until
the window is full again. So along a path prompts are append-only for many turns at a time: an epoch. The cut is a
pure function of the path's token counts, never of what was asked before, and messages leave in pairs, so that
speakers still alternate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")

KEPT_AT_START = 2
"""Messages at the beginning of a path that are always shown: the first exchange."""
TEMPLATE_TOKENS = 8
"""What a chat template adds to each message, at most, in tokens."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which messages of a path are shown: the first ones, then everything from `resume` on."""

    epoch: int
    """How many cuts the path has been through; 0 means that nothing is left out."""
    resume: int
    """Index of the first message after the gap."""

    def apply(self, path: Sequence[T]) -> list[T]:
        """The messages shown."""
        return list(path) if self.epoch == 0 else [*path[:KEPT_AT_START], *path[self.resume :]]


WHOLE = Window(0, KEPT_AT_START)


def window_of(counts: Sequence[int], room: int) -> Window:
    """The window for a path of messages with these token counts, into `room` tokens for the whole transcript."""
    before = [0, *accumulate(count + TEMPLATE_TOKENS for count in counts)]
    start = before[min(KEPT_AT_START, len(counts))]
    window = WHOLE
    for end in range(KEPT_AT_START + 1, len(counts) + 1):
        if start + before[end] - before[window.resume] <= room:
            continue
        resume = window.resume
        while resume + 2 < end and start + before[end] - before[resume] > room // 2:
            resume += 2
        window = Window(window.epoch + 1, resume)
    return window
