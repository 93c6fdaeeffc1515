"""Drawings as PNG files, by Pillow: its wheels carry a font, so nothing of the machine's own is needed.

Invariant: the same drawing gives the same pixels wherever the same Pillow is installed; nothing is read from a disk.
"""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from math import dist
from typing import TYPE_CHECKING

from tui.reports.shapes import Area, Box, Dot, Drawing, Label, Line, Shape
from tui.reports.svg_pen import INKS, corners

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SCALE = 2
"""Pixels a point of the picture."""
SMOOTH = 2
"""It is drawn so much larger and made small again, which smooths its edges."""
_DASH, _GAP = 5.0, 4.0
_OPACITY = 41
"""Of 255: how much of an area covers what is under it."""


def png(drawing: Drawing) -> bytes:
    """The picture as a PNG file's bytes."""
    from PIL import Image, ImageDraw

    size = (round(drawing.width * SCALE * SMOOTH), round(drawing.height * SCALE * SMOOTH))
    image = Image.new("RGB", size, INKS["paper"])
    for shape in drawing.shapes:
        if isinstance(shape, Area):
            image = _seen_through(image, shape)
        elif not isinstance(shape, Label):
            _draw(ImageDraw.Draw(image), shape)
    small = image.resize((size[0] // SMOOTH, size[1] // SMOOTH), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(small)
    for shape in drawing.shapes:
        if isinstance(shape, Label):
            _write(pen, shape)
    out = BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def _seen_through(image: Image, area: Area) -> Image:
    from PIL import Image, ImageDraw

    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).polygon([_large(place) for place in area.points], fill=_OPACITY)
    image.paste(INKS[area.ink], (0, 0, *image.size), mask)
    return image


def _draw(pen: ImageDraw, shape: Shape) -> None:
    ink = INKS[shape.ink]
    match shape:
        case Line():
            wide = max(1, round(shape.width * SCALE * SMOOTH))
            for part in _dashes(shape):
                pen.line([_large(place) for place in part], fill=ink, width=wide, joint="curve")
        case Box():
            end = (shape.x + shape.width, shape.y + shape.height)
            pen.rectangle((*_large((shape.x, shape.y)), *_large(end)), fill=ink)
        case Dot() if shape.mark == "circle":
            x, y, r = shape.x, shape.y, shape.size
            pen.ellipse((*_large((x - r, y - r)), *_large((x + r, y + r))), fill=ink)
        case Dot():
            pen.polygon([_large(place) for place in corners(shape)], fill=ink)


def _write(pen: ImageDraw, label: Label) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(label.size * SCALE)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[label.anchor]
    place = (label.x * SCALE, label.y * SCALE)
    pen.text(place, label.text, fill=INKS[label.ink], font=font, anchor=anchor, stroke_width=0.5 if label.bold else 0)


def _dashes(line: Line) -> list[tuple[tuple[float, float], ...]]:
    """The line, or the strokes of a dashed one; a stroke ends at a corner."""
    if not line.dashed:
        return [line.points] if len(line.points) > 1 else []
    strokes: list[tuple[tuple[float, float], ...]] = []
    for (ax, ay), (bx, by) in pairwise(line.points):
        whole, begun = dist((ax, ay), (bx, by)), 0.0
        while begun < whole:
            ended = min(begun + _DASH, whole)
            a, b = begun / whole, ended / whole
            strokes.append(((ax + a * (bx - ax), ay + a * (by - ay)), (ax + b * (bx - ax), ay + b * (by - ay))))
            begun = ended + _GAP
    return strokes


def _large(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] * SCALE * SMOOTH, place[1] * SCALE * SMOOTH
