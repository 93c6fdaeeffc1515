"""Plots as lines of text, for a terminal or a log: the same values as on the page, with marks instead of colours.

Invariant: plain characters of one cell each; a line is at most `width` cells wide but for long names of groups.
"""

from __future__ import annotations

from string import ascii_uppercase

from tui.reports.plots import Intervals, Lines, Map, Plot, Stacks, tick_text, ticks
from tui.sanitise import one_line

HEIGHT = 14
WIDTH = 100
NAME = 24
FILLS = "█▓▒░▚▞·+"


def text_of(plot: Plot, width: int = WIDTH) -> list[str]:
    """A plot in characters, under its title."""
    match plot:
        case Lines():
            drawn = _lines(plot, width)
        case Intervals():
            drawn = _intervals(plot, width)
        case Stacks():
            drawn = _stacks(plot, width)
        case Map():
            drawn = _map(plot, width)
    return [one_line(plot.title, width), *drawn]


def _mark(number: int) -> str:
    return ascii_uppercase[number % len(ascii_uppercase)]


def _lines(plot: Lines, width: int) -> list[str]:
    """A letter a curve, a star where two meet, and a bar for an interval where nothing else stands."""
    (x_low, x_high), (y_low, y_high) = plot.limits
    wide = max(width - 12, 20)
    grid = [[" "] * wide for _ in range(HEIGHT)]

    def column(x: float) -> int:
        return min(round((x - x_low) / (x_high - x_low) * (wide - 3)) + 1, wide - 1)

    def line(y: float) -> int:
        return HEIGHT - 1 - round((min(max(y, y_low), y_high) - y_low) / (y_high - y_low) * (HEIGHT - 1))

    for curve in plot.curves:
        for point in curve.points:
            if point.low is not None and point.high is not None:
                for at in range(line(point.high), line(point.low) + 1):
                    grid[at][column(point.x)] = "|"
    for number, curve in enumerate(plot.curves):
        for point in curve.points:
            at, over = line(point.y), column(point.x)
            mark, there = _mark(number), grid[at][over]
            grid[at][over] = mark if there in " |" or there == mark else "*"
    rows = ticks(y_low, y_high)
    labels = {line(tick): tick_text(tick, rows, share=plot.share) for tick in rows}
    columns = ticks(x_low, x_high, 10 if plot.whole_x else 6, whole=plot.whole_x)
    below = [" "] * (wide + 8)
    for tick in columns:
        text = tick_text(tick, columns)
        start = min(max(column(tick) - len(text) // 2, 0), wide + 8 - len(text))
        below[start : start + len(text)] = text
    names = "  ".join(f"{_mark(n)} {one_line(curve.name, 30)}" for n, curve in enumerate(plot.curves))
    return [
        *(f"{labels.get(at, ''):>9} |{''.join(row).rstrip()}" for at, row in enumerate(grid)),
        " " * 10 + "+" + "-" * wide,
        " " * 11 + "".join(below).rstrip() + f"  {plot.x}",
        " " * 11 + names + f"   ({plot.y})",
        *(f"           at {x:g}: {one_line(what, width)}" for x, what in plot.events),
    ]


def _intervals(plot: Intervals, width: int) -> list[str]:
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
        cells[column(row.value)] = "●"
        lines.append(f"{one_line(row.name, NAME):>{NAME}} |{''.join(cells)}| {one_line(row.told, 32)}")
    shown = [low, high]
    ends = [tick_text(value, shown, share=plot.share) for value in shown]
    between = " " * max(wide - len(ends[0]) - len(ends[1]), 1)
    return [*lines, " " * (NAME + 2) + ends[0] + between + ends[1] + f"  {plot.x}"]


def _stacks(plot: Stacks, width: int) -> list[str]:
    wide = max(width - NAME - 14, 20)
    lines = []
    for name, values in plot.rows:
        total = sum(values)
        scale = wide / ((total or 1.0) if plot.whole else plot.most)
        bar, begun = "", 0.0
        for number, value in enumerate(values):
            begun += value
            bar += FILLS[number % len(FILLS)] * (round(begun * scale) - len(bar))
        lines.append(f"{one_line(name, NAME):>{NAME}} |{bar:<{wide}} {total:,g}")
    legend = "  ".join(f"{FILLS[n % len(FILLS)]} {one_line(part, 24)}" for n, part in enumerate(plot.parts))
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
