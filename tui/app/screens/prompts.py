"""Prompts: versions, an editor that says what is wrong as one types, a preview on a stored place, diff, save, Try.

A draft begins from a version or file and belongs to nobody until it is saved, which makes an immutable version. Drafts
are kept in a file while they are typed, so that they survive whatever ends the app.

Invariant: what is previewed and tried is rendered by the functions that render for models; nothing is imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import DataTable, Static, TextArea

from agents.prompts import Prompt
from trees.errors import StoreMissing
from trees.store import Store
from tui.app import drafting, files
from tui.app.content import Cell, drawn, flat, safe
from tui.app.dialogs import Line, Question
from tui.app.drafting import Checked, Source
from tui.app.frame import Editor, Mode, Pane, Table
from tui.app.standing import RunLine
from tui.app.tries import Tries, heard, lines_of_tries
from tui.trying import SET, TRIED

View = Literal["preview", "problems", "diff", "try"]
TYPING_S = 0.3


class VersionPane(Pane):
    """What a draft can begin from."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.take", "Edit", id="prompts.take"),
        Binding("p", "screen.person(1)", "Next persona", id="prompts.person"),
        Binding("n", "screen.place(1)", "Next place", id="prompts.place"),
        Binding("u", "screen.use", "Use", id="prompts.use"),
        Binding("d", "screen.view('diff')", "Diff", show=False, id="prompts.diff"),
        Binding("A", "screen.apply", "Apply to the run", show=False, id="prompts.apply"),
        Binding("J", "screen.judging", "Judge what is tried", show=False, id="prompts.judging"),
    ]


