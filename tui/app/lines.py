"""A list of lines of which only those in sight are made into text: thousands of messages are shown like a few.

`DataTable` measures and styles every row as it is added; here a row costs nothing until it is scrolled to, and it is
made of whatever holds at the moment it is painted.

Invariant: rows are one line each and hold safe text; keys are different from each other; the cursor is on a row if
there is any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size, Spacing
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.app.content import Cell, label

Row = tuple[str, Callable[[], Sequence[Cell]]]
"""The key of a line, and what makes its parts."""


class Lines(ScrollView, can_focus=True):
    """Lines with a cursor, moved by arrows, letters or the mouse; with headings, their parts stand in columns."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--cursor", "lines--heading"}
    DEFAULT_CSS = """
    Lines { height: 1fr; background: $surface; color: $foreground; }
    Lines > .lines--heading { background: $panel; color: $foreground; text-style: bold; }
    Lines > .lines--cursor {
        background: $block-cursor-blurred-background;
        color: $block-cursor-blurred-foreground;
        text-style: $block-cursor-blurred-text-style;
    }
    Lines:focus { background-tint: $foreground 5%; }
    Lines:focus > .lines--cursor {
        background: $block-cursor-background;
        color: $block-cursor-foreground;
        text-style: $block-cursor-text-style;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("left,h", "scroll_left", "Left", show=False),
        Binding("right,l", "scroll_right", "Right", show=False),
        Binding("pageup", "page(-1)", "A page up", show=False),
        Binding("pagedown", "page(1)", "A page down", show=False),
        Binding("home,ctrl+home", "first", "To the first", show=False),
        Binding("end,ctrl+end", "last", "To the last", show=False),
    ]

    class Highlighted(Message):
        """The cursor was moved to another line."""

        def __init__(self, lines: Lines) -> None:
            super().__init__()
            self.lines = lines

    class Selected(Highlighted):
        """A line was clicked on."""

    def __init__(self, *headings: tuple[str, int], id: str) -> None:
        """Headings with the widths of their columns; with none, lines are whole."""
        super().__init__(id=id)
        self._headings = headings
        self._widths = [width for _, width in headings]
        self._rows: list[Row] = []
        self.cursor_row = 0

    @property
    def at(self) -> str | None:
        """The key of the line under the cursor."""
        return self._rows[self.cursor_row][0] if self._rows else None

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def fill(self, rows: Iterable[Row], *, last: int = 0) -> None:
        """Show these lines, the last column so wide. The cursor stays on its key, and what is in sight in sight."""
        kept, self._rows = self.at, list(rows)
        place = next((place for place, (key, _) in enumerate(self._rows) if key == kept), None)
        self.cursor_row = place or 0
        self._widths[-1:] = [last] if self._widths else []
        self._measure()
        if place is None:
            self.scroll_to(y=0, animate=False)
        self.refresh()

    def move_cursor(self, *, row: int, tell: bool = True) -> None:
        """Go to a line, as far as there are lines, and tell it if it is another one."""
        row = max(0, min(row, len(self._rows) - 1))
        if row != self.cursor_row:
            self.refresh_line(self.cursor_row + self._above)
            self.cursor_row = row
            self.refresh_line(row + self._above)
            if tell:
                self.post_message(self.Highlighted(self))
        self._into_sight()

    @property
    def _above(self) -> int:
        """Lines above the first row."""
        return 1 if self._headings else 0

    def _measure(self) -> None:
        width = sum(width + 2 for width in self._widths) or self.size.width
        self.virtual_size = Size(width, len(self._rows) + self._above)

    def _into_sight(self) -> None:
        line = Region(self.scroll_offset.x, self.cursor_row + self._above, 1, 1)
        self.scroll_to_region(line, spacing=Spacing(self._above, 0, 0, 0), animate=False, force=True)

    def on_resize(self, _: events.Resize) -> None:
        self._measure()
        self._into_sight()

    # Drawing

    def render_line(self, y: int) -> Strip:
        row = y + self.scroll_offset.y - self._above
        if self._headings and y == 0:
            return self._strip([(name, "") for name, _ in self._headings], self._style("heading"))
        if row >= len(self._rows):
            return Strip.blank(self.size.width, self.rich_style)
        return self._strip(self._rows[row][1](), self._style("cursor") if row == self.cursor_row else None)

    def _style(self, part: str) -> Style:
        return self.get_component_rich_style(f"lines--{part}")

    def _strip(self, cells: Sequence[Cell], over: Style | None) -> Strip:
        """The part of a line that is in sight, in tones of its own or in one style all over."""
        if self._widths:
            padded = zip(cells, self._widths, strict=True)
            cells = [(f" {set_cell_size(text, width)} ", tone) for (text, tone), width in padded]
        else:
            cells = [(" ", ""), *cells]
        text = label(cells, self.app.current_theme)
        strip = Strip(Segment.apply_style(text.render(self.app.console), self.rich_style, over))
        left, width = self.scroll_offset.x, self.size.width
        return strip.crop(left, left + width).adjust_cell_length(width, over or self.rich_style)

    # Moving

    def action_move(self, step: int) -> None:
        self.move_cursor(row=self.cursor_row + step)

    def action_page(self, step: int) -> None:
        page = self.scrollable_content_region.height - self._above
        self.move_cursor(row=self.cursor_row + step * max(page - 1, 1))

    def action_first(self) -> None:
        self.move_cursor(row=0)

    def action_last(self) -> None:
        self.move_cursor(row=len(self._rows) - 1)

    def on_click(self, event: events.Click) -> None:
        row = event.y + self.scroll_offset.y - self._above
        if event.y >= self._above and 0 <= row < len(self._rows):
            self.move_cursor(row=row)
            self.post_message(self.Selected(self))
