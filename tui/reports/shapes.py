"""Plots as shapes on paper: lines, areas, boxes, dots and words, with places and named inks. Two pens draw them: SVG
and PNG.

Invariant: what a curve or a part is never rests on colour alone: curves have marks of their own and their name at
their end, and every part of a bar names itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tui.reports.plots import Curve, Intervals, Lines, Map, Measured, Plot, Point, Stacks, tick_text, ticks
from tui.sanitise import one_line

Ink = str
"""`ink`, `quiet`, `line`, `paper`, or `c0` to `c7`, the colours of curves and groups."""
Anchor = Literal["start", "middle", "end"]
MARKS = ("circle", "square", "triangle", "diamond")
COLOURS = 8

WIDTH = 720
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 44, 44
PLOT_HEIGHT = 320
ROW = 30
NAMES = 190
"""Width of the names at the left of rows."""
BANDS = 2
"""Curves whose intervals are drawn as bands; of more, each point has a stroke."""
ASIDE = 7.0
"""Distance of such curves beside each other."""
DOTS = 2000
"""Points of a map that are drawn."""


@dataclass(frozen=True, slots=True)
class Line:
    points: tuple[tuple[float, float], ...]
    ink: Ink
    width: float = 1.0
    dashed: bool = False
    told: str = ""


@dataclass(frozen=True, slots=True)
class Area:
    """A filled shape one sees through: an interval."""

    points: tuple[tuple[float, float], ...]
    ink: Ink


@dataclass(frozen=True, slots=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    ink: Ink
    told: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    ink: Ink
    mark: str = "circle"
    size: float = 4.0
    told: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    size: int = 12
    ink: Ink = "ink"
    bold: bool = False


Shape = Line | Area | Box | Dot | Label


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes in the order in which they are drawn, on paper of a size in points."""

    title: str
    width: float
    height: float
    shapes: tuple[Shape, ...]


def drawing(plot: Plot) -> Drawing:
    """A plot on paper."""
    match plot:
        case Lines():
            return _lines(plot)
        case Intervals():
            return _intervals(plot)
        case Stacks():
            return _stacks(plot)
        case Map():
            return _map(plot)


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _title(title: str) -> Label:
    return Label(12, 22, one_line(title, 90), size=14, bold=True)


# Curves


def _lines(plot: Lines) -> Drawing:
    (x_low, x_high), (y_low, y_high) = plot.limits
    across = _Axis(x_low, x_high, LEFT + 8, WIDTH - RIGHT)
    up = _Axis(y_low, y_high, TOP + PLOT_HEIGHT, TOP + 8)
    height = TOP + PLOT_HEIGHT + BOTTOM
    shapes: list[Shape] = [_title(plot.title), *_grid(plot, across, up), *_events(plot, across)]
    for number, curve in enumerate(plot.curves):
        shapes += _spread(plot, curve, number, across, up)
    for number, curve in enumerate(plot.curves):
        shapes += _curve(curve, number, _aside(plot, number, across), up)
    shapes += _end_names(plot, up)
    return Drawing(plot.title, WIDTH, height, tuple(shapes))


def _grid(plot: Lines, across: _Axis, up: _Axis) -> Iterator[Shape]:
    bottom = TOP + PLOT_HEIGHT
    rows = ticks(up.low, up.high)
    for tick in rows:
        y = up.at(tick)
        yield Line(((LEFT, y), (WIDTH - RIGHT + 8, y)), "line")
        yield Label(LEFT - 8, y + 4, tick_text(tick, rows, share=plot.share), "end", ink="quiet")
    columns = ticks(across.low, across.high, 10 if plot.whole_x else 6, whole=plot.whole_x)
    for tick in columns:
        yield Label(across.at(tick), bottom + 18, tick_text(tick, columns), "middle", ink="quiet")
    yield Line(((LEFT, bottom), (WIDTH - RIGHT + 8, bottom)), "quiet")
    yield Label((LEFT + WIDTH - RIGHT) / 2, bottom + 36, plot.x, "middle", ink="quiet")
    yield Label(12, TOP - 4, plot.y, ink="quiet")
    if plot.level is not None:
        y = up.at(plot.level)
        yield Line(((LEFT, y), (WIDTH - RIGHT + 8, y)), "quiet", 1.2, dashed=True)


