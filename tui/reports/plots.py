"""Plots as values: what is drawn, before anything says how. Pages, terminals and picture files draw the same ones.

Invariant: a plot holds plain numbers and names; a value that is unknown is left out, never drawn as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a curve, with its 95 % interval where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot."""

    name: str
    points: tuple[Point, ...]
    quiet: bool = False
    """Whether it stands behind the others: a baseline."""
    marked: bool = True
    """Whether every point has a mark; curves of hundreds of points have none."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Curves over one axis."""

    name: str
    """Of the picture's file, without an ending."""
    title: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    whole_x: bool = False
    """Whether only whole numbers stand on the axis: turns, say."""
    share: bool = False
    """Whether the values are shares: then the axis is in percent and shows 0 to 1."""
    level: float | None = None
    """A level to compare with: chance, zero."""
    events: tuple[tuple[float, str], ...] = ()
    """What happened where on the axis."""
    span: tuple[float, float] | None = None
    """The least that the axis reaches over, whatever is known of it."""

    @property
    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of both axes, with the intervals inside."""
        points = [point for curve in self.curves for point in curve.points]
        xs = [*(point.x for point in points), *(self.span or ())]
        ys = [y for p in points for y in (p.y, p.low, p.high) if y is not None]
        ys += [] if self.level is None else [self.level]
        return _limits(xs, margin=False), (0.0, 1.0) if self.share else _limits(ys, margin=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with its interval."""

    name: str
    value: float
    low: float | None
    high: float | None
    told: str = ""
    """The figure in words: "12 of 30"."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Figures under each other on one axis, each with its interval."""

    name: str
    title: str
    x: str
    rows: tuple[Measured, ...]
    share: bool = True
    level: float | None = None
    """What it would be by chance, or without a difference."""

    @property
    def limits(self) -> tuple[float, float]:
        if self.share:
            return 0.0, 1.0
        values = [v for row in self.rows for v in (row.value, row.low, row.high) if v is not None]
        return _limits([*values, *([] if self.level is None else [self.level])], margin=True)


@dataclass(frozen=True, slots=True)
class Stacks:
    """What things are made up of: a bar each, in parts that are the same for all."""

    name: str
    title: str
    x: str
    parts: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    whole: bool = False
    """Whether every bar is drawn as long as the axis: shares instead of amounts."""

    @property
    def most(self) -> float:
        return max((sum(values) for _, values in self.rows), default=0.0) or 1.0


@dataclass(frozen=True, slots=True)
class Map:
    """Things in a plane, in groups; those that are near are alike."""

    name: str
    title: str
    points: tuple[tuple[float, float, str, str], ...]
    """x, y, group, text."""


Plot = Lines | Intervals | Stacks | Map


def ticks(low: float, high: float, about: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers between two ends, at even distances of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    step = 10.0 ** _floor_log10((high - low) / about)
    for factor in (1, 2, 5, 10):
        if (high - low) / (step * factor) <= about:
            step *= factor
            break
    step = max(1.0, float(round(step))) if whole else step
    first = -(-low // step)
    found = [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]
    return [0.0 if abs(tick) < step * 1e-9 else tick for tick in found]


def tick_text(tick: float, ticks_shown: Sequence[float], *, share: bool = False) -> str:
    """A tick with as many decimals as tell it from its neighbours."""
    if share:
        return f"{tick:.0%}"
    step = min((b - a for a, b in pairwise(ticks_shown)), default=1.0)
    decimals = max(0, -_floor_log10(step)) if step < 1 else 0
    return f"{tick:,.{min(decimals, 6)}f}"


def mean_of_stretches(points: Sequence[Point], most: int = 400) -> tuple[Point, ...]:
    """At most so many points: the mean of each stretch of equal length, for curves of very many points."""
    if len(points) <= most:
        return tuple(points)
    return tuple(_mean(stretch) for stretch in _stretches(points, most))


def _stretches(points: Sequence[Point], most: int) -> Iterator[Sequence[Point]]:
    ends = [round(i * len(points) / most) for i in range(most + 1)]
    return (points[a:b] for a, b in pairwise(ends) if b > a)


def _mean(stretch: Sequence[Point]) -> Point:
    return Point(sum(p.x for p in stretch) / len(stretch), sum(p.y for p in stretch) / len(stretch))


def _floor_log10(value: float) -> int:
    from math import floor, log10

    return floor(log10(value) + 1e-12)


def _limits(values: Sequence[float], *, margin: bool) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low < 1e-12:
        return low - 0.5, high + 0.5
    room = (high - low) * 0.05 if margin else 0.0
    return low - room, high + room
