"""Pictures as SVG text: histograms, bars and maps for pages that need no network.

Invariant: every text in a picture is escaped here; colours come from the page's own variables, so that a picture
follows a light or dark page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from tui.sanitise import one_line

WIDTH, HEIGHT = 560, 220
_EDGE = 28
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#888888")
"""Okabe and Ito's, which most colour-blind people tell apart."""


def histogram(counts: Sequence[int], low: float, high: float, label: str, mark: float | None = None) -> str:
    """Bars over equal bins from `low` to `high`; `mark` draws a line with its value."""
    most = max([*counts, 1])
    wide = (WIDTH - 2 * _EDGE) / max(len(counts), 1)
    parts = [
        _bar(_EDGE + at * wide, count / most, wide - 1, f"{_bin(at, len(counts), low, high)}: {count}")
        for at, count in enumerate(counts)
    ]
    parts += [_text(_EDGE, HEIGHT - 6, f"{low:g}"), _text(WIDTH - _EDGE, HEIGHT - 6, f"{high:g}", anchor="end")]
    if mark is not None:
        x = _EDGE + (mark - low) / (high - low) * (WIDTH - 2 * _EDGE)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="14" y2="{HEIGHT - _EDGE}" class="mark"/>')
        parts.append(_text(x, 12, f"{mark:.2f}", anchor="middle"))
    return _svg(label, parts)


def bars(counts: Sequence[tuple[str, float]], label: str) -> str:
    """Upright bars with a name each on hovering."""
    most = max([value for _, value in counts] + [1e-9])
    wide = (WIDTH - 2 * _EDGE) / max(len(counts), 1)
    parts = [
        _bar(_EDGE + at * wide, value / most, max(wide - 1, 0.5), f"{name}: {value:g}")
        for at, (name, value) in enumerate(counts)
    ]
    return _svg(label, parts)


def scatter(points: Sequence[tuple[float, float, str, str]], label: str) -> str:
    """A map of (x, y, group, text); groups are coloured by size, the smallest ones share the last colour."""
    if not points:
        return _svg(label, [_text(WIDTH / 2, HEIGHT / 2, "nothing to show", anchor="middle")])
    colours = colours_of([group for _, _, group, _ in points])
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    dots = []
    for x, y, group, text in points:
        across, down = _scaled(x, xs, WIDTH), HEIGHT * 2 - _scaled(y, ys, HEIGHT * 2)
        told = escape(one_line(f"{group}: {text}", 300))
        colour = colours[group]
        dots.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{colour}"><title>{told}</title></circle>')
    return _svg(label, dots, height=HEIGHT * 2)


def colours_of(groups: Sequence[str]) -> Mapping[str, str]:
    """A colour for each group, the largest first."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    ranked = sorted(sizes, key=lambda group: (-sizes[group], group))
    return {group: COLOURS[min(at, len(COLOURS) - 1)] for at, group in enumerate(ranked)}


def _scaled(value: float, values: Sequence[float], length: float) -> float:
    low, high = min(values), max(values)
    return _EDGE / 2 + (value - low) / ((high - low) or 1) * (length - _EDGE)


def _bin(at: int, of: int, low: float, high: float) -> str:
    wide = (high - low) / of
    return f"{low + at * wide:.2f} to {low + (at + 1) * wide:.2f}"


def _bar(x: float, share: float, wide: float, told: str) -> str:
    tall = share * (HEIGHT - 2 * _EDGE)
    where = f'x="{x:.1f}" y="{HEIGHT - _EDGE - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
    return f'<rect {where} class="bar"><title>{escape(told)}</title></rect>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(label: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    inside = "".join(parts)
    named = f'role="img" aria-label="{escape(label, quote=True)}"'
    return f'<svg viewBox="0 0 {WIDTH} {height}" {named} xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
