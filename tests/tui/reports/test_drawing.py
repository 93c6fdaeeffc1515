"""Plots: axes, shapes and text for any values a store can hold."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tui.reports.plots import Curve, Intervals, Lines, Map, Measured, Plot, Point, Stacks, mean_of_stretches, ticks
from tui.reports.png_pen import png
from tui.reports.shapes import RIGHT, WIDTH, Area, Dot, Label, Line, drawing
from tui.reports.svg_pen import alone, inside
from tui.reports.text_pen import text_of

numbers = st.floats(-1e9, 1e9, allow_nan=False)
names = st.text(max_size=40)


@given(numbers, st.floats(1e-6, 1e9))
def test_ticks_lie_between_the_ends_at_even_distances(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 6
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in found)


@given(
    st.lists(st.tuples(names, st.lists(st.tuples(st.integers(1, 50), numbers, st.booleans()), max_size=6)), max_size=5)
)
@settings(max_examples=40, deadline=None)
def test_every_plot_is_drawn_by_every_pen(given_curves: list[tuple[str, list[tuple[int, float, bool]]]]) -> None:
    curves = tuple(
        Curve(name, tuple(Point(x, y, y - 1 if i else None, y + 1 if i else None) for x, y, i in points))
        for name, points in given_curves
    )
    rows = tuple((name, tuple(abs(y) for _, y, _ in points) or (0.0,)) for name, points in given_curves)
    parts = tuple(str(n) for n in range(max((len(values) for _, values in rows), default=1)))
    measured = tuple(Measured(name, y, y, y + 1) for name, points in given_curves for _, y, _ in points)
    plots: tuple[Plot, ...] = (
        Lines("a", "<a> & b", "x", "y", curves, whole_x=True, level=0.0, events=((1.0, "<b>"),)),
        Intervals("b", "b", "x", measured, share=False, level=0.0),
        Stacks("c", "c", "x", parts, rows, whole=True),
        Map("d", "d", tuple((x, y, name, name) for name, points in given_curves for x, y, _ in points)),
    )
    for plot in plots:
        drawn = drawing(plot)
        assert re.search(r"nan|inf\b", inside(drawn)) is None or any("nan" in n or "inf" in n for n, _ in given_curves)
        assert "\x1b" not in "\n".join(text_of(plot))


def test_pictures_are_the_same_bytes_each_time() -> None:
    plot = Lines("al", "AL", "turn", "points", (Curve("base", (Point(1, 2, 1, 3), Point(2, 3, 2, 4))),), whole_x=True)
    assert png(drawing(plot)) == png(drawing(plot))
    assert alone(drawing(plot)).count("http") == 1, "the name of SVG itself"
    assert "http" not in inside(drawing(plot))


def test_two_curves_have_bands_and_more_have_strokes_beside_each_other() -> None:
    def plot(count: int) -> Lines:
        points = (Point(1, 2, 1, 3), Point(2, 3, 2, 4))
        return Lines("al", "AL", "turn", "", tuple(Curve(f"m{n}", points) for n in range(count)), whole_x=True)

    assert sum(isinstance(shape, Area) for shape in drawing(plot(2)).shapes) == 2
    three = drawing(plot(3)).shapes
    assert not any(isinstance(shape, Area) for shape in three)
    dots = [shape for shape in three if isinstance(shape, Dot) and shape.told]
    assert len({dot.x for dot in dots}) == 6
    assert len({dot.mark for dot in dots}) == 3, "never by colour alone"


def test_names_at_the_ends_of_curves_do_not_lie_on_each_other() -> None:
    curves = tuple(Curve(f"model {n}", (Point(1, 1.0), Point(2, 2.0))) for n in range(6))
    shapes = drawing(Lines("al", "AL", "turn", "", curves)).shapes
    places = sorted(shape.y for shape in shapes if isinstance(shape, Label) and shape.text.startswith("model"))
    assert all(below - above >= 14 for above, below in pairwise(places))


def test_an_interval_beyond_the_axis_ends_at_it() -> None:
    rows = (Measured("wins", 1.0, 0.6, 1.4),)
    shapes = drawing(Intervals("w", "wins", "share", rows)).shapes
    ends = [x for shape in shapes if isinstance(shape, Line) and shape.width == 3.0 for x, _ in shape.points]
    assert max(ends) == pytest.approx(WIDTH - RIGHT)


def test_long_curves_are_means_of_stretches() -> None:
    points = [Point(float(x), float(x % 2)) for x in range(1000)]
    short = mean_of_stretches(points, 100)
    assert len(short) == 100
    assert all(point.y == 0.5 for point in short)


def test_text_names_every_curve_by_a_letter_and_needs_no_unicode() -> None:
    curves = (Curve("up", (Point(1, 1), Point(2, 2))), Curve("down", (Point(1, 2), Point(2, 1))))
    lines = text_of(Lines("al", "AL", "turn", "points", curves), plain=True)
    assert lines[0] == "AL (points)  A up  B down"
    assert all(line.isascii() for line in lines)
    assert any(line.endswith("A") for line in lines)
    assert any(line.endswith("B") for line in lines)
