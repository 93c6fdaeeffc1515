"""Plots as lines of text, for a terminal or a log: the same values as on the page, with marks instead of colours.

Invariant: names pass `tui.sanitise`; nothing rests on colour: a curve has a letter at its end, a part its own filling.
"""

from __future__ import annotations

from collections.abc import Container
from string import ascii_uppercase

from tui.app.curves import Figure, Series, drawn
from tui.reports.plots import Curve, Intervals, Lines, Map, Plot, Stacks, tick_text
from tui.reports.shapes import BANDS
from tui.sanitise import one_line

HEIGHT = 14
WIDTH = 100
NAME = 24
FILLS = ("█▓▒░▚▞·+", "#=-.+x:o")
"""Of the parts of a bar: in Unicode, and in ASCII."""
STYLES = ("bold blue", "green", "yellow", "red", "italic magenta", "cyan")
"""Of curves, in an order in which neighbours are unlike in every theme."""
ENDS = (("┬", "┴"), ("-", "-"))
"""Upper and lower end of an interval: in Unicode, and in ASCII."""


def text_of(plot: Plot, width: int = WIDTH, *, plain: bool = False) -> list[str]:
    """A plot in characters, under its title; `plain` is ASCII alone."""
    title = one_line(plot.title, width)
    match plot:
        case Lines():
            return _lines(plot, width, plain)
        case Intervals():
            return [title, *_intervals(plot, width, plain)]
        case Stacks():
            return [title, *_stacks(plot, width, plain)]
        case Map():
            return [title, *_map(plot, width)]


def _mark(number: int) -> str:
    return ascii_uppercase[number % len(ascii_uppercase)]


def _lines(plot: Lines, width: int, plain: bool) -> list[str]:
    rows = drawn(figure_of(plot, plain=plain), width, HEIGHT, plain=plain)
    text = ["".join(span.text for span in row).rstrip() for row in rows]
    return [*text, *(f"at {x:g}: {one_line(what, width)}" for x, what in plot.events)]


def figure_of(plot: Lines, *, intervals_of: Container[str] | None = None, plain: bool = False) -> Figure:
    """Curves as the app draws them: a letter at the end of each, and the ends of intervals where they are wanted.

    None wants those of every curve, unless there are more than two: then they would hide each other.
    """
    wanted = intervals_of if intervals_of is not None else {c.name for c in plot.curves if len(plot.curves) <= BANDS}
    ends = [
        each for n, curve in enumerate(plot.curves) if curve.name in wanted for each in _ends(curve, _style(n), plain)
    ]
    level = [] if plot.level is None else [Series("", _level(plot, plot.level), "dim")]
    lines = [
        Series(curve.name, tuple((point.x, point.y) for point in curve.points), _style(n), label=_mark(n))
        for n, curve in enumerate(plot.curves)
    ]
    named = f"{plot.title} ({plot.y})" if plot.y else plot.title
    return Figure(named, (*level, *ends, *lines), plot.x)


def _style(number: int) -> str:
    return STYLES[number % len(STYLES)]


def _level(plot: Lines, level: float) -> tuple[tuple[float, float], ...]:
    (low, high), _ = plot.limits
    return (low, level), (high, level)


def _ends(curve: Curve, style: str, plain: bool) -> list[Series]:
    """The upper and the lower ends of a curve's intervals."""
    tops = tuple((point.x, point.high) for point in curve.points if point.high is not None)
    bottoms = tuple((point.x, point.low) for point in curve.points if point.low is not None)
    upper, lower = ENDS[plain]
    return [Series("", tops, style, sign=upper), Series("", bottoms, style, sign=lower)]


def _intervals(plot: Intervals, width: int, plain: bool) -> list[str]:
    low, high = plot.limits
    wide = max(width - NAME - 34, 20)

    def column(value: float) -> int:
        return round((min(max(value, low), high) - low) / (high - low) * (wide - 1))

    lines = []
    for row in plot.rows:
        cells = [" "] * wide
        if plot.level is not None:
            cells[column(plot.level)] = ":"
        if row.low is not None and row.high is not None:
            start, end = column(row.low), column(row.high)
            cells[start : end + 1] = "-" * (end + 1 - start)
        cells[column(row.value)] = "o" if plain else "●"
        lines.append(f"{one_line(row.name, NAME):>{NAME}} |{''.join(cells)}| {one_line(row.told, 32)}")
    shown = [low, high]
    ends = [tick_text(value, shown, share=plot.share) for value in shown]
    between = " " * max(wide - len(ends[0]) - len(ends[1]), 1)
    return [*lines, " " * (NAME + 2) + ends[0] + between + ends[1] + f"  {plot.x}"]


def _stacks(plot: Stacks, width: int, plain: bool) -> list[str]:
    wide, fills = max(width - NAME - 14, 20), FILLS[plain]
    lines = []
    for name, values in plot.rows:
        total = sum(values)
        most = (total or 1.0) if plot.whole else plot.most
        bar, begun = "", 0.0
        for number, value in enumerate(values):
            begun += value
            bar += fills[number % len(fills)] * (round(begun / most * wide) - len(bar))
        lines.append(f"{one_line(name, NAME):>{NAME}} |{bar:<{wide}} {total:,g}")
    legend = "  ".join(f"{fills[n % len(fills)]} {one_line(part, 24)}" for n, part in enumerate(plot.parts))
    return [*lines, " " * (NAME + 2) + legend + f"   ({plot.x})"]


def _map(plot: Map, width: int) -> list[str]:
    """A letter a group; where several stand at one place, the group that came first, or a star for two groups."""
    if not plot.points:
        return []
    wide, tall = min(width, 72), HEIGHT + 6
    xs, ys = [p[0] for p in plot.points], [p[1] for p in plot.points]
    groups = list(dict.fromkeys(group for _, _, group, _ in plot.points))
    grid = [[" "] * wide for _ in range(tall)]
    for x, y, group, _ in plot.points:
        over = round((x - min(xs)) / ((max(xs) - min(xs)) or 1.0) * (wide - 1))
        at = tall - 1 - round((y - min(ys)) / ((max(ys) - min(ys)) or 1.0) * (tall - 1))
        mark, there = _mark(groups.index(group)), grid[at][over]
        grid[at][over] = mark if there in (" ", mark) else "*"
    names = "  ".join(f"{_mark(n)} {one_line(group, 30)}" for n, group in enumerate(groups))
    return [*("".join(row).rstrip() for row in grid), names]
