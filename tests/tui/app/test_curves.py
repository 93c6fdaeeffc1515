"""Curves as values: thinning, smoothing, round numbers, and what is drawn of them, as a picture and as a table."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from tui.app.curves import Figure, Series, decimate, drawn, smooth, tabled, ticks
from tui.draw import Line

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=400)


def said(lines: list[Line]) -> list[str]:
    return ["".join(span.text for span in line) for line in lines]


def figure(values: list[float | None], **more: bool) -> Figure:
    points = [(float(x), y) for x, y in enumerate(values)]
    return Figure("loss", (Series("raw", points, "dim"), Series("smoothed", smooth(points))), **more)


@settings(max_examples=40, deadline=None)
@given(VALUES, st.integers(1, 60))
def test_thinned_points_are_few_in_order_and_keep_the_extremes(values: list[float | None], columns: int) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    kept = decimate(points, 0, max(len(points) - 1, 0), columns)
    assert len(kept) <= max(2 * columns, 2)
    assert set(kept) <= set(points)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    numbers = [y for y in values if y is not None]
    shown = [y for _, y in kept if y is not None]
    assert (min(numbers, default=0), max(numbers, default=0)) == (min(shown, default=0), max(shown, default=0))


def test_smoothing_begins_without_bias_follows_a_step_and_passes_over_what_is_no_number() -> None:
    assert [y for _, y in smooth([(x, 3.0) for x in range(5)], 10)] == pytest.approx([3.0] * 5)
    stepped = smooth([(x, 0.0 if x < 50 else 1.0) for x in range(100)], 5)
    assert stepped[49][1] == pytest.approx(0)
    assert stepped[-1][1] == pytest.approx(1, abs=1e-6)
    assert smooth([(0, 1.0), (1, None), (2, 1.0)], 3) == [(0, 1.0), (1, None), (2, pytest.approx(1.0))]


@settings(max_examples=40, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 12))
def test_ticks_are_few_round_and_inside(low: float, length: float, most: int) -> None:
    found = ticks(low, low + length, most)
    assert len(found) <= most + 1
    assert all(low - length * 1e-6 <= tick <= low + length * (1 + 1e-6) for tick in found)


@settings(max_examples=40, deadline=None)
@given(VALUES, st.integers(1, 120), st.integers(1, 40), st.booleans(), st.booleans())
@example([1.9465304066875296e-133] * 2, 16, 4, True, False)
def test_a_figure_is_as_large_as_it_was_told(
    values: list[float | None], width: int, height: int, log: bool, plain: bool
) -> None:
    for lines in (drawn(figure(values, log=log), width, height, plain=plain), tabled(figure(values), width, height)):
        assert all(cell_len(line) <= width for line in said(lines))
        assert len(lines) <= max(height, 3)


def test_a_falling_loss_falls_and_names_its_numbers() -> None:
    shown = said(drawn(figure([2 * math.exp(-x / 30) + 0.5 for x in range(100)]), 60, 12))
    assert shown[0].startswith("loss")
    assert "smoothed" in shown[0]
    first, last = (next(row for row, line in enumerate(shown[1:-1]) if line[at] not in " │") for at in (8, 55))
    assert first < last
    assert "step" in shown[-1]
    assert any(line.strip().startswith("2│") for line in shown)


def test_in_ascii_nothing_else_is_drawn() -> None:
    assert "".join(said(drawn(figure([1.0, 3.0, None, 2.0]), 50, 10, plain=True))).isascii()


def test_a_logarithmic_axis_says_what_it_has_no_place_for_and_a_name_cannot_reach_the_terminal() -> None:
    points = [(0.0, 100.0), (1.0, 0.0), (2.0, 0.001)]
    shown = said(drawn(Figure("x\x1b[2J", (Series("\x1b]52;c;", points),), log=True), 70, 12))
    assert "1 not above 0" in shown[0]
    assert {"0.001", "0.1", "10"} <= {line.partition("│")[0].strip() for line in shown}
    assert "\x1b" not in "".join(shown)


def test_a_table_tells_each_series_since_the_row_above() -> None:
    often, seldom = Series("often", [(x, x / 10) for x in range(10)]), Series("seldom", [(7, 0.5)])
    rows = [line.split() for line in said(tabled(Figure("t", (often, seldom)), 60, 100))]
    assert rows[1] == ["step", "often", "seldom"]
    assert rows[9] == ["7", "0.7", "0.5"]
    assert rows[8] == ["6", "0.6"]


def test_a_value_is_read_off_at_a_step() -> None:
    shown = said(drawn(Figure("loss", (Series("s", [(x, float(x)) for x in range(50)]),), at=20), 60, 10))
    assert "at step 20" in shown[0]
    assert "s 20" in shown[0]
