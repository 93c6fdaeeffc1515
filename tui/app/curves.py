"""Curves in a terminal: points thinned to what columns can show, smoothed, drawn in braille or ASCII, or as a table.

A series is points (x, y) in the order of x; a y of None is a measurement that was no number, and breaks the line. A
figure is some series over the same x, with what stands above it.

Invariant: pure, and without widgets: the app shows it (`tui.app.plot`) and the command line prints it. What is drawn is
as wide and as high as it was told, and no name reaches it but through `tui.sanitise`.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

from rich.cells import cell_len, set_cell_size

from tui.draw import Line, Span
from tui.sanitise import one_line

Point = tuple[float, float | None]
Points = Sequence[Point]

STYLES = ("cyan", "green", "yellow", "bold blue", "italic magenta", "red")
"""Of series that lie over one another, in their order; a label at the end says which is which without colours."""
SMALLEST = (16, 4)
"""Columns and rows below which nothing is drawn."""
_NAME = 24
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Dots of a braille cell by row and column (Unicode, block U+2800)."""


@dataclass(frozen=True, slots=True)
class Series:
    """What is drawn in one style."""

    name: str
    """For the legend and the table; empty for what stands in neither."""
    points: Points
    style: str = "cyan"
    """One of those that drawn lines have; `dim` for what stays in the background."""
    sign: str = ""
    """Stands at every point instead of a line through them."""
    label: str = ""
    """Stands at the last point, and before the name."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Series over one x."""

    title: str
    series: tuple[Series, ...]
    x_name: str = "step"
    log: bool = False
    """Whether the y axis is logarithmic; what is not above 0 is left out then, and said."""
    at: float | None = None
    """The x that is read off."""
    nothing: str = "nothing measured yet"
    """What stands where there is no point."""


# Points


def decimate(points: Points, low: float, high: float, columns: int) -> list[Point]:
    """At most two points a column of the stretch from `low` to `high`: the lowest and the highest, in their order.

    A column in which nothing was a number keeps one such point, so that the line breaks there.
    """
    wide = (high - low) / max(columns, 1)
    if len(points) <= 2 * columns or wide <= 0:
        return list(points)
    kept: list[Point] = []
    start = 0
    for column in range(1, columns + 1):
        end = len(points) if column == columns else bisect_left(points, low + column * wide, start, key=itemgetter(0))
        kept += _extremes(points[start:end])
        start = end
    return kept


def _extremes(points: Points) -> list[Point]:
    numbers = [point for point in points if point[1] is not None]
    if not numbers:
        return list(points[:1])
    return sorted({min(numbers, key=itemgetter(1)), max(numbers, key=itemgetter(1))})


