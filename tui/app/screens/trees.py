"""Trees: the list of trees, the outline of one, and what was said and judged of the message under the cursor.

Three panes side by side on a wide terminal, two on a middling one, one at a time on a narrow one, where `enter` goes
deeper and `escape` comes back. What a person does to a tree is done by the command line, as branches beside the old.

Invariant: the screen holds what the store answered last and the place of three cursors; nothing else is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from rich.cells import set_cell_size
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import DataTable, Input, Static

from simulation.votes import CannotVote, Person, keep_vote
from trees.store import Store
from trees.values import Node
from tui.app import blind, filters, index, telling
from tui.app.content import Cell, cells_of, drawn, flat, safe, styled
from tui.app.dialogs import Line, Text
from tui.app.frame import LineEditor, Mode, Pane, Table
from tui.app.handing_out import hand_out, trees_of
from tui.app.index import Asked, Came, Counted, Index
from tui.app.notes import Notes, keep
from tui.app.opened import Opened, OutlineRow, open_tree, outline
from tui.app.sentences import compared
from tui.draw import Look, Span
from tui.prompting import rendered
from tui.sanitise import one_line, visible

Reading = Callable[[], Coroutine[None, None, None]]
View = Literal["text", "diff", "judged", "persona", "prompt", "raw"]
VIEWS: dict[str, View] = {"t": "text", "d": "diff", "g": "judged", "p": "persona", "w": "prompt", "J": "raw"}
"""Views of the detail pane by key."""

SEEN_BLIND: tuple[View, ...] = ("text", "persona")
"""Views that tell nothing of who wrote a reply or what anybody said of it."""
GROWING = ("reroll", "edit", "extend")
WHO = 18
"""Characters of a persona in the list: with them it fits beside two panes."""
COLUMNS = (("", 2), ("tree", 8), ("who", WHO), ("t", 3), ("win", 4), ("=", 3), ("margin", 7))
"""Headings of the list of trees, and their widths in cells of the terminal."""
TYPING_S = 0.15
"""How long a person must have stopped typing before a filter is asked, in seconds."""
AHEAD = 50
"""The next page is asked for when the cursor is this near to the end of what is listed."""
SLICE = 250
"""Messages that the outline takes up at once; the rest follow while the screen answers keys."""


class IndexPane(Pane):
    """The list of trees."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.deeper", "Open", id="trees.open"),
        Binding("slash", "screen.filter", "Filter", key_display="/", id="trees.filter"),
        Binding("o", "screen.order", "Order", id="trees.order"),
        Binding("space", "screen.mark", "Mark", id="trees.mark"),
        Binding("x", "screen.export", "Export", id="trees.export"),
    ]