def _events(plot: Lines, across: _Axis) -> Iterator[Shape]:
    for x, what in plot.events:
        at = across.at(x)
        yield Line(((at, TOP + 8), (at, TOP + PLOT_HEIGHT)), "c5", 1.2, dashed=True, told=one_line(what, 300))
        yield Label(at + 4, TOP + 18, "!", ink="c5", bold=True)


def _aside(plot: Lines, number: int, across: _Axis) -> _Axis:
    """The axis of one curve: where several have intervals, each stands a little beside the others."""
    if not _crowded(plot):
        return across
    by = (number - (len(plot.curves) - 1) / 2) * ASIDE
    return _Axis(across.low, across.high, across.start + by, across.end + by)


def _crowded(plot: Lines) -> bool:
    return sum(any(point.low is not None for point in curve.points) for curve in plot.curves) > BANDS


def _spread(plot: Lines, curve: Curve, number: int, across: _Axis, up: _Axis) -> Iterator[Shape]:
    """A curve's intervals: a band, or a stroke at each point where bands would hide each other."""
    ink, beside = f"c{number % COLOURS}", _aside(plot, number, across)
    known = [
        (beside.at(p.x), up.at(p.low), up.at(p.high)) for p in curve.points if p.low is not None and p.high is not None
    ]
    if _crowded(plot):
        yield from (Line(((x, low), (x, high)), ink, 1.4) for x, low, high in known)
    elif len(known) > 1:
        yield Area((*((x, low) for x, low, _ in known), *((x, high) for x, _, high in reversed(known))), ink)


def _curve(curve: Curve, number: int, across: _Axis, up: _Axis) -> Iterator[Shape]:
    ink, mark = f"c{number % COLOURS}", MARKS[number % len(MARKS)]
    known = [(p, across.at(p.x), up.at(p.y)) for p in curve.points]
    yield Line(tuple((x, y) for _, x, y in known), ink, 1.6 if curve.quiet else 2.4, dashed=curve.quiet)
    for point, x, y in known if curve.marked else ():
        yield Dot(x, y, ink, mark, 4.5, f"{one_line(curve.name, 40)} at {point.x:g}: {_with_interval(point)}")


def _with_interval(point: Point) -> str:
    interval = "" if point.low is None or point.high is None else f" [{point.low:.3f}, {point.high:.3f}]"
    return f"{point.y:.3f}{interval}"


def _end_names(plot: Lines, up: _Axis) -> Iterator[Shape]:
    """The name of each curve where it ends, apart from each other."""
    ends = [(up.at(curve.points[-1].y), number) for number, curve in enumerate(plot.curves) if curve.points]
    placed = _apart([y for y, _ in sorted(ends)], 15, TOP + 4, TOP + PLOT_HEIGHT)
    for y, (_, number) in zip(placed, sorted(ends), strict=True):
        curve, ink = plot.curves[number], f"c{number % COLOURS}"
        x = WIDTH - RIGHT + 26
        yield Dot(x, y, ink, MARKS[number % len(MARKS)])
        yield Label(x + 9, y + 4, one_line(curve.name, 15), size=12)


def _apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Sorted places moved so that neighbours keep a distance, and all of them within the ends where they fit."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + least) if moved else max(place, low))
    over = moved[-1] - high if moved else 0.0
    for at in range(len(moved) - 1, -1, -1) if over > 0 else ():
        top = high if at == len(moved) - 1 else moved[at + 1] - least
        moved[at] = min(moved[at], top)
    return moved


# Rows


def _rows_frame(title: str, x: str, rows: int) -> tuple[float, list[Shape]]:
    height = TOP + rows * ROW + BOTTOM
    label = Label((NAMES + WIDTH - RIGHT) / 2, height - 8, x, "middle", ink="quiet")
    return height, [_title(title), label]


def _intervals(plot: Intervals) -> Drawing:
    height, shapes = _rows_frame(plot.title, plot.x, len(plot.rows))
    low, high = plot.limits
    across = _Axis(low, high, NAMES, WIDTH - RIGHT)
    bottom = TOP + len(plot.rows) * ROW
    shown = ticks(low, high)
    for tick in shown:
        x = across.at(tick)
        shapes.append(Line(((x, TOP), (x, bottom)), "line"))
        shapes.append(Label(x, bottom + 16, tick_text(tick, shown, share=plot.share), "middle", ink="quiet"))
    if plot.level is not None:
        x = across.at(plot.level)
        shapes.append(Line(((x, TOP), (x, bottom)), "quiet", 1.4, dashed=True))
    for number, row in enumerate(plot.rows):
        shapes += _interval(row, TOP + (number + 0.5) * ROW, across)
    return Drawing(plot.title, WIDTH, height, tuple(shapes))


