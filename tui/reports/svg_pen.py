"""Drawings as SVG: inside a page, in the page's own colours, or as a file of its own.

Invariant: every text is escaped here, and nothing refers to anything outside the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import sqrt

from tui.reports.shapes import Area, Box, Dot, Drawing, Label, Line, Shape
from tui.svg import COLOURS

INKS: Mapping[str, str] = {
    "ink": "#1b1b1b",
    "quiet": "#5f5f5a",
    "line": "#dcdcd6",
    "paper": "#ffffff",
    **{f"c{number}": colour for number, colour in enumerate(COLOURS)},
}
"""On white paper."""
_NAMESPACE = "http://www.w3.org/2000/svg"


def inside(drawing: Drawing) -> str:
    """For a page, whose style sheet gives a colour to each ink as a variable."""
    return _svg(drawing, {name: f"var(--{name})" for name in INKS}, "")


def alone(drawing: Drawing) -> str:
    """A whole file, on white paper, with words in whatever sans serif there is."""
    paper = f'<rect width="{drawing.width:g}" height="{drawing.height:g}" fill="{INKS["paper"]}"/>'
    head = f'xmlns="{_NAMESPACE}" width="{drawing.width:g}" height="{drawing.height:g}" font-family="sans-serif" '
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _svg(drawing, INKS, head, paper) + "\n"


def _svg(drawing: Drawing, inks: Mapping[str, str], head: str, first: str = "") -> str:
    shapes = "".join(_shape(shape, inks) for shape in drawing.shapes)
    box = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    named = f'role="img" aria-label="{escape(drawing.title, quote=True)}"'
    return f"<svg {head}{box} {named}>{first}{shapes}</svg>"


def _shape(shape: Shape, inks: Mapping[str, str]) -> str:
    ink = inks[shape.ink]
    match shape:
        case Line():
            dashes = ' stroke-dasharray="5 4"' if shape.dashed else ""
            drawn = f'fill="none" stroke="{ink}" stroke-width="{shape.width:g}" stroke-linejoin="round"{dashes}'
            return _told(f'<polyline points="{_places(shape.points)}" {drawn}', "polyline", shape.told)
        case Area():
            return f'<polygon points="{_places(shape.points)}" fill="{ink}" fill-opacity="0.16"/>'
        case Box():
            where = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
            return _told(f'<rect {where} fill="{ink}"', "rect", shape.told)
        case Dot():
            return _dot(shape, ink)
        case Label():
            weight = ' font-weight="600"' if shape.bold else ""
            how = f'font-size="{shape.size}" text-anchor="{shape.anchor}" fill="{ink}"{weight}'
            return f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" {how}>{escape(shape.text)}</text>'


def _dot(dot: Dot, ink: str) -> str:
    if dot.mark == "circle":
        begun = f'<circle cx="{dot.x:.1f}" cy="{dot.y:.1f}" r="{dot.size:g}" fill="{ink}"'
        return _told(begun, "circle", dot.told)
    return _told(f'<polygon points="{_places(corners(dot))}" fill="{ink}"', "polygon", dot.told)


def corners(dot: Dot) -> tuple[tuple[float, float], ...]:
    """The corners of a mark that has some, about as large as a circle of its size."""
    x, y, r = dot.x, dot.y, dot.size
    if dot.mark == "square":
        h = r * 0.88
        return (x - h, y - h), (x + h, y - h), (x + h, y + h), (x - h, y + h)
    if dot.mark == "triangle":
        h = r * 1.25
        return (x, y - h), (x + h * sqrt(3) / 2, y + h / 2), (x - h * sqrt(3) / 2, y + h / 2)
    h = r * 1.25
    return (x, y - h), (x + h, y), (x, y + h), (x - h, y)


def _places(points: tuple[tuple[float, float], ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _told(begun: str, element: str, told: str) -> str:
    """An element, with what is shown when one points at it."""
    return f"{begun}><title>{escape(told)}</title></{element}>" if told else f"{begun}/>"
