"""What every screen of the app has: a row of tabs with the pill on top, panes that say what they lack, a footer.

A screen is a mode and keeps its state while another is shown. A pane is a part of a screen with a title, a body and
at most one notice: why it is empty, that it loads, that it shows a part, how old it is, or what went wrong.

Invariant: notices, titles and tables are given `Content` that `tui.app.content` made; nothing here parses markup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.css.query import NoMatches
from textual.dom import DOMNode
from textual.messages import Prune
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import DataTable, Footer, Input, Static, TextArea
from textual.worker import Worker

from trees.errors import EspalierError
from tui.app.content import Cell, label, safe
from tui.sanitise import in_place

if TYPE_CHECKING:
    from tui.app.app import EspalierApp

Notice = Literal["empty", "loading", "partial", "stale", "error"]

T = TypeVar("T")

TABS = (
    ("home", "Home"),
    ("setup", "Setup"),
    ("monitor", "Monitor"),
    ("trees", "Trees"),
    ("prompts", "Prompts"),
    ("train", "Train"),
    ("evaluation", "Eval"),
)
"""Modes in the order of their keys, from 1."""


WIDTHS = [(0, "-narrow"), (100, "-two"), (160, "-three")]
"""How many panes stand side by side, by the width of the terminal in cells."""
HEIGHTS = [(0, "-short"), (30, "-tall"), (50, "-high")]


class TabPart(Static):
    """Number or name."""

    ALLOW_SELECT = False

    def __init__(self, text: str, classes: str = "") -> None:
        super().__init__(Content(text), classes=classes)


class Tab(Horizontal):
    """The number and the name of a screen, or the number alone where there is little room; a click goes there."""

    def __init__(self, number: int, mode: str, name: str) -> None:
        super().__init__(TabPart(f" {number} "), TabPart(f"{name} ", "name"), id=f"tab-{mode}", classes="tab")
        self.mode = mode

    def on_click(self) -> None:
        app_of(self).switch_mode(self.mode)


class TopBar(Horizontal):
    """Brand, tabs, and how the run stands that is looked at."""

    DEFAULT_CSS = """
    TopBar { height: 1; dock: top; background: $panel; }
    TopBar .brand { width: auto; text-style: bold; color: $text-primary; }
    TopBar .tab { width: auto; height: 1; color: $text-muted; }
    TopBar TabPart { width: auto; }
    TopBar .tab.-active { background: $primary; color: $background; text-style: bold; }
    TopBar #pill { width: 1fr; content-align-horizontal: right; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, active: str) -> None:
        super().__init__()
        self._active = active

    def compose(self) -> ComposeResult:
        yield Static(Content("espalier "), classes="brand")
        for number, (mode, name) in enumerate(TABS, 1):
            tab = Tab(number, mode, name)
            tab.set_class(mode == self._active, "-active")
            yield tab
        yield Static(id="pill")

    def show(self, pill: Content) -> None:
        for shown in self.query("#pill").results(Static):
            shown.update(pill)


class Pane(Vertical):
    """A part of a screen. Its body is what it was given; a notice that is in the way of reading hides the body."""

    DEFAULT_CSS = """
    Pane { border: round $border-blurred; border-title-color: $text-muted; padding: 0; }
    Pane:focus-within { border: round $border; border-title-color: $text; border-title-style: bold; }
    Pane > .notice { display: none; height: auto; padding: 0 1; color: $text-muted; }
    Pane.-noticed > .notice { display: block; }
    Pane.-error > .notice { color: $text-error; }
    Pane.-stale > .notice { color: $text-warning; }
    Pane.-covered > .body { display: none; }
    """

    def __init__(self, title: str, *body: Widget, id: str, about: str) -> None:
        for widget in body:
            widget.add_class("body")
        super().__init__(Static(classes="notice"), *body, id=id, classes="pane")
        self.border_title = Content(title)
        self.about = about
        """What the pane shows and is for: its help."""

    @property
    def noticed(self) -> str:
        """What the notice says; empty if there is none."""
        return str(self.query_one(".notice", Static).content) if self.has_class("-noticed") else ""

    def notice(self, kind: Notice, words: str) -> None:
        """Say what the pane lacks. All but `partial` and `stale` take the place of the body."""
        self.query_one(".notice", Static).update(safe(words))
        self.set_class(True, "-noticed")
        self.set_class(kind in ("empty", "loading", "error"), "-covered")
        for each in ("error", "stale"):
            self.set_class(kind == each, f"-{each}")

    def clear(self) -> None:
        """Nothing is lacking."""
        for each in ("-noticed", "-covered", "-error", "-stale"):
            self.remove_class(each)

    def name_it(self, title: Content | str) -> None:
        self.border_title = Content(title) if isinstance(title, str) else title