def _interval(row: Measured, y: float, across: _Axis) -> Iterator[Shape]:
    yield Label(NAMES - 10, y + 4, one_line(row.name, 28), "end")
    told = one_line(f"{row.name}: {row.told}", 200)
    if row.low is not None and row.high is not None:
        low, high = across.at(max(row.low, across.low)), across.at(min(row.high, across.high))
        yield Line(((low, y), (high, y)), "c0", 3.0, told=told)
        yield Line(((low, y - 5), (low, y + 5)), "c0", 1.5)
        yield Line(((high, y - 5), (high, y + 5)), "c0", 1.5)
    yield Dot(across.at(row.value), y, "c0", size=6, told=told)
    yield Label(WIDTH - RIGHT + 12, y + 4, one_line(row.told, 18), ink="quiet", size=11)


def _stacks(plot: Stacks) -> Drawing:
    height, shapes = _rows_frame(plot.title, plot.x, len(plot.rows) + 1)
    across = _Axis(0, 1 if plot.whole else plot.most, NAMES, WIDTH - RIGHT)
    at = 12.0
    for number, part in enumerate(plot.parts):
        shapes += [Box(at, TOP, 11, 11, f"c{number % COLOURS}"), Label(at + 16, TOP + 10, one_line(part, 24))]
        at += 34 + 6.6 * len(one_line(part, 24))
    for number, (name, values) in enumerate(plot.rows):
        shapes += _stack(plot, name, values, TOP + (number + 1) * ROW, across)
    return Drawing(plot.title, WIDTH, height, tuple(shapes))


def _stack(plot: Stacks, name: str, values: Sequence[float], y: float, across: _Axis) -> Iterator[Shape]:
    yield Label(NAMES - 10, y + ROW / 2 + 4, one_line(name, 28), "end")
    total, begun = sum(values), 0.0
    scale = total if plot.whole else 1.0
    for number, value in enumerate(values):
        if value and scale:
            x, end = across.at(begun / scale), across.at((begun + value) / scale)
            said = f"{one_line(name, 60)}, {plot.parts[number]}: {value:,g} ({value / total:.0%})"
            yield Box(x, y + 5, max(end - x - 1, 0.5), ROW - 10, f"c{number % COLOURS}", said)
            inside = f"{value:,g}"
            if end - x > 7.5 * len(inside) + 8:
                yield Label((x + end) / 2, y + ROW / 2 + 4, inside, "middle", 11, "paper", bold=True)
            begun += value
    yield Label(across.at(begun / scale if scale else 0) + 8, y + ROW / 2 + 4, f"{total:,g}", size=11, ink="quiet")


# Maps


def _map(plot: Map) -> Drawing:
    side = 460
    groups = _by_size([group for _, _, group, _ in plot.points])
    shapes: list[Shape] = [_title(plot.title)]
    across = _Axis(*_ends([p[0] for p in plot.points]), 20, 20 + side)
    up = _Axis(*_ends([p[1] for p in plot.points]), TOP + side, TOP + 8)
    for x, y, group, text in plot.points[:DOTS]:
        number = groups.index(group)
        said = one_line(f"{group}: {text}", 300)
        shapes.append(Dot(across.at(x), up.at(y), _ink(number), MARKS[number % len(MARKS)], 5, said))
    for number, group in enumerate(groups[:16]):
        y = TOP + 20 + number * 22
        shapes.append(Dot(side + 48, y, _ink(number), MARKS[number % len(MARKS)], 5))
        shapes.append(Label(side + 60, y + 4, one_line(f"{group}", 28)))
    return Drawing(plot.title, WIDTH, TOP + side + 20, tuple(shapes))


def _ink(number: int) -> Ink:
    return f"c{min(number, COLOURS - 1)}"


def _by_size(groups: Sequence[str]) -> list[str]:
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    return sorted(sizes, key=lambda group: (-sizes[group], group))


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low - 1.0, high + 1.0) if high <= low else (low, high)
