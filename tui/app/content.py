"""Between text and widgets: everything that comes from models, files or the store becomes `Content` here.

Invariant: no text of a model is ever parsed as markup, and none reaches a widget without `tui.sanitise`.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual.content import Content
from textual.theme import Theme

from tui.app.standing import SIGNS, Word
from tui.draw import Line
from tui.sanitise import one_line, visible

Cell = tuple[str, str]
"""A cell of a table or the label of a row: one safe line, and its tone."""

TONES = {
    "": ("", ""),
    "bold": ("bold", "bold"),
    "muted": ("$text-muted", "dim"),
    "good": ("$text-success", "success"),
    "warn": ("$text-warning", "warning"),
    "bad": ("$text-error", "error"),
    "accent": ("$text-accent", "accent"),
    "user": ("bold $text-primary", "primary"),
    "told": ("italic $text-secondary", "secondary"),
}
"""What text may sound like: its style in `Content`, and the colour of the theme (or the style) where rich prints it."""

_DRAWN = {
    "bold green": "good",
    "green": "good",
    "red": "bad",
    "bold red": "bad",
    "yellow": "warn",
    "cyan": "accent",
    "bold cyan": "accent",
    "bold blue": "user",
    "italic magenta": "told",
    "dim": "muted",
    "bold": "bold",
}
"""The tones of drawn lines, so that every theme has its own colours for them."""


def safe(text: str, tone: str = "") -> Content:
    """Text of any origin, made safe."""
    return Content.styled(visible(text), TONES[tone][0])


def styled(*parts: str | Cell) -> Content:
    """Parts of a line that are safe already, each plain or with its tone."""
    toned = ((part, "") if isinstance(part, str) else part for part in parts)
    return Content.assemble(*((text, TONES[tone][0]) for text, tone in toned))


def flat(text: str, width: int, tone: str = "") -> Cell:
    """The beginning of a text as one safe line."""
    return one_line(text, width), tone


def label(cells: Iterable[Cell], theme: Theme) -> Text:
    """Safe parts of a line as rich prints them: in tables and trees, which know no variables of a theme."""
    return Text.assemble(*((text, _in_rich(tone, theme)) for text, tone in cells), no_wrap=True, end="")


def _in_rich(tone: str, theme: Theme) -> str:
    name = TONES[tone][1]
    return name if name in ("", "bold", "dim") else (getattr(theme, name) or theme.primary).replace("ansi_", "")


def drawn(lines: Iterable[Line]) -> Content:
    """Drawn lines; their text is safe already."""
    return Content("\n").join(styled(*cells_of(line)) for line in lines)


def cells_of(line: Line) -> list[Cell]:
    """A drawn line in tones."""
    return [(span.text, _DRAWN.get(span.style, "")) for span in line]


def pill(word: Word, *, plain: bool) -> Cell:
    """How a run stands, as a sign and its word."""
    sign, in_ascii, tone = SIGNS[word]
    return f"{in_ascii if plain else sign} {word}", tone


def bar(share: float, width: int, *, plain: bool) -> Content:
    """A share as a bar of so many cells."""
    full = round(max(0.0, min(share, 1.0)) * width)
    done, rest = ("#", ".") if plain else ("━", "─")
    return styled((done * full, "good"), (rest * (width - full), "muted"))