class Table(DataTable[Text]):
    """A table with a row cursor, moved by arrows or letters."""

    DEFAULT_CSS = """
    Table { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("h", "cursor_left", "Left", show=False),
        Binding("l", "cursor_right", "Right", show=False),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, show_row_labels=False)

    @property
    def at(self) -> str | None:
        """The key of the row under the cursor."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def columns_are(self, *columns: tuple[str, int | None]) -> None:
        """The headings, each with its width in cells; None for as wide as its cells are."""
        for name, width in columns:
            self.add_column(Text(name), width=width)

    def fill(self, rows: Iterable[tuple[str, Sequence[Cell | list[Cell]]]]) -> None:
        """Show these rows by key: cells that changed are written anew, and the cursor stays on its row."""
        wanted = {key: self._labels(cells) for key, cells in rows}
        shown = [key.value for key in self.rows]
        if shown == list(wanted):
            self._rewrite(wanted)
            return
        kept, top = self.at, self.scroll_y
        self.clear()
        for key, cells in wanted.items():
            self.add_row(*cells, key=key)
        if kept is not None and kept in wanted:
            self.move_cursor(row=self.get_row_index(kept), scroll=False)
            self.scroll_to(y=top, animate=False)

    def append(self, rows: Iterable[tuple[str, Sequence[Cell | list[Cell]]]]) -> None:
        """Show further rows at the end; those that are shown already stay where they are."""
        shown = {key.value for key in self.rows}
        for key, cells in rows:
            if key not in shown:
                self.add_row(*self._labels(cells), key=key)

    def _labels(self, cells: Sequence[Cell | list[Cell]]) -> tuple[Text, ...]:
        theme = self.app.current_theme
        return tuple(label(cell if isinstance(cell, list) else [cell], theme) for cell in cells)

    def _rewrite(self, wanted: dict[str, tuple[Text, ...]]) -> None:
        columns = list(self.columns)
        for key, cells in wanted.items():
            for column, before, cell in zip(columns, self.get_row(key), cells, strict=True):
                if before != cell:
                    self.update_cell(key, column, cell, update_width=True)


def _bound(bindings: Iterable[BindingType]) -> dict[str, str]:
    """Actions by key."""
    made = (each if isinstance(each, Binding) else Binding(*each) for each in bindings)
    return {key: each.action for each in made for key in each.key.split(",")}


async def _act(typed_in: Widget, event: events.Key, bound: Mapping[str, str]) -> None:
    """Do at once what a key is bound to. Textual sends it up to the app first, and letters that a slow line brings
    together with it overtake it."""
    if (action := bound.get(event.key)) is not None:
        event.stop()
        event.prevent_default()
        await typed_in.run_action(action)


class Editor(TextArea):
    """A text that is edited as it is and shown without what would drive the terminal."""

    BOUND: ClassVar = _bound(TextArea.BINDINGS)

    async def on_key(self, event: events.Key) -> None:
        await _act(self, event, self.BOUND)

    def get_line(self, line_index: int) -> Text:
        return Text(in_place(self.document.get_line(line_index)), end="", no_wrap=True)

    def rewrite(self, text: str) -> None:
        """Have it say something else. Only what differs is replaced, and undo brings back what stood there."""
        before = self.text
        first = _alike(before, text)
        last = _alike(before[first:][::-1], text[first:][::-1])
        kept = len(before) - last
        self.replace(text[first : len(text) - last], _place(before[:first]), _place(before[:kept]))


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    unlike = (at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs)
    return next(unlike, min(len(one), len(other)))


