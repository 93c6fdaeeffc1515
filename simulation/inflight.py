"""How many trees are played at the same time: enough to keep the models busy, and no more.

A run begins with a few trees. While one of its models has permits that nobody wants, further ones are let in, a few at
a time; where a whole load of calls waits for a model already, another tree would only wait there too. The number never
falls: what was begun is finished first, and a tree that ends makes room for the next.

Invariant: nothing that is said or judged depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FIRST_TREES = 4
LOOKS = 2
"""A permit counts as free when it was free this many times in a row."""


@dataclass(frozen=True, slots=True)
class Room:
    """How busy one model was at a moment."""

    permits: int
    held: int
    waiting: int
    """Calls that wait for a permit."""

    @property
    def free(self) -> int:
        return 0 if self.waiting else max(self.permits - self.held, 0)


@dataclass(frozen=True, slots=True)
class TreesInFlight:
    """A number of trees, with what was seen since it last changed."""

    width: int
    """Calls that a tree makes at once where it is widest."""
    trees: int
    looks: int = 0
    spare: int = 0
    """Permits of one model that were free at every look."""
    answered: int = 0
    """Calls of the run that were answered when the number last changed."""

    def seen(self, rooms: Sequence[Room], answered: int) -> TreesInFlight:
        """After another look: at every model, and at how many calls of the run are answered by now.

        Until each tree has had an answer on average, those that were let in last have not shown what they need.
        """
        free = max(room.free for room in rooms)
        if not free or any(room.waiting > room.permits for room in rooms):
            return replace(self, looks=0)
        spare = min(self.spare, free) if self.looks else free
        if self.looks + 1 < LOOKS or answered - self.answered < self.trees:
            return replace(self, looks=self.looks + 1, spare=spare)
        # A quarter more at least: permits that answers give back at once never are many, however many trees there are.
        more = max(spare // self.width, self.trees // 4, 1)
        return TreesInFlight(self.width, self.trees + more, answered=answered)
