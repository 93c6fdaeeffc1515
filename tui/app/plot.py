"""The widget that shows a figure: as a picture or as a table, in whatever room it has.

Invariant: what it is given is drawn when it is painted, so a figure that nobody sees costs nothing.
"""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from tui.app.content import drawn as as_content
from tui.app.curves import Figure, drawn, tabled


class CurvePlot(Widget, can_focus=True):
    """One figure."""

    DEFAULT_CSS = """
    CurvePlot { height: 1fr; width: 1fr; padding: 0 1; }
    CurvePlot:focus { background: $boost; }
    """

    def __init__(self, *, id: str | None = None, plain: bool = False) -> None:
        super().__init__(id=id)
        self._figure = Figure("", (), nothing="")
        self._table = False
        self._plain = plain

    @property
    def figure(self) -> Figure:
        return self._figure

    def show(self, figure: Figure, *, as_table: bool = False) -> None:
        """Draw this from now on; the same again costs nothing."""
        if (figure, as_table) != (self._figure, self._table):
            self._figure, self._table = figure, as_table
            self.refresh()

    def text(self) -> str:
        """The whole figure as a table in plain text: what is copied of it."""
        lines = tabled(self._figure, width=10_000, height=10_000)
        return "\n".join("".join(span.text for span in line) for line in lines)

    def render(self) -> Content:
        width, height = self.size
        if self._table:
            return as_content(tabled(self._figure, width, height))
        return as_content(drawn(self._figure, width, height, plain=self._plain))
