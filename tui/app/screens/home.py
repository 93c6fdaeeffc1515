"""Home: the runs of the store, what each may want next, and the store itself; for whoever has none, a first run.

Invariant: everything shown comes from the rows at the last beat; starting and resuming is done by the command line.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import DataTable, Static

from tui.app.content import Cell, flat, pill, safe, styled
from tui.app.dialogs import Choice
from tui.app.frame import Mode, Pane, Table
from tui.app.standing import RunLine, ago, next_step
from tui.console import count

QUICKSTART = Path("quickstart.toml")

EMPTY = """\
Espalier grows conversation trees between simulated people and language models, and judges the branches.
Nothing has been played into this store yet.

q       plays the quickstart: 6 people, the embedded model, about three minutes on two cores
ctrl+n  sets up a run of your own
?       tells what can be done here"""


class HomeScreen(Mode):
    """The runs of the store."""

    MODE = "home"
    TOUR = (
        "Home lists the runs of this store, those being played first. enter opens one: a run being played in "
        "Monitor, any other in Trees. A run is played by a process of its own: this window may be closed at any time."
    )
    CSS = """
    HomeScreen #runs { width: 2fr; }
    HomeScreen #next { width: 1fr; }
    HomeScreen.-narrow #next { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="home.open"),
        Binding("R", "resume", "Resume", id="home.resume"),
        Binding("q", "quickstart", "Quickstart", id="home.quickstart"),
        Binding("ctrl+n", "app.go('setup')", "New run", id="home.new"),
        Binding("o", "other_store", "Other store", show=False, id="home.store"),
    ]

    def panes(self) -> ComposeResult:
        with Horizontal():
            yield Pane(
                "runs",
                Table(id="run-table"),
                id="runs",
                about="The runs of this store, those being played first. R goes on with one that stands still.",
            )
            yield Pane("next", Static(id="next-step"), id="next", about="What the run under the cursor may want next.")

    def on_mount(self) -> None:
        self.query_one(Table).columns_are(
            ("", 9), ("name", 20), ("done", 5), ("trees", 9), ("changed", 8), ("next", None)
        )
        self.pane("runs").notice("loading", "reading the store ...")

    def refresh_view(self) -> None:
        runs, pane = self.main.runs, self.pane("runs")
        self.query_one(Table).fill((line.id, self._cells(line)) for line in runs)
        if self.main.trouble is not None:
            pane.notice("error", f"{self.main.trouble}\nIt is looked at again all the time; what is committed is kept.")
        elif runs:
            pane.clear()
            pane.name_it(f"runs {len(runs)}")
        else:
            pane.notice("empty", EMPTY)
        self._show_next()

    def _cells(self, line: RunLine) -> tuple[Cell, ...]:
        return (
            pill(line.word, plain=self.main.plain),
            flat(line.name, 20),
            (f"{line.share:4.0%}", ""),
            (f"{line.done}/{line.trees}", ""),
            (ago(self.main.clock() - line.updated_at), "muted"),
            (next_step(line), "muted"),
        )

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        self._show_next()

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_open()

    def _show_next(self) -> None:
        line = self.main.line_of(self.query_one(Table).at)
        shown = self.query_one("#next-step", Static)
        shown.update(Content() if line is None else Content("\n").join([*self._about(line), *self._store()]))

    def _about(self, line: RunLine) -> list[Content]:
        engine = f"pid {line.pid}" if line.pid else "none at work"
        return [
            styled((f"run {line.id[:8]}", "bold")),
            safe(line.name),
            styled(pill(line.word, plain=self.main.plain)) + safe(f"  {line.reason or ''}"),
            Content(f"{line.turns} of {line.turns_planned or line.turns} turns, {line.failed} trees failed"),
            Content(f"engine: {engine}"),
            Content(),
            styled((next_step(line), "accent")),
            Content(),
        ]

    def _store(self) -> list[Content]:
        path = self.main.store_path
        size = count(path.stat().st_size) if path.is_file() else "0"
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        others = self.main.other_stores()
        told = [Content(), styled(("o opens another", "muted")), *(safe(one) for one in others)] if others else []
        return [styled(("store", "bold")), safe(f"{shown}  {size} bytes"), *told]

    def copied(self) -> str | None:
        return self.query_one(Table).at

    def action_open(self) -> None:
        if (run_id := self.query_one(Table).at) is not None:
            self.main.choose_run(run_id)

    def action_other_store(self) -> None:
        others = self.main.other_stores()
        if not others or self.main.start.server is not None:
            self.main.tell("no other store was looked at before; espalier --store FILE opens one")
            return
        self.main.push_screen(Choice("Which store? Runs that are being played here go on.", others), self._leave_for)

    def _leave_for(self, store: str | None) -> None:
        if store is not None:
            self.main.exit(Path(store))

    def action_resume(self) -> None:
        line = self.main.line_of(self.query_one(Table).at)
        if line is None:
            return
        if line.live:
            self.main.choose_run(line.id)
            return
        retry = ["--retry-failed"] if line.word in ("failed", "done") else []
        self.main.set_to_work(partial(self._start, f"resuming {line.id[:8]}", "resume", line.id, *retry))

    def action_quickstart(self) -> None:
        from simulation.quickstart import quickstart

        if not QUICKSTART.exists():
            QUICKSTART.write_text(quickstart(), encoding="utf-8")
        self.main.set_to_work(partial(self._start, "starting the quickstart", "run", str(QUICKSTART)))

    async def _start(self, what: str, *arguments: str) -> None:
        ended = await self.main.have_done(what, *arguments, "--detach", "--json")
        if ended.code == 0:
            document = ended.document
            run = document["run"]
            self.main.watch_run(run if isinstance(run, str) else run["id"])
