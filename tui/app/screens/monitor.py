"""Monitor: a run while it is played: how far, how fast, what models write at this moment, what judges say, what failed.

Figures come from the store and hold without an engine; the lanes come from the engine's socket, and when there is
none the pane says so. Steering is rows that the engine answers: the same that the command line writes.

Invariant: nothing here keeps a run alive or ends it but what a person asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Static

from trees.errors import EspalierError
from trees.store import Store
from tui.app.content import Cell, bar, flat, pill, safe, styled
from tui.app.dialogs import Question
from tui.app.frame import Mode, Pane, Table
from tui.app.standing import RunLine, ago
from tui.app.watching import (
    Read,
    Watching,
    in_words,
    rate_of,
    read_judges,
    read_run,
    reduce,
    spark,
    time_left,
    trend_of,
)
from tui.console import count, duration
from tui.lanes import Lanes
from tui.sanitise import one_line
from tui.statusview import agreement_in_words, share_in_words

READ_S = 1.0
"""Between two readings of what changes, in seconds, or longer where reading takes more than a twentieth of it."""
JUDGES_S = 10.0
LANES_S = 0.2
"""Between two drawings of the lanes."""
SHARE_OF_TIME = 0.05


class MonitorScreen(Mode):
    """A run while it is played."""

    MODE = "monitor"
    TOUR = (
        "Monitor watches one run: how far it is, what each role and model does, what is being written at this moment, "
        "how judges behave and what failed. space pauses before the next turn and goes on, P pauses before the next "
        "call, S stops and keeps what is in flight. The run is played by a process of its own: closing this window "
        "changes nothing."
    )
    CSS = """
    MonitorScreen #left { width: 3fr; }
    MonitorScreen #right { width: 2fr; }
    MonitorScreen #progress { height: auto; max-height: 8; }
    MonitorScreen #roles { height: 1fr; min-height: 6; max-height: 12; }
    MonitorScreen #lanes { height: 2fr; }
    MonitorScreen #models { height: 1fr; min-height: 4; }
    MonitorScreen #judges { height: 1fr; min-height: 4; }
    MonitorScreen #errors { height: 1fr; min-height: 4; }
    MonitorScreen #events { height: 1fr; min-height: 4; }
    MonitorScreen.-narrow #right { display: none; }
    MonitorScreen.-narrow.-side #left { display: none; }
    MonitorScreen.-narrow.-side #right { display: block; width: 1fr; }
    MonitorScreen.-short #events { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause, go on", id="monitor.pause"),
        Binding("P", "pause_hard", "Hold calls", show=False, id="monitor.hold"),
        Binding("S", "stop", "Stop", id="monitor.stop"),
        Binding("R", "resume", "Resume", id="monitor.resume"),
        Binding("enter", "trees", "Its trees", id="monitor.trees"),
        Binding("plus", "permits(1)", "One more call at once", show=False, id="monitor.more"),
        Binding("minus", "permits(-1)", "One call fewer at once", show=False, id="monitor.fewer"),
        Binding("A", "permits(0)", "Calls at once: auto", show=False, id="monitor.auto"),
        Binding("Z", "side", "Side panes", id="monitor.side"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.watching = Watching("")
        self.lanes = Lanes()
        self.heard = ""
        """Where live tokens come from: a socket, or empty."""
        self._next_read = 0.0
        self._next_judges = 0.0
        self._tried: str | None = None
        """The socket that is being heard or that hearing is tried of."""

    def panes(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                yield Pane(
                    "run", Static(id="progress-told"), id="progress", about="How far the run is, and when it may end."
                )
                yield Pane(
                    "roles",
                    Table(id="role-table"),
                    id="roles",
                    about="What each role asked of each model; tokens a second over the last ten seconds.",
                )
                yield Pane("live", Static(id="lane-lines"), id="lanes", about="The end of what models are writing now.")
            with Vertical(id="right"):
                yield Pane(
                    "models",
                    Table(id="model-table"),
                    id="models",
                    about="Calls with each model and the most allowed; + - A change that for the one under the cursor.",
                )
                yield Pane(
                    "judges",
                    VerticalScroll(Static(id="judge-told")),
                    id="judges",
                    about="Outcomes of each judge, wins by responder with their 95 % interval, and what position did.",
                )
                yield Pane(
                    "errors",
                    Table(id="error-table"),
                    id="errors",
                    about="Calls that got no answer, by cause. R on a run that stands still asks them again.",
                )
                yield Pane(
                    "events", VerticalScroll(Static(id="event-told")), id="events", about="What happened lately."
                )

    def on_mount(self) -> None:
        self.query_one("#role-table", Table).columns_are(
            ("role", 18), ("model", 10), ("tok/s", 6), ("", 12), ("calls", 6), ("mean", 7), ("retries", 7)
        )
        self.query_one("#model-table", Table).columns_are(
            ("model", 10), ("calls", 9), ("wait", 5), ("tok/s", 6), ("first", 7), ("failed", 6), ("cache", 6)
        )
        self.query_one("#error-table", Table).columns_are(
            ("cause", 14), ("role", 16), ("calls", 6), ("open", 5), ("", None)
        )
        self.query_one("#lane-lines").styles.height = "1fr"
        self.set_interval(READ_S / 2, self._tick)
        self.set_interval(LANES_S, self._draw_lanes)
        self.query_one("#role-table").focus()

    # Reading

    def refresh_view(self) -> None:
        line = self.main.current_run()
        if line is None:
            self.pane("progress").notice("empty", "There is no run yet. 1 goes Home, where q plays the quickstart.")
            return
        if line.id != self.watching.run_id:
            self.watching = Watching(line.id)
            self._hear_no_more()
            self.lanes = Lanes()
            self._next_read = self._next_judges = 0.0
            self.pane("progress").notice("loading", "reading the run ...")
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if not self.watching.run_id or not self.is_current:
            return
        if now >= self._next_read:
            self._next_read = now + READ_S
            self.ask("figures", self._read, self.pane("progress"))
        if now >= self._next_judges:
            self._next_judges = now + JUDGES_S
            self.ask("judges", self._read_judges, self.pane("judges"))

    async def _read(self) -> None:
        run_id, began = self.watching.run_id, time.monotonic()
        read = await self.main.figures.ask(lambda store: read_run(store, run_id, self.main.clock()))
        took = time.monotonic() - began
        self._next_read = began + max(READ_S, took / SHARE_OF_TIME)
        self.watching = reduce(self.watching, read)
        self._show()
        self._listen(read.socket)

    async def _read_judges(self) -> None:
        run_id, began = self.watching.run_id, time.monotonic()
        event = await self.main.deep.ask(lambda store: read_judges(store, run_id))
        self._next_judges = began + max(JUDGES_S, (time.monotonic() - began) / SHARE_OF_TIME)
        self.watching = reduce(self.watching, event)
        self._show_judges()

    def _listen(self, socket: str | None) -> None:
        """Hear what models write, if the engine is on this machine and lets itself be heard."""
        if socket is None:
            self._hear_no_more()
        elif socket != self._tried:
            self._tried = socket
            self.later(partial(self._hear, socket), "lanes")

    def _hear_no_more(self) -> None:
        self.workers.cancel_group(self, "lanes")
        self.heard, self._tried = "", None

    async def _hear(self, socket: str) -> None:
        """Take what the engine sends until it ends. An engine that does not listen yet is tried at the next reading."""
        try:
            reader, writer = await asyncio.open_unix_connection(socket)
        except OSError:
            self._unheard(socket)
            return
        self.heard = socket
        try:
            while line := await reader.readline():
                self.lanes.take(line, time.monotonic())
        except (OSError, ValueError):
            pass
        finally:
            self._unheard(socket)
            writer.close()

    def _unheard(self, socket: str) -> None:
        """This one is heard no longer; another may be by now."""
        if self._tried == socket:
            self.heard, self._tried = "", None

    # Showing

    def _show(self) -> None:
        read = self.watching.read
        if read is None:
            return
        self.pane("progress").clear()
        self.pane("progress").name_it(safe(f"run {read.line.id[:8]} {one_line(read.line.name, 40)}"))
        self.query_one("#progress-told", Static).update(self._progress(read))
        self.query_one("#role-table", Table).fill(
            (f"{row['role']} {row['model']}", self._role(row)) for row in read.roles
        )
        self._fill("models", "#model-table", [(row["model"], self._model(row)) for row in read.models], _NO_MODELS)
        self._fill("errors", "#error-table", [self._error(row) for row in read.failures], "no call has failed")
        lines = [safe(f"{ago(max(read.at - e.at, 0)):>6}  {in_words(e)}") for e in reversed(read.events)]
        self.query_one("#event-told", Static).update(Content("\n").join(lines))

    def _fill(self, pane: str, table: str, rows: list[tuple[str, tuple[Cell, ...]]], nothing: str) -> None:
        if rows:
            self.pane(pane).clear()
            self.query_one(table, Table).fill(rows)
        else:
            self.pane(pane).notice("empty", nothing)

    def _progress(self, read: Read) -> Content:
        line, calls = read.line, read.facts["calls"]
        failed = f", {line.failed} failed" if line.failed else ""
        trees = f"trees {line.done}/{line.trees}{failed}   turns {line.turns}/{line.turns_planned or '?'}"
        tokens = f"{count(calls['tokens_in'])} tokens read, {count(calls['tokens_out'])} written"
        width = max(min(self.size.width // 5, 40), 16)
        return Content("\n").join(
            [
                bar(line.share, width, plain=self.main.plain)
                + styled(f" {line.share:.0%}  ", pill(line.word, plain=self.main.plain), "  ")
                + safe(self._when(read)),
                Content(f"{trees}   messages {read.facts['nodes']}   pairs {sum(read.facts['pairs'].values())}"),
                Content(f"calls {calls['answered']}, {calls['failed']} failed   {tokens}"),
            ]
        )

    def _when(self, read: Read) -> str:
        """When it may end, or why it stands still and what to do."""
        word = read.line.word
        if word in ("running", "warming"):
            left = time_left(self.watching)
            return "warming up" if left is None else f"{duration(left[0])} to {duration(left[1])} left"
        next_key = {
            "new": "R begins it",
            "paused": "space goes on",
            "crashed": "R resumes",
            "stopped": "R goes on",
            "failed": "R asks again",
        }
        said = next_key.get(word, "enter reads its trees" if word == "done" else "")
        return f"{said}  {read.line.reason or ''}".strip()

    def _role(self, row: Mapping[str, Any]) -> tuple[Cell, ...]:
        trend = spark(trend_of(self.watching, row, 12), plain=self.main.plain)
        failed = row["failed_attempts"]
        return (
            flat(row["role"], 18),
            flat(row["model"], 10, "muted"),
            (count(rate_of(self.watching, row)), ""),
            (trend, "good"),
            (count(row["calls"]), ""),
            (duration(row["seconds"] / max(row["calls"], 1)), "muted"),
            (str(failed or ""), "warn" if failed else ""),
        )

    def _model(self, row: Mapping[str, Any]) -> tuple[Cell, ...]:
        asked = row["prompt_read"] + row["prompt_reused"]
        first = row["first_token_median_s"]
        live = self.watching.read is not None and self.watching.read.line.live
        return (
            flat(row["model"], 10),
            (f"{row['held']}/{row['permits']}", ""),
            (str(row["queued"] or ""), "warn"),
            (count(row["tokens_out_per_s"]) if live else "", ""),
            ("" if first is None else duration(first), "muted"),
            (str(row["failed"] or ""), "bad"),
            (f"{row['prompt_reused'] / asked:.0%}" if asked else "", "muted"),
        )

    def _error(self, row: Mapping[str, Any]) -> tuple[str, tuple[Cell, ...]]:
        cells = (
            flat(row["kind"], 14, "bad"),
            flat(row["role"], 16),
            (str(row["calls"]), ""),
            (str(row["unresolved"] or ""), "warn"),
            flat(row["example"], 80, "muted"),
        )
        return f"{row['kind']} {row['role']}", cells

    def _show_judges(self) -> None:
        facts = self.watching.judges
        if facts is None:
            return
        if not facts["judges"]:
            self.pane("judges").notice("empty", "no turn has been judged yet")
            return
        self.pane("judges").clear()
        lines = [line for row in facts["judges"] for line in _judge(row)]
        self.query_one("#judge-told", Static).update(Content("\n").join(lines))

    def _draw_lanes(self) -> None:
        """The tails of what is being written, a line each, or why there are none."""
        if not self.is_current:
            return
        shown = self.query_one("#lane-lines", Static)
        size = shown.size
        lanes = self.lanes.shown(time.monotonic(), max(size.width - 36, 20))[-max(size.height, 1) :]
        live = self.main.line_of(self.watching.run_id)
        self.pane("lanes").name_it("live" if self.heard else "live (polling)" if live and live.live else "live")
        if lanes:
            rows = [styled((f"{who:<34} ", "muted")) + safe(text) for who, text in lanes]
            shown.update(Content("\n").join(rows))
        else:
            shown.update(styled((_silence(live, self.heard), "muted")))

    def copied(self) -> str | None:
        return self.watching.run_id or None

    # Steering

    def _line(self) -> RunLine | None:
        """How the run stood when it was last looked at, by the app or by this screen."""
        read = self.watching.read
        lines = (self.main.line_of(self.watching.run_id), read.line if read is not None else None)
        return max((line for line in lines if line is not None), key=lambda line: line.read_at, default=None)

    def action_pause(self) -> None:
        line = self._line()
        if line is not None and line.word == "paused":
            self._command("going on", "resume", {})
        elif line is not None:
            self._command("pausing before the next turn", "pause", {"hard": False})

    def action_pause_hard(self) -> None:
        self._command("pausing before the next call", "pause", {"hard": True})

    def action_stop(self) -> None:
        line = self._line()
        if line is None or not line.live:
            self.main.tell("nobody is at work on this run")
            return
        words = (
            f"Stop run {line.id[:8]} {line.name!r}? The calls in flight are finished and kept; R goes on with it later."
        )
        self.main.push_screen(
            Question(words, (("stop", "Stop the run"), ("cancel", "Cancel"))),
            lambda answer: self._command("stopping", "stop", {}) if answer else None,
        )

    def action_resume(self) -> None:
        line = self._line()
        if line is None or line.live:
            self.main.tell("there is no run to resume" if line is None else "an engine is at work on this run already")
            return
        retry = ["--retry-failed"] if line.word in ("failed", "done") else []
        what = f"resuming {line.id[:8]}"

        async def resume() -> None:
            await self.main.have_done(what, "resume", line.id, *retry, "--detach", "--json")

        self.main.set_to_work(resume)

    def action_permits(self, step: int) -> None:
        read, model = self.watching.read, self.query_one("#model-table", Table).at
        row = next((row for row in read.models if row["model"] == model), None) if read is not None else None
        if row is None:
            self.main.tell("no model has been asked yet")
            return
        limit: int | str = max(1, row["permits"] + step) if step else "auto"
        self._command(f"{model}: {limit} calls at once", "permits", {"model": model, "limit": limit})

    def _command(self, what: str, verb: str, args: Mapping[str, object]) -> None:
        run_id = self.watching.run_id
        path = self.main.store_path

        def ask() -> None:
            from tui.launch import ask_and_wait

            with Store.open(path) as store:
                asyncio.run(ask_and_wait(store, run_id, verb, args))

        async def asked() -> None:
            try:
                await asyncio.to_thread(ask)
                self.main.tell(what)
            except EspalierError as error:
                self.main.tell(str(error), severity="warning")
            self._next_read = 0.0
            await self.main.look()

        self.main.set_to_work(asked)

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_trees()

    def action_trees(self) -> None:
        self.main.run_id = self.watching.run_id
        self.main.action_go("trees")

    def action_side(self) -> None:
        self.toggle_class("-side")
        if self.has_class("-narrow"):
            first = "#model-table" if self.has_class("-side") else "#role-table"
            self.call_after_refresh(self.query_one(first).focus)


_NO_MODELS = "no engine has measured its models yet"


def _silence(live: RunLine | None, heard: str) -> str:
    if live is None or not live.live:
        return "nobody is at work on this run"
    return "no model is writing" if heard else "the engine cannot be heard from here; the figures above are the store's"


def _judge(row: Mapping[str, Any]) -> list[Content]:
    outcomes = "  ".join(
        f"{name} {row[name]}" for name in ("win", "tie", "both_bad", "unstable", "abstain") if row[name]
    )
    lines = [styled((one_line(row["judge"], 30), "bold"), f"  {row['kind']}, {row['turns']} turns  {outcomes}")]
    for name, share in row["win_rates"].items():
        lines.append(safe(f"  {name} won {share_in_words(share)}"))
    if row["hinted"]["of"]:
        lines.append(safe(f"  hinted replies won {share_in_words(row['hinted'])}"))
    if row["first_shown"]["of"]:
        lines.append(safe(f"  shown first was picked {share_in_words(row['first_shown'])}"))
    if row["flips"]["of"]:
        lines.append(safe(f"  judged again changed {share_in_words(row['flips'])}"))
    for name, found in row["agreement"].items():
        lines.append(safe(f"  agrees with {name} {agreement_in_words(found)}"))
    return lines
