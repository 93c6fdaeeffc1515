"""What is seen of a training while it goes on: points, alarms and checkpoints, as plain values, and who is told.

Invariant: nothing here knows torch; a point is the same whatever is told of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from train.memory import MemoryEstimate

AlarmKind = Literal["not_a_number", "chosen_falls", "too_easy", "length", "overfits"]
Wish = Literal["go", "pause", "stop"]
"""What a person wants of a training: it is asked after every optimiser step."""


@dataclass(frozen=True)
class Preferences:
    """Means over the pairs of a point's batches, and counts of pairs by which side is the longer one."""

    margin: float
    """Chosen reward less rejected reward, in nats times beta."""
    accuracy: float
    """Share of pairs whose chosen reply has the higher reward."""
    chosen_reward: float
    rejected_reward: float
    longer: int
    """Pairs whose chosen reply is the longer one, and how many of them are right."""
    longer_right: int
    shorter: int
    shorter_right: int


@dataclass(frozen=True)
class Point:
    """A stretch of training, or an evaluation, at an optimiser step."""

    step: int
    epoch: float
    kind: Literal["training", "evaluation"]
    loss: float
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int = 0
    """Tokens computed, shared prefixes once."""
    tokens_per_s: float = 0.0
    preferences: Preferences | None = None
    """Of a preference training."""


@dataclass(frozen=True)
class Forecast:
    """What a training takes, by its longest row, which was tried before the first step counted."""

    memory: MemoryEstimate
    tokens: int
    """Of that row."""
    seconds: float
    """Of its forward and backward pass."""
    peak_bytes: int
    """The most memory in use meanwhile; on a CPU, by the whole process since it began."""
    steps: int
    """Still to be made."""
    left_s: float
    """Until the end, in seconds, with evaluations and the reference's pass."""


@dataclass(frozen=True)
class Alarm:
    """Something that a person should look at, in words."""

    kind: AlarmKind
    step: int
    text: str
    fatal: bool = False
    """The training stops."""


class Sink(Protocol):
    """Who is told, in order; called from the training's thread."""

    def forecast(self, forecast: Forecast) -> None:
        """Once, before the first step."""

    def point(self, point: Point) -> None: ...

    def alarm(self, alarm: Alarm) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None:
        """A checkpoint is whole and on disk."""


class Silent:
    """A sink that tells nobody."""

    def forecast(self, forecast: Forecast) -> None: ...

    def point(self, point: Point) -> None: ...

    def alarm(self, alarm: Alarm) -> None: ...

    def checkpoint(self, step: int, folder: Path) -> None: ...
