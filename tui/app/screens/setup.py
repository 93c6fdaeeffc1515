"""Setup: a configuration as a form and as text, what is wrong with it, what it would take, and its start.

The text is the truth; the form is a reading of it. Starting needs a file, since a run is begun by the command line.

Invariant: Start says why it cannot be had, and what starts is what the file says at that moment.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import DataTable, Static, TextArea

from simulation.estimate import Row, seconds_by_rate, seconds_by_tree
from trees.errors import StoreMissing
from trees.jobs import events
from trees.store import Store
from tui.app import form
from tui.app.content import Cell, drawn, flat, safe, styled
from tui.app.dialogs import Choice, Line, Question
from tui.app.form import Field, Reading
from tui.app.frame import Editor, Mode, Pane, Table
from tui.console import count, duration
from tui.draw import Look, draw_tree
from tui.sanitise import one_line

FILE = Path("quickstart.toml")
TYPING_S = 0.3
"""How long a person must have stopped typing before the text is read, in seconds."""


class FormPane(Pane):
    """The fields."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "screen.change", "Change", id="setup.change")]


class SetupScreen(Mode):
    """A run that is being set up."""

    MODE = "setup"
    TOUR = (
        "Setup writes a configuration: on the left its fields with what each means, on the right the same as TOML; "
        "either may be changed. Below stand what is wrong with it and what it would take: calls and tokens, from short "
        "answers and no repeats to the longest and every repeat. ctrl+s saves it, ctrl+r starts it as a process of its "
        "own."
    )
    CSS = """
    SetupScreen #form { width: 3fr; }
    SetupScreen #side { width: 2fr; }
    SetupScreen #text { height: 1fr; }
    SetupScreen #check { height: auto; max-height: 16; }
    SetupScreen #about { height: auto; max-height: 3; padding: 0 1; color: $text-muted; }
    SetupScreen #start { height: 1; padding: 0 1; }
    SetupScreen #start.-can { background: $success; color: $background; text-style: bold; }
    SetupScreen.-narrow #side { display: none; }
    SetupScreen.-narrow.-side #form { display: none; }
    SetupScreen.-narrow.-side #side { display: block; width: 1fr; }
    SetupScreen TextArea { border: none; padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="setup.save"),
        Binding("ctrl+r", "start", "Start", id="setup.start"),
        Binding("t", "test", "Test models", id="setup.test"),
        Binding("D", "dry_run", "Dry run", show=False, id="setup.dry_run"),
        Binding("O", "open", "Open a file", show=False, id="setup.open"),
        Binding("F", "from_run", "From the run looked at", show=False, id="setup.from_run"),
        Binding("Z", "side", "Text", id="setup.side"),
        Binding("escape", "back", "Form", id="setup.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.file: Path | None = None
        self.saved = ""
        """What the file says."""
        self._began = ""
        """What was there before a person changed it: the file's text, a run's, or what is offered to begin with."""
        self.reading = Reading(None, ())
        self.fields: list[Field] = []
        self._typing: Timer | None = None
        self._tested: dict[str, str] = {}
        self._rates: dict[str, float] = {}
        """Tokens a second that models wrote when they were tested."""
        self._tree: Content | None = None
        """The tree of the last dry run, drawn."""
        self._tree_s: float | None = None
        """How long it took to play, in seconds."""

    def panes(self) -> ComposeResult:
        with Horizontal():
            yield FormPane(
                "form",
                Table(id="field-table"),
                Static(id="about"),
                Static(id="start"),
                id="form",
                about="The fields of the configuration. enter changes one; nothing typed gives it back to its default.",
            )
            with Vertical(id="side"):
                yield Pane(
                    "text",
                    Editor(id="toml", show_line_numbers=True, tab_behavior="focus"),
                    id="text",
                    about="The configuration as it is saved. What the form changes is changed here, comments kept.",
                )
                yield Pane(
                    "check",
                    VerticalScroll(Static(id="told")),
                    id="check",
                    about="What is wrong with the configuration, or what a run of it would take.",
                )

    def on_mount(self) -> None:
        self.query_one("#field-table", Table).columns_are(("field", 22), ("value", 20), ("", None))
        if FILE.is_file():
            self._open(FILE)
        else:
            from simulation.quickstart import quickstart

            self._begin_from(quickstart())
        self._read_now()
        self.query_one("#field-table").focus()

    @property
    def text(self) -> str:
        return self.query_one(TextArea).text

    @property
    def unsaved(self) -> str | None:
        if self.text == self._began:
            return None
        return f"the configuration {self.file}" if self.file is not None else "the configuration, which has no file,"

    # Reading the text

    def on_text_area_changed(self, _: TextArea.Changed) -> None:
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(TYPING_S, self._read_now)

    def _read_now(self) -> None:
        self.reading = form.read(self.text)
        if self.reading.config is not None:
            self.fields = form.fields(self.text, self.reading.config)
            self.query_one("#field-table", Table).fill(self._rows())
        star = "*" if self.text != self.saved else ""
        self.pane("text").name_it(safe(f"{self.file or 'not saved yet'}{star}"))
        self._show_start()
        if self.reading.problems:
            self.query_one("#told", Static).update(safe("\n".join(self.reading.problems), "bad"))
        else:
            self.ask("estimate", self._estimate, self.pane("check"))

    def _rows(self) -> list[tuple[str, tuple[Cell, ...]]]:
        rows: list[tuple[str, tuple[Cell, ...]]] = []
        section = ""
        for field in self.fields:
            if field.section != section:
                section = field.section
                rows.append((f"[{section}]", ((f"[{one_line(section, 20)}]", "accent"), ("", ""), ("", ""))))
            tone = "bold" if field.written else "muted"
            value = flat(form.shown(field.value), 20, tone)
            rows.append((".".join(field.path), (flat(f"  {field.name}", 22), value, flat(field.about, 90, "muted"))))
        return rows

    async def _estimate(self) -> None:
        config, folder = self.reading.config, (self.file or FILE).resolve().parent
        if config is None:
            return
        try:
            guess = await self.main.pages.ask(lambda store: form.guessed(config, folder, store))
        except StoreMissing:
            guess = form.guessed(config, folder, None)
        low, high = guess.turns
        told = [
            styled(
                (f"{config.personas.count} people, {low} to {high} turns" if low != high else f"{low} turns", "bold")
            ),
            safe(guess.branching),
            Content(),
        ]
        for row in guess.rows:
            calls, read, written = row.calls, row.tokens_in, row.tokens_out
            told.append(
                safe(
                    f"{row.role:<18} {_range(calls):>13} calls  {_range(read):>13} read  {_range(written):>13} written"
                )
            )
        told += [safe(line) for line in self._times(guess.rows[-1], config.personas.count)]
        told += [safe(f"model {name}: {said}") for name, said in self._tested.items()]
        told += [Content(), self._tree] if self._tree is not None else []
        self.pane("check").clear()
        self.query_one("#told", Static).update(Content("\n").join(told))

    def _times(self, total: Row, people: int) -> list[str]:
        """How long it would take, by what was measured here: a tree that was played, else the models' own rates."""
        if self._tree_s is not None:
            low, high = seconds_by_tree(self._tree_s, people)
            return [f"time {duration(low)} to {duration(high)}: one tree took {duration(self._tree_s)}"]
        if self._rates:
            low, high = seconds_by_rate(total, min(self._rates.values()))
            return [f"time {duration(low)} to {duration(high)}, by the slowest model's rate; D plays one tree"]
        return ["time: t measures the models, D plays one tree"]

    def _show_start(self) -> None:
        why = form.why_not(self.reading, self.file)
        start = self.query_one("#start", Static)
        start.set_class(why is None, "-can")
        first = f": {self.reading.problems[0]}" if self.reading.problems else ""
        start.update(safe(" ctrl+r  Start " if why is None else f" Start - {one_line(why + first, 200)} "))

    # Changing it

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        field = self._field()
        self.query_one("#about", Static).update(safe(field.about if field is not None else ""))

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_change()

    def _field(self) -> Field | None:
        at = self.query_one("#field-table", Table).at
        return next((field for field in self.fields if ".".join(field.path) == at), None)

    def action_change(self) -> None:
        field = self._field()
        if field is None:
            return
        words = f"{'.'.join(field.path)}: {field.about}"
        dialog = Choice(words, field.choices) if field.choices else Line(words, form.shown(field.value))
        self.main.push_screen(dialog, partial(self._change, field))

    def _change(self, field: Field, typed: str | None) -> None:
        if typed is None or typed == form.shown(field.value):
            return
        try:
            self.query_one(Editor).rewrite(form.changed(self.text, field.path, typed))
        except ValueError as error:
            self.main.tell(str(error), severity="warning")
        self._read_now()

    # Files

    def _open(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.main.tell(f"{path} cannot be read: {error}", severity="error")
            return
        self.file, self.saved = path, text
        self._begin_from(text)

    def _begin_from(self, text: str) -> None:
        self._began, editor = text, self.query_one(Editor)
        if editor.text:
            editor.rewrite(text)
            editor.move_cursor((0, 0))
        else:
            editor.text = text

    def _unless_lost(self, then: Callable[[], None]) -> None:
        """Go on where nothing is lost by it that was typed, or where a person wants to lose it."""
        if (what := self.unsaved) is None:
            then()
            return
        self.main.push_screen(
            Question(
                f"{what[0].upper()}{what[1:]} is not saved and would be lost; ctrl+s saves it.",
                (("lose", "Lose it"), ("cancel", "Cancel")),
            ),
            lambda answer: then() if answer else None,
        )

    def action_open(self) -> None:
        def ask() -> None:
            self.main.push_screen(Line("Which configuration file?", str(self.file or FILE)), self._opened)

        self._unless_lost(ask)

    def _opened(self, name: str | None) -> None:
        if name:
            self._open(Path(name))
            self._read_now()

    def action_save(self) -> None:
        if self.file is not None:
            self._save(str(self.file))
        else:
            self.main.push_screen(Line("Save the configuration as:", str(FILE)), self._save)

    def _save(self, name: str | None) -> None:
        if not name:
            return
        path = Path(name)
        if path != self.file and path.exists():
            self.main.tell(f"{path} exists already; O opens it, another name keeps both", severity="warning")
            return
        try:
            path.write_text(self.text, encoding="utf-8")
        except OSError as error:
            self.main.tell(f"cannot write {path}: {error.strerror}", severity="error")
            return
        self.file, self.saved, self._began = path, self.text, self.text
        self._read_now()
        self.main.tell(f"saved {path}")

    def action_from_run(self) -> None:
        from simulation.runs import config_of

        line = self.main.current_run()
        if line is None or line.kind != "play":
            self.main.tell("there is no played run to take a configuration from")
            return
        run_id = line.id

        def taken(store: Store) -> str:
            return form.text_of(config_of(store.run(run_id)))

        async def take() -> None:
            text = await self.main.pages.ask(taken)
            self.file, self.saved = None, ""
            self._begin_from(text)
            self._read_now()

        self._unless_lost(partial(self.ask, "from", take, self.pane("text")))

    # Trying it and starting it

    def _saved_file(self) -> Path | None:
        """The file if it says what the form says; tells what is lacking otherwise."""
        if self.reading.problems or self.file is None:
            self.main.tell(form.why_not(self.reading, self.file) or "", severity="warning")
            return None
        if self.text != self.saved:
            self._save(str(self.file))
        return self.file

    def action_test(self) -> None:
        file, config = self._saved_file(), self.reading.config
        if file is not None and config is not None:
            self.main.set_to_work(partial(self._test, file, tuple(config.models)))

    async def _test(self, file: Path, models: tuple[str, ...]) -> None:
        for name in models:
            self._tested[name] = "being tested ..."
            self._read_now()
            ended = await self.main.have_done(
                f"testing {name}", "models", "test", name, "--config", str(file), "--json"
            )
            try:
                self._tested[name] = _in_words(ended.document)
                if rate := ended.document["chat"].get("tokens_per_s"):
                    self._rates[name] = float(rate)
            except ValueError:
                self._tested[name] = ended.reason
        self._read_now()

    def action_dry_run(self) -> None:
        if (file := self._saved_file()) is not None:
            self.main.set_to_work(partial(self._dry_run, file))

    async def _dry_run(self, file: Path) -> None:
        """Play one tree into a store that is thrown away, and show it with the time that it took."""
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder) / "dry-run.db"
            words = ("run", str(file), "--set", "personas.count=1", "--json")
            ended = await self.main.have_done("playing one tree, which is not kept", *words, store=scratch)
            if ended.code > 1:
                return
            width = self.query_one("#told", Static).size.width or 80
            self._tree, self._tree_s = await asyncio.to_thread(_played, scratch, width, self.main.plain)
        self._read_now()

    def action_start(self) -> None:
        if (file := self._saved_file()) is not None:
            self.main.set_to_work(partial(self._start, file))

    async def _start(self, file: Path) -> None:
        ended = await self.main.have_done(f"starting {file}", "run", str(file), "--detach", "--json")
        if ended.code == 0:
            run = ended.document["run"]
            self.main.watch_run(run if isinstance(run, str) else run["id"])

    def action_side(self) -> None:
        self.toggle_class("-side")
        if self.has_class("-narrow"):
            self.call_after_refresh(self.query_one("#toml" if self.has_class("-side") else "#field-table").focus)

    def action_back(self) -> None:
        self.remove_class("-side")
        self.set_focus(self.query_one("#field-table"))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is something to go back from while the text or what is said of it has the focus."""
        if action == "back":
            return self.focused is not None and self.query_one("#side") in self.focused.ancestors
        return super().check_action(action, parameters)

    def copied(self) -> str | None:
        return self.text


def _played(scratch: Path, width: int, plain: bool) -> tuple[Content, float]:
    """The tree of a dry run, drawn, and the seconds that its engine was at work."""
    with Store.read(scratch) as store:
        run = store.runs()[0]
        at = {event.kind: event.at for event in events(store, run.id)}
        tree = store.tree(store.trees(run.id)[0].id)
    lines = draw_tree(tree, Look(width, ascii=plain))
    return drawn(lines), max(at["engine.left"] - at["engine.started"], 0.1)


def _range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return count(low) if low == high else f"{count(low)}-{count(high)}"


def _in_words(result: dict[str, dict[str, object]]) -> str:
    """What a model's test found, in a line."""
    said = []
    for part in ("chat", "score", "choices", "schema"):
        works = result[part]["works"]
        said.append(f"{part} {'ok' if works else 'not offered' if works is None else result[part].get('why', 'fails')}")
    rate = result["chat"].get("tokens_per_s")
    return ", ".join(said) + (f", {rate} tokens/s" if rate else "")