def smooth(points: Points, span: int | None = None) -> list[Point]:
    """An exponential moving average over about `span` points (a twentieth of them if left out), without start-up bias.

    s_t = (1 - a) s_(t-1) + a y_t with a = 2 / (span + 1), divided by 1 - (1 - a)^t (arXiv 1412.6980, section 3). What
    is no number is passed over.
    """
    share = 2 / ((span or max(len(points) // 20, 5)) + 1)
    total, weight = 0.0, 0.0
    smoothed: list[Point] = []
    for x, y in points:
        if y is None:
            smoothed.append((x, None))
            continue
        total, weight = (1 - share) * total + share * y, (1 - share) * weight + share
        smoothed.append((x, total / weight))
    return smoothed


def value_at(points: Points, x: float) -> float | None:
    """The last value at or before x; None if there is none."""
    before = bisect_right([each for each, _ in points], x)
    return points[before - 1][1] if before else None


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many round numbers between two, steps of 1, 2 or 5 times a power of ten."""
    if most < 1 or (high - low) / most < sys.float_info.min:
        return [low]
    scale = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next((s * scale for s in (1, 2, 5, 10, 20) if (high - low) / (s * scale) < most), 50 * scale)
    first = math.ceil(low / step - 1e-9)
    return [count * step for count in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float | None) -> str:
    """A value in four digits; `none` for what was no number."""
    return "none" if value is None else f"{value:.4g}"


# A figure as a table


def tabled(figure: Figure, width: int, height: int) -> list[Line]:
    """The figure as rows of numbers, spread over its whole length; each cell is the last value since the row above."""
    shown = [series for series in figure.series if series.name]
    every = sorted({x for series in shown for x, _ in series.points})
    if not every:
        return _words(figure, width)
    rows = _spread(every, max(height - 2, 1))
    names = [one_line(f"{s.label} {s.name}".strip(), _NAME) for s in shown]
    wide = [max(cell_len(name), 9) for name in names]
    first = max(len(figure.x_name), *(len(number(x)) for x in rows))
    heading = "  ".join([f"{figure.x_name:>{first}}", *(_right(n, w) for n, w in zip(names, wide, strict=True))])
    lines: list[Line] = [(Span(_title(figure, width), "bold"),), (Span(_cut(heading, width), "dim"),)]
    before = -math.inf
    for x in rows:
        cells = [_right(_since(series.points, before, x), w) for series, w in zip(shown, wide, strict=True)]
        lines.append((Span(_cut("  ".join([f"{number(x):>{first}}", *cells]), width)),))
        before = x
    return lines


def _since(points: Points, before: float, x: float) -> str:
    xs = [each for each, _ in points]
    at = bisect_right(xs, x)
    return number(points[at - 1][1]) if at and xs[at - 1] > before else ""


def _title(figure: Figure, width: int) -> str:
    return _cut(one_line(figure.title, 200), width)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width)


def _right(text: str, width: int) -> str:
    return " " * (width - cell_len(text)) + text


def _spread(values: Sequence[float], most: int) -> list[float]:
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / max(most - 1, 1))] for at in range(most)]


# A figure as a picture


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis: from values to shares of its length."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)

    def marks(self, most: int) -> list[float]:
        """Where numbers stand: powers of ten on a logarithmic axis that spans some."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            if last > first:
                return [10.0**power for power in range(first, last + 1, max(1, -(-(last - first) // most)))]
        return ticks(self.low, self.high, most)


def drawn(figure: Figure, width: int, height: int, *, plain: bool = False) -> list[Line]:
    """The figure in so many cells: title and legend, the curves with their axis of values, the axis of x."""
    if width < SMALLEST[0] or height < SMALLEST[1]:
        return [(Span(_title(figure, width)),)]
    rows = height - 2
    series, left_out = _drawable(figure)
    if not series:
        return _words(figure, width)
    xs = Scale(*_bounds([x for s in series for x in (s.points[0][0], s.points[-1][0])], log=False, pad=False))
    # The extremes stay, so the axis of values, whose numbers decide how many columns are left, can be told from these.
    thin = [replace(s, points=decimate(s.points, xs.low, xs.high, width)) for s in series]
    ys = Scale(*_bounds([y for s in thin for _, y in s.points if y is not None], log=figure.log), figure.log)
    values = ys.marks(max(rows // 3, 2))
    margin = max(len(number(value)) for value in values)
    columns = width - margin - 1
    canvas = _Canvas(columns, rows, plain)
    for each in thin:
        canvas.draw(each, xs, ys)
    if figure.at is not None:
        canvas.rule(xs.share(min(max(figure.at, xs.low), xs.high)))
    labels = {rows - 1 - round(ys.share(value) * (rows - 1)): number(value) for value in values}
    side, corner = ("|", "+") if plain else ("│", "└")
    lines = [(Span(f"{labels.get(row, ''):>{margin}}{side}", "dim"), *spans) for row, spans in canvas.rows()]
    foot = f"{'':>{margin}}{corner}{_axis(figure.x_name, xs, columns, plain)}"
    return [_legend(figure, left_out, width), *lines, (Span(foot, "dim"),)]


def _drawable(figure: Figure) -> tuple[list[Series], int]:
    """The series with something to draw, and how many points a logarithmic axis has no place for."""
    kept, left_out = [], 0
    for each in figure.series:
        shown = each
        if figure.log:
            points = [(x, y if y is not None and y > 0 else None) for x, y in each.points]
            left_out += sum(y is not None and y <= 0 for _, y in each.points)
            shown = replace(each, points=points)
        if any(y is not None for _, y in shown.points):
            kept.append(shown)
    return kept, left_out


def _bounds(values: Sequence[float], *, log: bool, pad: bool = True) -> tuple[float, float]:
    low, high = min(values), max(values)
    if math.isclose(low, high):
        return (low / 2 or low, high * 2) if log else (low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2)
    edge = 0.0 if log or not pad else (high - low) * 0.03
    return low - edge, high + edge


def _words(figure: Figure, width: int) -> list[Line]:
    return [(Span(_title(figure, width), "bold"),), (Span(_cut(one_line(figure.nothing, 200), width), "dim"),)]


def _legend(figure: Figure, left_out: int, width: int) -> Line:
    """Title, what each series is, and what it is at the x that is read off; as much of it as there is room for."""
    title = _title(figure, width)
    parts, room = [Span(title, "bold")], width - cell_len(title)
    at = "" if figure.at is None else f"  at {figure.x_name} {number(figure.at)}"
    logged = "  log" if figure.log else ""
    for text in (logged, f"  {left_out} not above 0" if left_out else "", at):
        if text and len(text) <= room:
            parts.append(Span(text, "dim"))
            room -= len(text)
    for each in figure.series:
        if not each.name:
            continue
        read = "" if figure.at is None else f" {number(value_at(each.points, figure.at))}"
        text = f" {one_line(each.name, _NAME)}{read}"
        sign = each.label or each.sign or "-"
        if cell_len(text) + 2 + len(sign) > room:
            break
        parts += [Span(f"  {sign}", each.style), Span(text, "" if each.style == "dim" else each.style)]
        room -= cell_len(text) + 2 + len(sign)
    return tuple(parts)


def _axis(name: str, xs: Scale, columns: int, plain: bool) -> str:
    """The line under the curves, with numbers where they belong and the name of what they count at its end."""
    line = ["-" if plain else "─"] * columns
    named = f" {name}"
    line[columns - len(named) :] = named
    for value in xs.marks(max(columns // 16, 2)):
        text, at = number(value), round(xs.share(value) * (columns - 1))
        if at + len(text) < columns - len(named):
            line[at : at + len(text)] = text
    return "".join(line)


@dataclass
class _Canvas:
    """Cells of two by four dots each, or of one where only ASCII is shown; a cell has the style drawn last."""

    width: int
    height: int
    plain: bool
    dots: dict[tuple[int, int], int] = field(default_factory=dict)
    """By row and column of the cell."""
    signs: dict[tuple[int, int], str] = field(default_factory=dict)
    styles: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def fine(self) -> tuple[int, int]:
        """Dots across and down."""
        return (self.width, self.height) if self.plain else (self.width * 2, self.height * 4)

    def draw(self, series: Series, xs: Scale, ys: Scale) -> None:
        across, down = self.fine
        last: tuple[int, int] | None = None
        end: tuple[int, int] | None = None
        for x, y in decimate(series.points, xs.low, xs.high, self.width):
            if y is None:
                last = None
                continue
            here = round(xs.share(x) * (across - 1)), down - 1 - round(ys.share(y) * (down - 1))
            if series.sign:
                self._sign(here, series.sign, series.style)
            else:
                self._line(last or here, here, series.style)
            last = end = here
        if series.label and end is not None:
            self._sign(end, series.label, series.style)

    def rule(self, share: float) -> None:
        """An upright line behind everything."""
        column = round(share * (self.width - 1))
        for row in range(self.height):
            if (row, column) not in self.styles:
                self.signs[row, column] = "|" if self.plain else "┊"
                self.styles[row, column] = "dim"

    def rows(self) -> Iterable[tuple[int, list[Span]]]:
        for row in range(self.height):
            cells = [self._cell(row, column) for column in range(self.width)]
            runs = groupby(cells, key=itemgetter(1))
            yield row, [Span("".join(sign for sign, _ in run), style) for style, run in runs]

    def _cell(self, row: int, column: int) -> tuple[str, str]:
        """What stands in a cell, and in which style."""
        at = row, column
        if at in self.signs:
            return self.signs[at], self.styles[at]
        if at not in self.dots:
            return " ", ""
        style = self.styles[at]
        return ("." if style == "dim" else "*") if self.plain else chr(0x2800 + self.dots[at]), style

    def _line(self, start: tuple[int, int], end: tuple[int, int], style: str) -> None:
        (x0, y0), (x1, y1) = start, end
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(steps + 1):
            self._dot(x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps), style)

    def _dot(self, x: int, y: int, style: str) -> None:
        across, down = (1, 1) if self.plain else (2, 4)
        at = y // down, x // across
        # Dots of another style go: two lines in one cell would be a blot that is neither of them.
        there = self.dots.get(at, 0) if self.styles.get(at) == style else 0
        self.dots[at] = there | (1 if self.plain else _BITS[y % 4][x % 2])
        self.styles[at] = style

    def _sign(self, dot: tuple[int, int], sign: str, style: str) -> None:
        across, down = (1, 1) if self.plain else (2, 4)
        at = dot[1] // down, dot[0] // across
        self.signs[at], self.styles[at] = sign, style