class OutlinePane(Pane):
    """The messages of a tree."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.deeper", "Read", show=False, id="trees.read"),
        Binding("R", "screen.reroll", "Re-roll", id="trees.reroll"),
        Binding("e", "screen.edit", "Edit", id="trees.edit"),
        Binding("E", "screen.extend", "Extend", id="trees.extend"),
        Binding("m", "screen.bookmark", "Bookmark", id="trees.bookmark"),
        Binding("M", "screen.note", "Note", show=False, id="trees.note"),
        Binding("a", "screen.everything", "All branches", id="trees.everything"),
    ]


class DetailPane(Pane):
    """What was said and judged."""


class ViewTab(Static):
    """The name of a view; a click shows it."""

    ALLOW_SELECT = False

    def __init__(self, key: str, view: View) -> None:
        super().__init__(Content(f" {key} {view} "), id=f"view-{view}", classes="view")
        self.view: View = view

    async def on_click(self) -> None:
        await self.run_action(f"screen.view('{self.view}')")


class Column(Static):
    """A reply beside others; its text can be selected with the mouse."""


class TreesScreen(Mode):
    """The trees of the store."""

    MODE = "trees"
    EVERY_S = 1.0
    TOUR = (
        "Trees lists what was played: on the left every tree, in the middle the messages of one, on the right what the "
        "message under the cursor says beside its siblings, how it was judged, who the persona is and what was asked "
        "of the model. ★ is what the judge preferred, ▶ what the conversation went on from: the two are not the same. "
        "R, e and E grow new branches from any message; the old ones stay. b hides what could sway a judge: A to D, = "
        "and 0 vote, and how far the judge agrees with you is told."
    )
    CSS = """
    TreesScreen Pane { width: 1fr; }
    TreesScreen #detail { width: 2fr; }
    TreesScreen.-three #index { width: 66; }
    TreesScreen.-three #outline { width: 1fr; }
    TreesScreen.-narrow Pane { display: none; }
    TreesScreen.-narrow.-at-index #index { display: block; }
    TreesScreen.-narrow.-at-outline #outline { display: block; }
    TreesScreen.-narrow.-at-detail #detail { display: block; }
    TreesScreen.-two.-at-index #detail { display: none; }
    TreesScreen.-two.-at-outline #index { display: none; }
    TreesScreen.-two.-at-detail #index { display: none; }
    TreesScreen #filter { height: 1; border: none; padding: 0 1; background: $surface; }
    TreesScreen #filter-told { height: auto; max-height: 3; padding: 0 1; color: $text-muted; }
    TreesScreen #views { height: 1; }
    TreesScreen .view { width: auto; color: $text-muted; }
    TreesScreen .view.-active { color: $text-accent; text-style: bold; }
    TreesScreen #outline-table { overflow-x: hidden; }
    TreesScreen #columns { height: auto; }
    TreesScreen .column { width: 1fr; height: auto; padding: 0 1 0 0; }
    TreesScreen #decided { height: auto; max-height: 6; padding: 0; color: $text-muted; }
    TreesScreen #scroll { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", show=False, id="trees.back"),
        Binding("slash", "filter", "Filter", show=False, key_display="/", id="trees.filter"),
        Binding("b", "blind", "Judge blind", id="trees.blind"),
        Binding("comma", "beside(-1)", "Previous tree", show=False, id="trees.previous"),
        Binding("full_stop", "beside(1)", "Next tree", show=False, id="trees.next"),
        Binding("left_square_bracket", "sibling(-1)", "Previous sibling", show=False, id="trees.sibling_before"),
        Binding("right_square_bracket", "sibling(1)", "Next sibling", show=False, id="trees.sibling_after"),
        Binding("left_curly_bracket", "turn(-1)", "Previous turn", show=False, id="trees.turn_before"),
        Binding("right_curly_bracket", "turn(1)", "Next turn", show=False, id="trees.turn_after"),
        Binding("n", "hit(1)", "Next message with the words", show=False, id="trees.hit_after"),
        Binding("N", "hit(-1)", "Previous message with the words", show=False, id="trees.hit_before"),
        Binding("Y", "copy_raw", "Copy as JSON", show=False, id="trees.copy_raw"),
        *(
            Binding(key, f"view('{view}')", f"Show: {view}", show=False, id=f"trees.view_{view}")
            for key, view in VIEWS.items()
        ),
        *(
            Binding(key, f"vote('{key}')", f"Vote for {key}", show=False, id=f"trees.vote_{key.lower()}")
            for key in blind.KEYS
        ),
        Binding("equals_sign", "vote('tie')", "Vote: even", show=False, id="trees.vote_even"),
        Binding("0", "vote('both_bad')", "Vote: all bad", show=False, id="trees.vote_bad"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.opened: Opened | None = None
        self.view: View = "text"
        self.everything = False
        self.marked: set[str] = set()
        self._scope: str | None = None
        self._typing: Timer | None = None
        self._listed: list[OutlineRow] = []
        self._told: tuple[str, View] | None = None
        """What the detail pane is about: while it stays the same, so does the scrolling."""
        self.blind = False
        """Whether verdicts, names and what went on are hidden, and votes are taken."""
        self.person = Person()
        self.agreed = ""
        """How far the judge agrees with the person, in words."""
        self._wanted: str | None = None
        """The message to go to once its tree is shown."""

    def panes(self) -> ComposeResult:
        with Horizontal():
            yield IndexPane(
                "trees",
                Vertical(
                    LineEditor(
                        placeholder="filter: words, turns>3, outcome:tie, persona:nurse ...",
                        id="filter",
                        compact=True,
                        select_on_focus=False,
                    ),
                    Static(id="filter-told"),
                    Table(id="tree-table"),
                ),
                id="index",
                about=f"Every tree of the store, or those that the filter lets through. The filter:\n\n{filters.HELP}",
            )
            yield OutlinePane(
                "messages",
                Table(id="outline-table"),
                id="outline",
                about=(
                    "The messages of the tree: each turn with its replies. ★ winner, ○ loser, = tie, ~ unstable, "
                    "? abstained, ✗ both bad, ▶ went on from it. [ ] go to siblings, { } to turns, , . to other trees, "
                    "n N to messages with the words of the filter."
                ),
            )
            yield DetailPane(
                "message",
                Horizontal(*(ViewTab(key, view) for key, view in VIEWS.items()), id="views"),
                VerticalScroll(Horizontal(id="columns"), Static(id="told"), id="scroll"),
                Static(id="decided"),
                id="detail",
                about="The message under the cursor beside its siblings; t d g p w J choose what is told of it.",
            )

    def on_mount(self) -> None:
        self.add_class("-at-index")
        tree_table = self.query_one("#tree-table", Table)
        tree_table.columns_are(("".join(text for text, _ in in_columns((name, "") for name, _ in COLUMNS)), None))
        rows = self.query_one("#outline-table", Table)
        rows.show_header = False
        rows.columns_are(("", None))
        self.pane("outline").notice("empty", "enter opens the tree under the cursor")
        self.pane("detail").notice("empty", "the message under the cursor is shown here")
        self.query_one("#tree-table").focus()

    @property
    def look(self) -> Look:
        return Look(ascii=self.main.plain)

    # The list

    def refresh_view(self) -> None:
        """Another run was chosen: its trees. The same: what is shown is read again where it stands."""
        run, tree = self.main.run_id, self.main.tree_id
        if tree is not None:
            self._scope, self.main.tree_id = run, None
            self.query_one("#filter", Input).value = f"tree:{tree[:12]}"
            return
        if run is not None and run != self._scope:
            self._scope = run
            self.query_one("#filter", Input).value = f"run:{run[:8]} "
            return
        if self.index.generation == 0:
            self._ask_for(filters.parse(self.query_one("#filter", Input).value), self.index.order)
            return
        self.ask("page", self._reread, self.pane("index"))
        if self.opened is not None:
            self._open(self.opened.tree.id, keep=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._typing is not None:
            self._typing.stop()
        text = event.value
        self._typing = self.set_timer(TYPING_S, lambda: self._ask_for(filters.parse(text), self.index.order))

    def on_input_submitted(self, _: Input.Submitted) -> None:
        self.query_one("#tree-table").focus()

    def _ask_for(self, wanted: filters.Filter, order: str) -> None:
        self.index = index.reduce(self.index, Asked(wanted, order))
        said = "\n".join(f"{problem.said}" for problem in wanted.problems)
        self.query_one("#filter-told", Static).update(safe(said, "warn"))
        self.ask("page", self._first_page, self.pane("index"))

    async def _first_page(self) -> None:
        await self._page(0)
        self._show_list(anew=True)
        await self._count()

    async def _count(self) -> None:
        generation, wanted = self.index.generation, self.index.filter
        total = await self.main.pages.ask(lambda store: index.count(store, wanted))
        self.index = index.reduce(self.index, Counted(generation, total))
        self._title()

    async def _page(self, start: int, limit: int = index.PAGE) -> None:
        now = self.index
        rows = await self.main.pages.ask(lambda store: index.page(store, now.filter, now.order, start, limit))
        self.index = index.reduce(self.index, Came(now.generation, start, rows, limit))

    async def _reread(self) -> None:
        """The trees that are listed, as they stand now."""
        await self._page(0, max(len(self.index.rows), index.PAGE))
        self._show_list()
        await self._count()

    async def _next_page(self) -> None:
        start = len(self.index.rows)
        await self._page(start)
        self.query_one("#tree-table", Table).append((row.id, self._row(row)) for row in self.index.rows[start:])
        self._title()

    def _show_list(self, *, anew: bool = False) -> None:
        table, pane = self.query_one("#tree-table", Table), self.pane("index")
        table.fill((row.id, self._row(row)) for row in self.index.rows)
        if anew and table.row_count:
            table.move_cursor(row=0)
        pane.clear()
        if not self.index.rows:
            words = "no tree fits this filter; escape clears it" if self.index.filter.text.strip() else _NOTHING
            self.query_one("#filter-told", Static).update(safe(words))
        self._title()

    def _title(self) -> None:
        shown, total = len(self.index.rows), self.index.total
        of = f" of {total:,}" if total is not None and total != shown else ""
        more = f", {len(self.marked)} marked" if self.marked else ""
        hidden = ", judging blind" if self.blind else ""
        self.pane("index").name_it(f"trees {shown:,}{of} by {self.index.order}{more}{hidden}")

    def _row(self, row: index.Row) -> tuple[list[Cell]]:
        """A tree as one cell: a table of single cells is filled sooner."""
        sign = {"done": "", "growing": "…", "failed": "!"}[row.state]
        flags = ("*" if row.id in self.marked else "") + (("..." if self.main.plain else sign) if sign == "…" else sign)
        why = one_line(row.cause or "", 60)
        what = " ".join(word for word, is_so in (("edited", row.edited), ("bookmarked", row.bookmarked)) if is_so)
        margin = "" if row.margin is None else f"{row.margin:.3f}"
        judged = (str(row.wins or ""), str(row.ties + row.unstable or ""), margin) if not self.blind else ("", "", "")
        cells: list[Cell] = [
            (flags, "bad" if row.state == "failed" else "accent"),
            (row.id[:8], "muted"),
            flat(row.title, WHO),
            (str(row.turns), ""),
            *zip(judged, ("good", "warn", "muted"), strict=True),
        ]
        return ([*in_columns(cells), (why or what, "bad" if why else "accent")],)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        table = event.data_table
        if table.id == "tree-table":
            if self.index.wants_more and event.cursor_row >= len(self.index.rows) - AHEAD:
                self.ask("page", self._next_page, self.pane("index"))
            if event.row_key.value is not None and not self.has_class("-narrow"):
                self._open(event.row_key.value)
        elif self.node is not None and self._told != (self.node.id, self.view):
            self._show_detail()

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_deeper()

    # One tree

    def _open(self, tree_id: str, *, keep: bool = False) -> None:
        words = self.index.filter.words

        async def read() -> None:
            opened = await self.main.pages.ask(lambda store: open_tree(store, tree_id, words))
            same = self.opened is not None and self.opened.tree.id == tree_id
            self.opened = opened
            self._show_outline(stay=keep or same)

        self.ask("tree", read, self.pane("outline"))

    def _show_outline(self, *, stay: bool) -> None:
        opened, pane, table = self.opened, self.pane("outline"), self.query_one("#outline-table", Table)
        if opened is None:
            return
        if self.blind:
            self._listed = blind.outline(opened, self.person, everything=self.everything)
        else:
            self._listed = outline(opened, self.look, everything=self.everything)
        pane.name_it(safe(f"{opened.tree.id[:8]} {one_line(opened.row.title, 40)}"))
        if not self._listed:
            pane.notice("empty", "nobody has spoken in this tree yet")
            self.pane("detail").notice("empty", "there is no message yet")
            return
        pane.clear()
        self.workers.cancel_group(self, "outline")
        shown = table.row_count if stay else 0
        table.fill((row.node_id, [list(row.cells)]) for row in self._listed[: max(SLICE, shown)])
        wanted, self._wanted = self._wanted or (next(iter(opened.hits), None) if not stay else None), None
        if not self._go_to(wanted) and not stay:
            table.move_cursor(row=min(1, len(self._listed) - 1))
        self._show_detail()
        if table.row_count < len(self._listed):
            self.later(self._take_up_the_rest, "outline")

    async def _take_up_the_rest(self) -> None:
        table = self.query_one("#outline-table", Table)
        while table.row_count < len(self._listed):
            await self.painted()
            self._take_up(table.row_count + SLICE)

    def _take_up(self, rows: int) -> None:
        """Have at least so many rows of the outline in its table, as far as there are."""
        table = self.query_one("#outline-table", Table)
        table.append((row.node_id, [list(row.cells)]) for row in self._listed[table.row_count : rows])

    @property
    def node(self) -> Node | None:
        """The message under the cursor."""
        at = self.query_one("#outline-table", Table).at
        return self.opened.tree[at] if self.opened is not None and at is not None and at in self.opened.tree else None

    def _go_to(self, node_id: str | None) -> bool:
        """Put the cursor on a message; whether it is in the outline."""
        at = next((at for at, row in enumerate(self._listed) if row.node_id == node_id), None)
        if at is None:
            return False
        self._take_up(at + 1)
        self.query_one("#outline-table", Table).move_cursor(row=at)
        return True

    # What is told of a message

    def _show_detail(self) -> None:
        opened, node = self.opened, self.node
        if opened is None or node is None:
            return
        self.pane("detail").clear()
        for tab in self.query(ViewTab):
            tab.set_class(tab.view == self.view, "-active")
            tab.display = not self.blind or tab.view in SEEN_BLIND
        if self.blind:
            user, replies = telling.turn_of(opened, node.id)
            told = [blind.asked(opened, self.person, user, replies), self.agreed]
            self.query_one("#decided", Static).update(safe("\n".join(told)))
        else:
            self.query_one("#decided", Static).update(drawn(telling.decided(opened, node.id)))
        if self._told != (node.id, self.view):
            self._told = (node.id, self.view)
            self.query_one("#scroll", VerticalScroll).scroll_home(animate=False)
        match self.view:
            case "text" if self.blind:
                self._show_ballot(opened, node)
            case "text":
                self._show_columns(opened, node)
            case "diff":
                self._show_told(self._diff(opened, node))
            case "judged":
                self._show_told(drawn(telling.judgements(opened, node.id)))
            case "persona":
                self._show_told(drawn(telling.persona(opened, node.id)))
            case "prompt":
                self.ask("detail", self._prompt(opened, node), self.pane("detail"))
            case "raw":
                self.ask("detail", self._raw(opened, node), self.pane("detail"))

    def _show_told(self, content: Content) -> None:
        self.query_one("#columns").display = False
        told = self.query_one("#told", Static)
        told.display = True
        told.update(content)

    def _show_columns(self, opened: Opened, node: Node) -> None:
        """The user's message, and under it the replies side by side."""
        user, _ = telling.turn_of(opened, node.id)
        if node.speaker == "user":
            self._show_told(self._user(opened, user))
            return
        shown = telling.side_by_side(opened, node.id, self._room())
        self.query_one("#told", Static).display = False
        columns = self.query_one("#columns", Horizontal)
        columns.display = True
        self._fill_columns(columns, [self._column(opened, reply, node) for reply in shown])

    def _show_ballot(self, opened: Opened, node: Node) -> None:
        """The user's message, and under it the replies under letters: side by side where they fit, else in turn."""
        user, replies = telling.turn_of(opened, node.id)
        said = Content("\n").join([styled((f"turn {user.turn}", "user")), safe(user.text)])
        shown = [
            Content("\n").join([styled((letter, "accent")), safe(reply.text)])
            for letter, reply in blind.lettered(user, replies)
        ]
        beside = len(shown) <= self._room()
        self._show_told(Content("\n\n").join([said, *([Content()] if beside else shown)]))
        columns = self.query_one("#columns", Horizontal)
        columns.display = beside
        if beside:
            self._fill_columns(columns, shown)

    def _fill_columns(self, columns: Horizontal, contents: Sequence[Content]) -> None:
        there = list(columns.query(Column))
        for column, content in zip(there, contents, strict=False):
            column.update(content)
        for extra in there[len(contents) :]:
            extra.remove()
        if len(contents) > len(there):
            columns.mount_all([Column(content, classes="column") for content in contents[len(there) :]])

    def _room(self) -> int:
        """How many replies fit side by side."""
        width = self.query_one("#scroll").size.width or 76
        return max(1, min(4, width // 27))

    def _column(self, opened: Opened, reply: Node, pointed: Node) -> Content:
        tone = "bold" if reply.id == pointed.id else "muted"
        head = styled(*cells_of(telling.heading(opened, reply, self.look)))
        rule = styled((("-" if self.main.plain else "─") * 24, tone if reply.id != pointed.id else "accent"))
        return Content("\n").join([head, rule, safe(reply.text)])

    def _user(self, opened: Opened, user: Node) -> Content:
        ledger = opened.tree.ledgers.get(user.id)
        parts = [styled((f"turn {user.turn}, {visible(user.role)}", "user")), safe(user.text)]
        if user.drift:
            parts.append(safe(f"drift: {user.drift}, re-rolled {user.rerolls}x", "warn"))
        if ledger is not None:
            facts = "\n".join(f"- {fact}" for fact in ledger.facts) or "nothing new"
            parts += [Content(), styled(("revealed", "bold")), safe(facts, "told")]
        return Content("\n").join(parts)

    def _diff(self, opened: Opened, node: Node) -> Content:
        """The reply under the cursor against the one the conversation went on from, or the next sibling."""
        _, replies = telling.turn_of(opened, node.id)
        others = [reply for reply in replies if reply.id != node.id]
        if node.speaker == "user" or not others:
            return Content("a reply is compared with its siblings; there is none beside this one")
        other = next((reply for reply in others if reply.id in opened.tree.continued), others[0])
        head = styled(("- ", "bad"), *cells_of(telling.heading(opened, other, self.look)))
        mine = styled(("+ ", "good"), *cells_of(telling.heading(opened, node, self.look)))
        lines = [head, mine, Content()]
        for before, after in compared(other.text, node.text):
            if before == after:
                lines.append(styled("  ") + drawn([_visible(before)]))
                continue
            lines += [styled(("- ", "bad")) + drawn([_visible(before)])] if before else []
            lines += [styled(("+ ", "good")) + drawn([_visible(after)])] if after else []
        return Content("\n").join(lines)

    def _prompt(self, opened: Opened, node: Node) -> Reading:
        async def read() -> None:
            found = await self.main.pages.ask(lambda store: rendered(store, opened.row, node.id))
            self._show_told(
                drawn(telling.prompts(found)) if found else Content("a person wrote this; nobody was asked")
            )

        return read

    def _raw(self, opened: Opened, node: Node) -> Reading:
        async def read() -> None:
            self._show_told(safe(await self.main.pages.ask(lambda store: telling.raw(store, opened, node.id))))

        return read

    # Moving

    def action_deeper(self) -> None:
        at = self._at()
        if at == "index":
            tree = self.query_one("#tree-table", Table).at
            if tree is not None:
                self._open(tree)
                self._be_at("outline")
        elif at == "outline":
            self._be_at("detail")

    def action_back(self) -> None:
        at = self._at()
        if isinstance(self.focused, Input):
            self.focused.value = ""
            self.query_one("#tree-table").focus()
        elif at != "index":
            self._be_at("index" if at == "outline" else "outline")
        elif self.query_one("#filter", Input).value:
            self.query_one("#filter", Input).value = ""

    def _at(self) -> str:
        return next((name for name in ("detail", "outline") if self.has_class(f"-at-{name}")), "index")

    def _be_at(self, name: str) -> None:
        self._place(name)
        inner = {"index": "#tree-table", "outline": "#outline-table", "detail": "#scroll"}[name]
        # At once: a focus that comes later would take back the one that the next key gives.
        self.set_focus(self.query_one(inner))

    def _place(self, name: str) -> None:
        if name == self._at():
            return
        # One change of style for both: the whole screen is styled anew with each.
        self.remove_class("-at-index", "-at-outline", "-at-detail", update=False)
        self.add_class(f"-at-{name}")
        if not self.has_class("-three"):
            self.call_after_refresh(self._show_detail)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        pane = next((w.id for w in event.widget.ancestors_with_self if isinstance(w, Pane)), None)
        if pane is not None and pane != self._at():
            self._place(pane)

    def action_beside(self, step: int) -> None:
        """The tree before or after the one that is open, in the order of the list."""
        table = self.query_one("#tree-table", Table)
        row = table.cursor_row + step
        if 0 <= row < table.row_count:
            table.move_cursor(row=row)
            if (tree := table.at) is not None:
                self._open(tree)

    def action_sibling(self, step: int) -> None:
        if self.opened is None or (node := self.node) is None:
            return
        siblings = self.opened.tree.siblings(node.id)
        self._go_to(siblings[(siblings.index(node) + step) % len(siblings)].id)

    def action_turn(self, step: int) -> None:
        if self.opened is None or (node := self.node) is None:
            return
        ids = [row.node_id for row in self._listed]
        users = [place for place, each in enumerate(ids) if self.opened.tree[each].speaker == "user"]
        at = ids.index(node.id)
        further = [place for place in users if place > at] if step > 0 else [place for place in users if place < at]
        if further:
            self._go_to(ids[further[0] if step > 0 else further[-1]])

    def action_hit(self, step: int) -> None:
        """The next message that holds the words, in this tree or the next one."""
        if self.opened is None:
            return
        ids = [row.node_id for row in self._listed]
        node = self.node
        at = ids.index(node.id) if node is not None else -1
        hits = [ids.index(hit) for hit in self.opened.hits if hit in ids]
        further = [hit for hit in hits if (hit > at if step > 0 else hit < at)]
        if further:
            self._go_to(ids[min(further) if step > 0 else max(further)])
        else:
            self.action_beside(step)

    def action_filter(self) -> None:
        self._place("index")
        # At once: who types on is faster than the next painting, and letters are keys of this screen.
        box = self.query_one("#filter", Input)
        self.set_focus(box)
        box.action_end()

    def action_order(self) -> None:
        orders = list(index.ORDERS)
        self._ask_for(self.index.filter, orders[(orders.index(self.index.order) + 1) % len(orders)])

    def action_view(self, view: View) -> None:
        if self.blind and view not in SEEN_BLIND:
            self.main.tell(f"{view} is hidden while you judge blind; b shows it again")
            return
        self.view = view
        self._show_detail()

    def action_everything(self) -> None:
        self.everything = not self.everything
        self._show_outline(stay=True)

    # Judging blind

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Votes are taken only while everything that could sway them is hidden; what grows a tree names its roles."""
        if action == "vote":
            return self.blind
        if action in GROWING:
            return not self.blind
        return super().check_action(action, parameters)

    def action_blind(self) -> None:
        self.blind = not self.blind
        scroll = self.query_one("#scroll")
        first, second = ("#told", "#columns") if self.blind else ("#columns", "#told")
        scroll.move_child(self.query_one(first), before=self.query_one(second))
        if self.blind and self.view not in SEEN_BLIND:
            self.view = "text"
        self._told = None
        self._show_list()
        if self.opened is not None:
            self._be_at("detail" if self.has_class("-narrow") else "outline")
            self._show_outline(stay=True)
            self._agree(self.opened)
        self.refresh_bindings()

    def _agree(self, opened: Opened) -> None:
        """Find out how far the judge agrees with the person."""

        async def find_out() -> None:
            self.agreed = await self.main.pages.ask(lambda store: blind.agreed(store, opened, self.person))
            self._show_detail()

        self.ask("agreed", find_out, self.pane("detail"))

    def action_vote(self, said: str) -> None:
        opened, node = self.opened, self.node
        if opened is None or node is None or not self.pane("detail").display:
            self.main.tell("enter shows the replies; then a letter votes")
            return
        user, replies = telling.turn_of(opened, node.id)
        if not blind.votable_here(replies):
            self.main.tell(blind.asked(opened, self.person, user, replies))
            return
        self.ask("vote", partial(self._vote, opened, user, replies, said), self.pane("detail"))

    async def _vote(self, opened: Opened, user: Node, replies: Sequence[Node], said: str) -> None:
        def write() -> None:
            with Store.open(self.main.store_path) as store:
                keep_vote(store, opened.row.run_id, self.person, user, replies, said)

        try:
            await asyncio.to_thread(write)
        except CannotVote as error:
            self.main.tell(str(error), severity="warning")
            return
        onward = blind.next_owed(opened, self.person, user, everything=self.everything)
        if onward is None:
            self.main.tell("all turns of this tree have your vote; . goes to the next tree")
        else:
            self._wanted = blind.lettered(onward, opened.tree.children(onward.id))[0][1].id
        self._open(opened.tree.id, keep=True)
        self._agree(opened)

    # Copying and handing out

    def copied(self) -> str | None:
        if self._at() == "index":
            return self.query_one("#tree-table", Table).at
        return self.node.text if self.node is not None else None

    def action_copy_raw(self) -> None:
        opened, node = self.opened, self.node
        if opened is None or node is None:
            return
        if self.blind:
            self.main.tell("the raw message is hidden while you judge blind; b shows it again")
            return

        async def copy() -> None:
            self.main.copy_to_clipboard(await self.main.pages.ask(lambda store: telling.raw(store, opened, node.id)))
            self.main.tell("copied as JSON")

        self.ask("copy", copy, self.pane("detail"))

    def action_mark(self) -> None:
        table = self.query_one("#tree-table", Table)
        if (tree := table.at) is not None:
            self.marked ^= {tree}
            self._show_list()
            table.action_cursor_down()

    def action_export(self) -> None:
        number = len(self.marked) or self.index.total or len(self.index.rows)
        what = f"{number} marked trees" if self.marked else f"all {number} trees that the filter lets through"
        self.main.push_screen(Line(f"Write {what} to a file ending in .jsonl or .md:", "trees.jsonl"), self._export)

    def _export(self, name: str | None) -> None:
        if not name:
            return
        chosen, wanted = sorted(self.marked), self.index.filter

        def write(store: Store) -> int:
            return hand_out(store, chosen or trees_of(store, wanted), Path(name))

        async def export() -> None:
            self.main.tell(f"{await self.main.deep.ask(write)} trees written to {name}")

        self.main.set_to_work(export)

    # What a person does to a tree

    def action_reroll(self) -> None:
        if (node := self.node) is not None:
            question = Line(f"How many more siblings of this message of {node.role}?", "1")
            self.main.push_screen(question, lambda count: self._branch(node, "--reroll", count, "re-rolling"))

    def action_extend(self) -> None:
        if (node := self.node) is not None:
            self.main.push_screen(
                Line("How many turns shall be played on from this reply?", "1"),
                lambda turns: self._branch(node, "--extend", turns, "extending"),
            )

    def action_edit(self) -> None:
        if (node := self.node) is not None:
            self.main.push_screen(
                Text(f"A sibling of this message of {node.role} that says:", node.text),
                lambda text: self._branch(node, "--edit", text if text != node.text else None, "editing"),
            )

    def _branch(self, node: Node, option: str, value: str | None, what: str) -> None:
        if value:
            self.main.set_to_work(partial(self._grow, node, f"{option}={value}", f"{what} {node.id[:8]}"))

    async def _grow(self, node: Node, option: str, what: str) -> None:
        ended = await self.main.have_done(what, "branch", node.id, option, "--json")
        if ended.code == 0:
            new = ended.document["nodes"]
            self._wanted = new[0] if new else None
            self.everything = True
            if self.opened is not None and self.opened.tree.id == node.tree_id:
                self._open(node.tree_id, keep=True)

    def action_bookmark(self) -> None:
        opened, node = self.opened, self.node
        if opened is not None and node is not None:
            on = not opened.notes.get(node.id, Notes()).bookmarked
            self._keep(opened, node, "bookmark", {"on": on})

    def action_note(self) -> None:
        opened, node = self.opened, self.node
        if opened is not None and node is not None:
            before = opened.notes.get(node.id, Notes()).note
            self.main.push_screen(
                Line("A note at this message; an empty one takes it back:", before),
                lambda text: self._keep(opened, node, "note", {"text": text}) if text is not None else None,
            )

    def _keep(self, opened: Opened, node: Node, kind: str, args: dict[str, object]) -> None:
        def write() -> None:
            with Store.open(self.main.store_path) as store:
                keep(store, opened.row.run_id, node, kind, args)

        async def kept() -> None:
            await asyncio.to_thread(write)
            self._open(node.tree_id, keep=True)

        self.ask("note", kept, self.pane("outline"))


def in_columns(cells: Iterable[Cell]) -> list[Cell]:
    """Cells under the headings of the list."""
    return [(set_cell_size(text, width) + "  ", tone) for (text, tone), (_, width) in zip(cells, COLUMNS, strict=True)]


_NOTHING = "There are no trees in this store yet. 1 goes Home, where q plays the quickstart."


def _visible(spans: Sequence[Span]) -> tuple[Span, ...]:
    return tuple(Span(visible(span.text), span.style) for span in spans)
