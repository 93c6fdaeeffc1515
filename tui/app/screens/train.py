"""Train: trainings and how each stands, the curves of one with others over it, what it learns from, and its steering.

Curves are rows of the store, so a training that was started elsewhere is shown as well. Steering is rows that the
process at work answers, and what is started or gone on with is a child of the command line: the same that
`espalier train` does.

Invariant: nothing here keeps a training alive or ends it but what a person asked for.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import DataTable, Static

from trees.errors import EspalierError, StoreMissing
from trees.store import Store
from tui.app.content import Cell, bar, flat, pill, safe, styled
from tui.app.curves import Figure, number
from tui.app.dialogs import Question
from tui.app.frame import Mode, Pane, Table
from tui.app.plot import CurvePlot
from tui.app.standing import ago
from tui.app.train_form import TrainForm
from tui.app.watching_trainings import (
    CURVES,
    Choose,
    DataRead,
    LayOver,
    Read,
    TrainingLine,
    Watched,
    curves_of,
    drawn_together,
    event_in_words,
    figure,
    figures_in_words,
    next_step,
    read_data,
    read_trainings,
    reduce,
    settings_in_words,
    time_left,
)
from tui.console import duration
from tui.sanitise import one_line

READ_S = 1.0
"""Between two readings, in seconds, or longer where reading takes more than a twentieth of it."""
SHARE_OF_TIME = 0.05
BEAT_S = 2.0
"""How often a training that says nothing is looked at again: its silence is what is to be seen."""
MOST_PLOTS = 4
STEPS_ACROSS = 60
"""Presses that take the reading line from one end of a long training to the other."""


class CurveTab(Static):
    """The name of a curve; a click shows it first."""

    ALLOW_SELECT = False

    def __init__(self, name: str) -> None:
        super().__init__(Content(f" {name} "), id=f"curve-{name}", classes="curve")
        self.curve = name

    async def on_click(self) -> None:
        await self.run_action(f"screen.show_curve('{self.curve}')")


class ListPane(Pane):
    """The trainings."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.look_at", "Look at it", show=False, id="train.look_at"),
        Binding("o", "screen.overlay", "Overlay", id="train.overlay"),
    ]