class PromptsScreen(Mode):
    """The prompts of the roles."""

    MODE = "prompts"
    EVERY_S = 1.0
    TOUR = (
        "Prompts shows every version of every role's prompt: those in the store with how many runs use them, your own "
        "files in prompts/, and the shipped ones. enter takes one into the editor. On the right the draft is rendered "
        "on a persona and a turn of a stored tree, or compared with what it came from. ctrl+s keeps it as a version, "
        "ctrl+r asks a model under it at that place, beside what it came from, ctrl+g at a set of places: the messages "
        "that are bookmarked, else five people. J has the run's judge compare the two. What is said is shown and not "
        "kept. u has runs that are begun from now on speak under the version, A the run that is looked at, in the "
        "trees that it has not begun."
    )
    CSS = """
    PromptsScreen #versions { width: 38; }
    PromptsScreen #editor { width: 1fr; }
    PromptsScreen #shown { width: 1fr; }
    PromptsScreen.-narrow #editor { width: 1fr; display: none; }
    PromptsScreen.-narrow #shown { display: none; }
    PromptsScreen.-narrow #versions { width: 1fr; }
    PromptsScreen.-narrow.-editing #editor { display: block; }
    PromptsScreen.-narrow.-editing #versions { display: none; }
    PromptsScreen.-narrow.-side #shown { display: block; }
    PromptsScreen.-narrow.-side #versions { display: none; }
    PromptsScreen.-narrow.-side #editor { display: none; }
    PromptsScreen.-two #versions { width: 32; }
    PromptsScreen.-two #shown { display: none; }
    PromptsScreen.-two.-side #editor { display: none; }
    PromptsScreen.-two.-side #shown { display: block; }
    PromptsScreen #problem { height: auto; max-height: 4; padding: 0 1; }
    PromptsScreen TextArea { border: none; padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="prompts.save"),
        Binding("ctrl+r", "try", "Try", id="prompts.try"),
        Binding("ctrl+g", "try_set", "Try on a set", show=False, priority=True, id="prompts.try_set"),
        Binding("ctrl+d", "view('diff')", "Diff", show=False, priority=True, id="prompts.diff_too"),
        Binding("ctrl+t", "side", "Preview", show=True, id="prompts.side"),
        Binding("ctrl+e", "editor", "In $EDITOR", show=False, priority=True, id="prompts.editor"),
        Binding("escape", "back", "Back", show=False, id="prompts.back"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[Source] = []
        self.source: Source | None = None
        self.checked = Checked(None)
        self.view: View = "preview"
        self.place = 1
        self.tree_id: str | None = None
        self.tries: Tries = {}
        self.judged = False
        self._trees: list[str] = []
        self._typing: Timer | None = None

    def panes(self) -> ComposeResult:
        with Horizontal():
            yield VersionPane(
                "versions",
                Table(id="version-table"),
                id="versions",
                about=(
                    "Versions and files by role. enter takes one into the editor; u writes it into prompts/, where "
                    "runs that are begun in this folder from then on find it."
                ),
            )
            yield Pane(
                "editor",
                Vertical(Editor(id="draft", show_line_numbers=True, tab_behavior="focus"), Static(id="problem")),
                id="editor",
                about="The draft. What is wrong with it stands below as you type. ctrl+s keeps it as a version.",
            )
            yield Pane(
                "preview",
                VerticalScroll(Static(id="shown-text")),
                id="shown",
                about="The draft on a persona and a turn: p another persona, n another turn (in the list of versions).",
            )

    def on_mount(self) -> None:
        self.query_one("#version-table", Table).columns_are(("role", 16), ("version", 16), ("runs", 4), ("", None))
        self.pane("editor").notice("empty", "enter takes the version under the cursor into the editor")
        self.query_one("#version-table").focus()

    @property
    def text(self) -> str:
        return self.query_one(TextArea).text

    @property
    def unsaved(self) -> str | None:
        if self.source is None or self.text == self.source.text:
            return None
        return f"the draft of the {self.source.kind} prompt"

    # Versions

    def refresh_view(self) -> None:
        self.ask("versions", self._read, self.pane("versions"))

    async def _read(self) -> None:
        def found(store: Store) -> tuple[list[Source], list[str]]:
            trees = store.rows("SELECT id FROM trees WHERE nodes > 0 ORDER BY updated_at DESC, id LIMIT 50")
            return drafting.sources(store), [row[0] for row in trees]

        try:
            self.sources, self._trees = await self.main.pages.ask(found)
        except StoreMissing:
            self.sources, self._trees = drafting.sources(None), []
        self.tree_id = self.tree_id if self.tree_id in self._trees else next(iter(self._trees), None)
        self.pane("versions").clear()
        self.query_one("#version-table", Table).fill((source.key, self._row(source)) for source in self.sources)
        self._show()

    def _row(self, source: Source) -> tuple[Cell, ...]:
        mine = self.source is not None and source.key == self.source.key
        return (
            flat(source.kind, 16, "accent" if mine else ""),
            flat(source.name, 16, "bold"),
            (str(source.runs or ""), "good"),
            flat(source.note, 40, "muted"),
        )

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        self.action_take()

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        if self.source is None:
            self._show()

    def _under_cursor(self) -> Source | None:
        at = self.query_one("#version-table", Table).at
        return next((source for source in self.sources if source.key == at), None)

    def action_take(self) -> None:
        source = self._under_cursor()
        if source is None:
            return
        self.source, self.tries = source, {}
        kept = _draft_file(source.kind)
        text = source.text
        if kept.is_file() and (draft := kept.read_text(encoding="utf-8")) != text:
            self.main.tell(f"a draft of the {source.kind} prompt was left here; empty it to drop it")
            text = draft
        self.query_one(TextArea).text = text
        self.pane("editor").clear()
        self.pane("editor").name_it(safe(f"{source.kind} from {source.name}"))
        self.add_class("-editing")
        self._read_draft()
        self.set_focus(self.query_one(TextArea))

    # The draft

    def on_text_area_changed(self, _: TextArea.Changed) -> None:
        if self._typing is not None:
            self._typing.stop()
        self._typing = self.set_timer(TYPING_S, self._read_draft)

    def _read_draft(self) -> None:
        if self.source is None:
            return
        self.checked = drafting.check(self.source.kind, self.text)
        said = safe(self.checked.problem, "bad") if self.checked.problem else safe("no problem", "good")
        self.query_one("#problem", Static).update(said)
        with contextlib.suppress(OSError):
            kept = _draft_file(self.source.kind)
            if self.text == self.source.text or not self.text.strip():
                kept.unlink(missing_ok=True)
            else:
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(self.text, encoding="utf-8")
        self._show()

    def _show(self) -> None:
        source = self.source or self._under_cursor()
        if source is None:
            return
        if self.view == "try":
            self._show_tries()
        elif self.view == "diff":
            self.pane("shown").clear()
            self.pane("shown").name_it("diff")
            self._tell(drawn(drafting.difference(source.text, self.text if self.source else source.text)))
        else:
            self.ask("preview", partial(self._preview, source), self.pane("shown"))

    async def _preview(self, source: Source) -> None:
        pane, checked = self.pane("shown"), self.checked if self.source else drafting.check(source.kind, source.text)
        variables = drafting.variables(source.kind)
        if checked.prompt is None:
            pane.clear()
            self._tell(safe(f"{checked.problem}\n\nVariables by section:\n{variables}"))
            return
        if self.tree_id is None:
            pane.notice("empty", f"No tree is stored to preview it on.\n\nVariables by section:\n{variables}")
            return
        prompt, tree, number = checked.prompt, self.tree_id, self.place
        shown = await self.main.pages.ask(lambda store: drafting.preview(store, tree, prompt, number))
        pane.clear()
        if shown is None:
            pane.notice("empty", f"no {source.kind} prompt was used in tree {tree[:8]}; p goes to another")
            return
        self.place = shown.number
        pane.name_it(f"preview on {tree[:8]}, {shown.number} of {shown.of}, {shown.use.role}")
        self._tell(drawn(drafting.preview_lines(shown)))

    def _tell(self, content: Content) -> None:
        self.query_one("#shown-text", Static).update(content)

    # What one does with it

    def action_person(self, step: int) -> None:
        if self._trees:
            at = self._trees.index(self.tree_id) if self.tree_id in self._trees else 0
            self.tree_id, self.place = self._trees[(at + step) % len(self._trees)], 1
            self._show()

    def action_place(self, step: int) -> None:
        # The preview says how many places there are and goes back to the last of them.
        self.place = max(1, self.place + step)
        self._show()

    def action_view(self, view: View) -> None:
        self.view = "preview" if self.view == view else view
        self._show()

    def action_side(self) -> None:
        self.toggle_class("-side")

    def action_back(self) -> None:
        self.remove_class("-editing", "-side")
        self.set_focus(self.query_one("#version-table"))

    def action_editor(self) -> None:
        import os

        if self.source is not None:
            text = self.main.outside(os.environ.get("EDITOR", "vi"), self.text, ".md")
            if text is not None:
                self.query_one(TextArea).text = text

    def action_save(self) -> None:
        if self.source is None or self.checked.prompt is None:
            self.main.tell(self.checked.problem or "take a version into the editor first", severity="warning")
            return
        self.main.push_screen(Line("A word on what is new in it:", ""), self._save)

    def _save(self, note: str | None) -> None:
        prompt, source = self.checked.prompt, self.source
        if note is None or prompt is None or source is None:
            return

        def write() -> bool:
            with Store.open(self.main.store_path) as store:
                return drafting.save(store, prompt, note)

        async def saved() -> None:
            new = await asyncio.to_thread(write)
            _draft_file(source.kind).unlink(missing_ok=True)
            self.source = Source(prompt.id, prompt.kind, prompt.id[:8], self.text, note)
            self.main.tell(f"kept as version {prompt.id[:8]}" if new else f"it is version {prompt.id[:8]} already")
            await self._read()
            table = self.query_one("#version-table", Table)
            table.move_cursor(row=table.get_row_index(prompt.id))

        self.ask("save", saved, self.pane("editor"))

    def action_use(self) -> None:
        """Have runs that are begun from now on in this folder speak under the version that is pointed at."""
        source = self._under_cursor()
        if source is None:
            return
        file = drafting.own_file(source.kind)
        there = file.read_text(encoding="utf-8") if file.is_file() else None
        if there is None or there == source.text:
            self._use(source, file)
            return
        words = f"{file} says something else. Its text is lost unless it is a version; write {source.name} over it?"
        self.main.push_screen(
            Question(words, (("write", "Write over it"), ("cancel", "Cancel"))),
            lambda answer: self._use(source, file) if answer else None,
        )

    def _use(self, source: Source, file: Path) -> None:
        try:
            file.parent.mkdir(exist_ok=True)
            file.write_text(source.text, encoding="utf-8")
        except OSError as error:
            self.main.tell(f"cannot write {file}: {error.strerror}", severity="error")
            return
        self.main.tell(f"{file}: runs that are begun here from now on speak under {source.name}")
        self.refresh_view()

    def action_apply(self) -> None:
        """Have the run that is looked at speak under the stored version that is pointed at, where it has not begun."""
        source, run = self._under_cursor(), self.main.current_run()
        if source is None or run is None:
            self.main.tell("there is no run to apply it to", severity="warning")
        elif ":" in source.key:
            self.main.tell("only a stored version can be applied to a run: take it into the editor and ctrl+s first")
        else:
            self.ask("apply", partial(self._ask_role, source, run), self.pane("versions"))

    async def _ask_role(self, source: Source, run: RunLine) -> None:
        roles = await self.main.pages.ask(lambda store: drafting.roles_under(store, run.id, source.kind))
        if not roles:
            self.main.tell(
                f"run {run.id[:8]} has no role with a {source.kind} prompt that can change", severity="warning"
            )
            return
        words = (
            f"Trees of run {run.id[:8]} '{run.name}' that have not begun speak under {source.name} then. Which role?"
        )
        answers = [*((role.replace(".", "-"), role) for role in roles), ("cancel", "Cancel")]
        by_answer = {role.replace(".", "-"): role for role in roles}
        self.main.push_screen(
            Question(words, answers),
            lambda answer: self._apply(source, run.id, by_answer[answer]) if answer else None,
        )

    def _apply(self, source: Source, run_id: str, role: str) -> None:
        async def applied() -> None:
            with tempfile.TemporaryDirectory() as folder:
                file = await _written(folder, source.text)
                asked = ("prompts", "save", role, file, "--run", run_id)
                ended = await self.main.have_done(f"applying {source.name}", *asked)
            if ended.code == 0:
                self.main.tell("\n".join(ended.said.strip().splitlines()[1:]))

        self.main.set_to_work(applied)

    def action_judging(self) -> None:
        self.judged = not self.judged
        self.main.tell("what is tried is judged" if self.judged else "what is tried is not judged")

    def action_try(self) -> None:
        if self.tree_id is None:
            self.main.tell("a stored tree is needed to try it on", severity="warning")
        else:
            self._try("--tree", self.tree_id, "--place", str(self.place))

    def action_try_set(self) -> None:
        run = self.main.current_run()
        if run is None:
            self.main.tell("a run is needed to try it on its people", severity="warning")
        else:
            self._try("--set", str(SET), "--run", run.id)

    def _try(self, *where: str) -> None:
        prompt, source = self.checked.prompt, self.source
        if prompt is None or source is None:
            self.main.tell(self.checked.problem or "take a version into the editor first", severity="warning")
        elif prompt.kind not in TRIED:
            self.main.tell(f"a {prompt.kind} prompt cannot be tried on its own; those that can: {', '.join(TRIED)}")
        else:
            self.view, self.tries = "try", {}
            self.add_class("-side")
            self._show_tries()
            self.main.set_to_work(partial(self._have_tried, prompt, source, where))

    async def _have_tried(self, prompt: Prompt, source: Source, where: tuple[str, ...]) -> None:
        asked = ["prompts", "try", prompt.kind]
        if self.judged and prompt.kind == "responder":
            within = where[-1] if where[0] == "--set" else where[1]
            judge = await self.main.pages.ask(lambda store: drafting.deciding_judge(store, within))
            where = (*where, "--judge", judge) if judge else where
        stored = ("--saved", source.key) if ":" not in source.key else ()
        with tempfile.TemporaryDirectory() as folder:
            file = await _written(folder, prompt.text)
            told = f"trying the {prompt.kind} prompt"
            await self.main.have_done(told, *asked, file, *where, *stored, "--follow", on_line=self._hear)

    def _hear(self, line: str) -> None:
        self.tries = heard(self.tries, json.loads(line))
        if self.view == "try" and self.is_attached:
            self._show_tries()

    def _show_tries(self) -> None:
        pane = self.pane("shown")
        pane.name_it("the draft against what is saved")
        if not self.tries:
            pane.notice("loading", "the model is being loaded")
            return
        pane.clear()
        width = self.query_one("#shown-text", Static).size.width
        self._tell(drawn(lines_of_tries(self.tries, width, plain=self.main.plain)))

    def copied(self) -> str | None:
        return self.text or None


async def _written(folder: str, text: str) -> str:
    """A prompt as a file for the command line."""
    file = Path(folder) / "draft.md"
    await asyncio.to_thread(file.write_text, text, encoding="utf-8")
    return str(file)


def _draft_file(kind: str) -> Path:
    """Where the draft of a kind of prompt lies while it is typed."""
    return files.folder() / "drafts" / f"{kind}.md"
