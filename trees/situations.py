"""Situations as trees record them: what brings a person to talk, and what changes for them on the way.

A situation is a list of steps. Each says from which turn on it holds, what the person is told with each message (in
the tail of that prompt, never before the transcript), and what suits them from then on, for who judges replies.

Invariant: steps stand in the order of their turns and the first is turn 1's; what a tree's prompts said of its
situation can be rendered again from the tree's row alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trees.ids import canonical_json


@dataclass(frozen=True, slots=True)
class Step:
    """What holds from a turn on."""

    turn: int
    direction: str
    """What the person is told, in a sentence or two."""
    wants: str = ""
    """What suits them, beyond what their personality says; empty: nothing particular."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What brings a person to talk."""

    name: str
    steps: tuple[Step, ...]
    change: int | None = None
    """The turn at which mood or taste changes; None if neither does."""

    def at(self, turn: int) -> Step:
        """What holds at a turn, from 1."""
        return [step for step in self.steps if step.turn <= turn][-1]

    def as_json(self) -> str:
        return canonical_json({"name": self.name, "steps": [asdict(s) for s in self.steps], "change": self.change})


def situation_from(text: str) -> Situation:
    """A situation of its JSON."""
    given: Mapping[str, Any] = json.loads(text)
    return Situation(given["name"], tuple(Step(**step) for step in given["steps"]), given["change"])