class TrainScreen(Mode):
    """The trainings of the store."""

    MODE = "train"
    EVERY_S = 1.0
    TOUR = (
        "Train lists trainings and draws the curves of the one under the cursor: every step in the background, a "
        "smoothed line over it, and what was measured on people who are held back as signs. o keeps it drawn while "
        "others are looked at, L takes a logarithmic axis, < and > read values off, t shows the numbers, [ and ] other "
        "curves. n sets a "
        "training up. space has it make a checkpoint and leave, or go on; S ends it with what it has learnt. It is "
        "done by a process of its own: closing this window changes nothing."
    )
    CSS = """
    TrainScreen #left { width: 3fr; }
    TrainScreen #right { width: 2fr; }
    TrainScreen #standing { height: auto; max-height: 9; }
    TrainScreen.-short #standing { max-height: 6; }
    TrainScreen #curves { height: 1fr; }
    TrainScreen #curve-tabs { height: 1; }
    TrainScreen .curve { width: auto; color: $text-muted; }
    TrainScreen .curve.-active { color: $text-accent; text-style: bold; }
    TrainScreen #plots { layout: grid; grid-size: 1 1; height: 1fr; }
    TrainScreen.-tall #plots, TrainScreen.-high #plots { grid-size: 1 2; }
    TrainScreen.-three #plots { grid-size: 2 1; }
    TrainScreen.-three.-tall #plots, TrainScreen.-three.-high #plots { grid-size: 2 2; }
    TrainScreen #list { height: 1fr; min-height: 5; }
    TrainScreen #data { height: 1fr; min-height: 5; }
    TrainScreen #log { height: 1fr; min-height: 5; }
    TrainScreen.-narrow #right { display: none; }
    TrainScreen.-narrow.-side #left { display: none; }
    TrainScreen.-narrow.-side #right { display: block; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause, go on", id="train.pause"),
        Binding("S", "stop", "Stop", id="train.stop"),
        Binding("R", "resume", "Resume", id="train.resume"),
        Binding("n", "new", "New", id="train.new"),
        Binding("t", "table", "Numbers instead of curves", show=False, id="train.table"),
        Binding("L", "log_axis", "Logarithmic axis", show=False, id="train.log_axis"),
        Binding("Z", "side", "Side panes", id="train.side"),
        Binding("left_square_bracket", "curve(-1)", "Previous curve", show=False, id="train.curve_before"),
        Binding("right_square_bracket", "curve(1)", "Next curve", show=False, id="train.curve_after"),
        Binding("less_than_sign", "read_off(-1)", "Read off earlier", show=False, id="train.earlier"),
        Binding("greater_than_sign", "read_off(1)", "Read off later", show=False, id="train.later"),
        Binding("comma", "beside(-1)", "Previous training", show=False, id="train.previous"),
        Binding("full_stop", "beside(1)", "Next training", show=False, id="train.next"),
        Binding("escape", "back", "Back", show=False, id="train.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched()
        self.data: DataRead | None = None
        self.as_table = False
        self.log_axis = False
        self.at: float | None = None
        """The step that is read off."""
        self.first = "loss"
        """The curve that is shown first."""
        self._next_read = 0.0

    def panes(self) -> ComposeResult:
        with Horizontal():
            with Vertical(id="left"):
                yield Pane(
                    "training",
                    Static(id="standing-told"),
                    id="standing",
                    about="How the training stands, its last figures, what may be done next, and what is trained how.",
                )
                yield Pane(
                    "curves",
                    Horizontal(*(CurveTab(name) for name in CURVES), id="curve-tabs"),
                    Container(
                        *(CurvePlot(id=f"plot-{place}", plain=self.main.plain) for place in range(MOST_PLOTS)),
                        id="plots",
                    ),
                    id="curves",
                    about=(
                        "Curves over optimiser steps. [ and ] show others, < and > read values off at a step, t shows "
                        "numbers, L a logarithmic axis, y copies the numbers. Smoothed is an exponential average over "
                        "a twentieth of the points. Rewards are beta times nats above the reference."
                    ),
                )
            with Vertical(id="right"):
                yield ListPane(
                    "trainings",
                    Table(id="training-table"),
                    id="list",
                    about="All trainings of the store. o keeps one drawn while others are looked at, under a number.",
                )
                yield Pane(
                    "what it learns from",
                    VerticalScroll(Static(id="data-told")),
                    id="data",
                    about="Pairs or targets that are kept, what is dropped and why, and what is lopsided in it.",
                )
                yield Pane(
                    "alarms and log",
                    VerticalScroll(Static(id="log-told")),
                    id="log",
                    about="What is going wrong, in words; what happened; and the last lines of the training's log.",
                )

    def on_mount(self) -> None:
        self.query_one("#training-table", Table).columns_are(
            ("", 2), ("state", 9), ("kind", 4), ("training", 8), ("done", 5), ("loss", 7), ("of", None)
        )
        self.pane("standing").notice("loading", "reading the trainings ...")
        self.set_interval(BEAT_S, self._beat)
        self.query_one("#plot-0" if self.main.size.width < 100 else "#training-table").focus()

    # Reading

    def refresh_view(self) -> None:
        if time.monotonic() >= self._next_read:
            self.ask("trainings", self._read, self.pane("standing"))

    def _beat(self) -> None:
        if self.is_current and self.watched.read is not None and any(line.live for line in self.watched.read.lines):
            self.refresh_view()

    async def _read(self) -> None:
        watched, now, began = self.watched, self.main.clock(), time.monotonic()
        try:
            found = await self.main.pages.ask(
                lambda store: read_trainings(store, watched.chosen, watched.over, now),
            )
        except StoreMissing:
            self._nothing()
            return
        took = time.monotonic() - began
        self._next_read = began + (max(READ_S, took / SHARE_OF_TIME) if took > READ_S * SHARE_OF_TIME else 0.0)
        self.watched = reduce(self.watched, found)
        self._show()
        read = self.watched.looked_at
        if read is not None and (self.data is None or self.data.training != read.row.id):
            self.ask("data", partial(self._read_data, read), self.pane("data"))

    async def _read_data(self, read: Read) -> None:
        self.pane("data").notice("loading", "looking at what it learns from ...")
        self.data = await self.main.deep.ask(lambda store: read_data(store, read.row))
        self._show_data()

    # Showing

    def _nothing(self) -> None:
        self.pane("standing").notice("empty", _NOTHING)
        self.query_one("#training-table", Table).fill(())
        self.query_one("#plot-0", CurvePlot).show(Figure("", (), nothing="the curves of a training are drawn here"))
        self.pane("data").notice("empty", "what a training keeps and drops is told here")
        self.pane("log").notice("empty", "alarms and the last lines of a training's log stand here")

    def _show(self) -> None:
        read, found = self.watched.looked_at, self.watched.read
        if read is None or found is None:
            self._nothing()
            return
        for pane in ("standing", "log"):
            self.pane(pane).clear()
        self.query_one("#training-table", Table).fill((line.id, self._row(line)) for line in found.lines)
        self._point_at(read.row.id)
        self.pane("list").name_it(f"trainings {len(found.lines)}")
        self.pane("standing").name_it(safe(f"{read.row.kind} {read.row.id[:8]} {one_line(read.row.name, 60)}"))
        self.query_one("#standing-told", Static).update(self._standing(read, found.at))
        self._show_curves()
        self._show_log(read, found.at)

    def _row(self, line: TrainingLine) -> tuple[Cell, ...]:
        laid = drawn_together(self.watched)
        kept = "+" if line.id in self.watched.over else ""
        sign, tone = pill(line.word, plain=self.main.plain)
        return (
            (str(laid.index(line.id) + 1) if line.id in laid else kept, "accent"),
            (sign, tone),
            (line.kind, ""),
            (line.id[:8], "muted"),
            (f"{line.share:.0%}", ""),
            ("" if line.loss is None else number(line.loss), ""),
            flat(line.name if line.start is None else f"{line.name}, from {line.start[:8]}", 60),
        )

    def _point_at(self, training: str) -> None:
        table = self.query_one("#training-table", Table)
        if table.at != training and training in {key.value for key in table.rows}:
            table.move_cursor(row=table.get_row_index(training))

    def _standing(self, read: Read, now: float) -> Content:
        line = read.line
        width = max(min(self.size.width // 4, 30), 10)
        left = time_left(read)
        when = "" if left is None else f"{duration(left[0])} to {duration(left[1])} left"
        head = bar(line.share, width, plain=self.main.plain) + styled(
            f" {line.share:.0%}  ", pill(line.word, plain=self.main.plain), f"  step {line.step}  {when}"
        )
        lines = [head, safe(figures_in_words(read))]
        if line.reason:
            lines.append(safe(line.reason, "bad" if line.word in ("failed", "crashed") else "warn"))
        lines.append(safe(next_step(read, now), "accent"))
        if read.alarms and line.word != "failed":
            lines.append(safe(f"! {read.alarms[-1]['text']}", "warn"))
        lines += [safe(each, "muted") for each in settings_in_words(read.row)]
        return Content("\n").join(lines)

    def _room(self) -> int:
        """How many plots there is room for."""
        width, height = self.size
        return (2 if width >= 160 else 1) * (2 if height >= 30 else 1)

    def _show_curves(self) -> None:
        read = self.watched.looked_at
        if read is None:
            return
        known = curves_of(read)
        self.first = self.first if self.first in known else known[0]
        start = max(min(known.index(self.first), len(known) - self._room()), 0)
        shown = known[start : start + self._room()]
        for tab in self.query(CurveTab):
            tab.display = tab.curve in known
            tab.set_class(tab.curve in shown, "-active")
        for place, plot in enumerate(self.query(CurvePlot)):
            plot.display = place < len(shown)
            if plot.display:
                drawn = figure(self.watched, shown[place], log=self.log_axis, at=self.at, plain=self.main.plain)
                plot.show(drawn, as_table=self.as_table)
        step = "" if self.at is None else f", read off at step {self.at:g}"
        together = len(drawn_together(self.watched))
        over = f" of {together} trainings" if together else ""
        self.pane("curves").name_it(f"curves{over}{step}")

    def _show_data(self) -> None:
        data = self.data
        if data is None:
            return
        self.pane("data").clear()
        if data.changed:
            self.pane("data").notice(
                "stale", "the store holds other data than it began with; this is what it holds now"
            )
        tones = {"warning": "warn", "error": "bad", "dropped": "muted", "note": "muted"}
        lines = [safe(line, tones.get(line.partition(":")[0], "")) for line in data.lines]
        self.query_one("#data-told", Static).update(Content("\n").join(lines))

    def _show_log(self, read: Read, now: float) -> None:
        lines = [safe(f"! step {alarm['step']}: {alarm['text']}", "warn") for alarm in read.alarms]
        lines += [
            safe(f"{ago(max(now - event.at, 0)):>6}  {event_in_words(event)}")
            for event in reversed(read.events)
            if event.kind != "training.alarm"
        ]
        if read.log:
            lines += [Content(), styled(("the last lines of its log", "bold"))]
            lines += [safe(one_line(line, 400), "muted") for line in read.log]
        if not lines:
            self.pane("log").notice("empty", "nothing has happened yet")
        self.query_one("#log-told", Static).update(Content("\n").join(lines))

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self._show_curves)

    # Looking around

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        key = event.row_key.value
        if key is not None and key != self.watched.chosen:
            self._look_at(key)

    def _look_at(self, training: str) -> None:
        self.watched = reduce(self.watched, Choose(training))
        self.at = None
        self._next_read = 0.0
        self.refresh_view()

    def action_look_at(self) -> None:
        if self.has_class("-narrow") and self.has_class("-side"):
            self.action_side()
        else:
            self.query_one("#plot-0").focus()

    def action_beside(self, step: int) -> None:
        table = self.query_one("#training-table", Table)
        row = table.cursor_row + step
        if 0 <= row < table.row_count:
            table.move_cursor(row=row)

    def action_overlay(self) -> None:
        """Keep the training looked at drawn while others are looked at, or no longer."""
        read = self.watched.looked_at
        if read is None:
            return
        self.watched = reduce(self.watched, LayOver(read.row.id))
        if read.row.id in self.watched.over:
            self.main.tell(f"{read.row.id[:8]} stays drawn while others are looked at; o again takes it away")
        self._next_read = 0.0
        self.refresh_view()

    def action_table(self) -> None:
        self.as_table = not self.as_table
        self._show_curves()

    def action_log_axis(self) -> None:
        self.log_axis = not self.log_axis
        self._show_curves()

    def action_curve(self, step: int) -> None:
        read = self.watched.looked_at
        if read is not None:
            known = curves_of(read)
            self.action_show_curve(known[(known.index(self.first) + step) % len(known)])

    def action_show_curve(self, name: str) -> None:
        self.first = name
        self._show_curves()

    def action_read_off(self, step: int) -> None:
        """Move the line at which values are read off, by a step of the training or more where it is long."""
        read = self.watched.looked_at
        steps = [point.step for point in read.points if point.kind == "training"] if read is not None else []
        if not steps:
            return
        if self.at is None:
            self.at = float(steps[-1] if step < 0 else steps[0])
        else:
            near = min(range(len(steps)), key=lambda place: abs(steps[place] - (self.at or 0.0)))
            far = near + step * max(len(steps) // STEPS_ACROSS, 1)
            self.at = float(steps[max(0, min(far, len(steps) - 1))])
        self._show_curves()

    def action_back(self) -> None:
        if self.at is not None:
            self.at = None
        elif self.watched.over:
            for training in self.watched.over:
                self.watched = reduce(self.watched, LayOver(training))
            self.refresh_view()
        self._show_curves()

    def action_side(self) -> None:
        self.toggle_class("-side")
        if self.has_class("-narrow"):
            first = "#training-table" if self.has_class("-side") else "#plot-0"
            self.call_after_refresh(self.query_one(first).focus)

    def copied(self) -> str | None:
        """The numbers of the plot that has the focus, or of all that are shown; of the list, the training's id."""
        read, focused = self.watched.looked_at, self.focused
        if read is None or isinstance(focused, Table):
            return None if read is None else read.row.id
        plots = [focused] if isinstance(focused, CurvePlot) else [p for p in self.query(CurvePlot) if p.display]
        return "\n\n".join(plot.text() for plot in plots)

    # Steering

    def action_pause(self) -> None:
        read = self.watched.looked_at
        if read is None:
            return
        if read.line.live:
            self._command("pausing after the step under way, with a checkpoint", read, "pause")
        elif read.line.word == "done":
            self.main.tell("it is done; n sets up another")
        else:
            self.action_resume()

    def action_stop(self) -> None:
        read = self.watched.looked_at
        if read is None or not read.line.live:
            self.main.tell("nobody is at work on this training")
            return
        words = (
            f"Stop training {read.row.id[:8]} {one_line(read.row.name, 60)!r} at step {read.line.step}? What it has "
            "learnt so far becomes its adapter; R would go on from there later."
        )
        self.main.push_screen(
            Question(words, (("stop", "Stop the training"), ("cancel", "Cancel"))),
            lambda answer: self._command("stopping after the step under way", read, "stop") if answer else None,
        )

    def action_resume(self) -> None:
        read = self.watched.looked_at
        if read is None or read.line.live or read.line.word == "done":
            return
        training = read.row.id

        async def resume() -> None:
            await self.main.have_done(f"resuming {training[:8]}", "train", "resume", training, "--detach", "--json")
            self.refresh_view()

        self.main.set_to_work(resume)

    def _command(self, what: str, read: Read, verb: str) -> None:
        path, training = self.main.store_path, read.row.id

        def ask() -> None:
            from tui.launch import ask_and_wait

            with Store.open(path) as store:
                asyncio.run(ask_and_wait(store, training, verb, {}, kind="training"))

        async def asked() -> None:
            try:
                await asyncio.to_thread(ask)
                self.main.tell(what)
            except EspalierError as error:
                self.main.tell(str(error), severity="warning")
            self.refresh_view()

        self.main.set_to_work(asked)

    def action_new(self) -> None:
        def begin(words: tuple[str, ...] | None) -> None:
            if words is not None:
                self.main.set_to_work(partial(self._begin, words))

        self.main.push_screen(TrainForm(), begin)

    async def _begin(self, words: tuple[str, ...]) -> None:
        ended = await self.main.have_done(f"starting {words[1]}", *words, "--detach", "--json")
        if ended.code == 0:
            self._look_at(str(ended.document["training"]))


_NOTHING = (
    "There is no training in this store yet. n sets one up; it learns from turns that were judged, so play a run first "
    "(1, then q plays the quickstart)."
)