def _place(above: str) -> tuple[int, int]:
    """The line and the column that follow a text."""
    return above.count("\n"), len(above) - above.rfind("\n") - 1


class LineEditor(Input):
    """A line that is edited as it is and shown without what would drive the terminal."""

    BOUND: ClassVar = _bound(Input.BINDINGS)

    async def on_key(self, event: events.Key) -> None:
        await _act(self, event, self.BOUND)

    @property
    def _value(self) -> Text:
        return Text(in_place(self.value), end="", no_wrap=True, overflow="ignore")


class Mode(Screen[None]):
    """One of the app's screens. Subclasses compose `panes`, and read the store in `refresh_view`."""

    MODE: ClassVar[str] = ""
    EVERY_S: ClassVar[float] = 0.25
    """How often it follows a store that changes all the time, at most."""
    TOUR: ClassVar[str] = ""
    """What the screen is for, in a few sentences."""

    HORIZONTAL_BREAKPOINTS = WIDTHS
    VERTICAL_BREAKPOINTS = HEIGHTS

    DEFAULT_CSS = """
    Mode.-narrow TopBar .tab .name { display: none; }
    Mode.-narrow TopBar .tab.-active .name { display: block; }
    Mode.-ascii Pane { border: ascii $border-blurred; }
    Mode.-short Pane { border: none; border-top: solid $border-blurred; }
    Mode.-short Pane:focus-within { border: none; border-top: solid $border; }
    """

    ready = False
    """Whether everything on it is there."""

    def on_mount(self) -> None:
        self.ready = True

    def compose(self) -> ComposeResult:
        self.set_class(self.main.plain, "-ascii")
        yield TopBar(self.MODE)
        yield from self.panes()
        yield Footer(compact=True, show_command_palette=False)

    def panes(self) -> ComposeResult:
        yield from ()

    @property
    def main(self) -> EspalierApp:
        return app_of(self)

    def on_screen_resume(self, _: events.ScreenResume) -> None:
        self.main.show_pill()
        self.refresh_view()

    async def on_prune(self, event: Prune) -> None:
        """Its parts are taken down from here on; Textual itself gives up what is being read only after them."""
        self.workers.cancel_node(self)

    def refresh_view(self) -> None:
        """Read what the screen shows again. Called when it is shown and when the store changed."""

    @property
    def unsaved(self) -> str | None:
        """What would be lost with the app; None if nothing."""
        return None

    def copied(self) -> str | None:
        """What `y` copies here; None if there is nothing."""
        return None

    def pane(self, id: str) -> Pane:
        return self.query_one(f"#{id}", Pane)

    def focused_pane(self) -> Pane | None:
        """The pane that has the focus, or the first one."""
        focused = self.focused
        above = [] if focused is None else [w for w in focused.ancestors_with_self if isinstance(w, Pane)]
        return above[0] if above else next(iter(self.query(Pane)), None)

    async def painted(self) -> None:
        """Wait until the screen shows what it holds now."""
        refreshed = asyncio.Event()
        self.call_after_refresh(refreshed.set)
        await refreshed.wait()

    def later(self, work: Callable[[], Coroutine[None, None, None]], group: str) -> None:
        """Do something in the background; what the group was at is given up. It is not begun if it is too late."""
        _: Worker[None] = self.run_worker(work, group=group, exclusive=True)

    def ask(self, group: str, asking: Callable[[], Coroutine[None, None, None]], pane: Pane) -> None:
        """Do some reading in the background; a later one of the same group takes its place. Errors go to the pane."""

        async def guarded() -> None:
            try:
                await asking()
            except EspalierError as error:
                pane.notice("error", f"{error}\nr tries again")

        self.later(partial(unless_gone, self, guarded), group)


async def unless_gone(shown: DOMNode, work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Do some work of the app or a screen; what finds the widgets taken down that it would show it in is over."""
    try:
        await work()
    except NoMatches:
        if shown.is_running and shown.app.is_running:
            raise


def app_of(widget: Widget | Screen[None]) -> EspalierApp:
    """The app that a widget belongs to."""
    return cast("EspalierApp", widget.app)
