"""Prompts: versions, an editor that says what is wrong as one types, a preview on a stored place, diff, save, Try.

A draft begins from a version or file and belongs to nobody until it is saved, which makes an immutable version. Drafts
are kept in a file while they are typed, so that they survive whatever ends the app.

Invariant: what is previewed and tried is rendered by the functions that render for models; nothing is imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from trees.errors import StoreMissing
from trees.store import Store
from tui.app import drafting, files
from tui.app.content import Cell, drawn, flat, safe
from tui.app.dialogs import Line, Question
from tui.app.drafting import Checked, Source
from tui.app.frame import Editor, Mode, Pane, Table
from tui.trying import TRIED, place_of, said_at

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
    ]


class PromptsScreen(Mode):
    """The prompts of the roles."""

    MODE = "prompts"
    EVERY_S = 1.0
    TOUR = (
        "Prompts shows every version of every role's prompt: those in the store with how many runs use them, your own "
        "files in prompts/, and the shipped ones. enter takes one into the editor. On the right the draft is rendered "
        "on a persona and a turn of a stored tree, or compared with what it came from. ctrl+s keeps it as a version, "
        "ctrl+r asks a model under it at that place; what it says is shown and not kept. u has runs that are begun "
        "from now on speak under the version."
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
        self.tried = ""
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
        self.source, self.tried = source, ""
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
        if self.view == "diff":
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
        tried = safe(self.tried) + Content("\n\n") if self.tried else Content()
        self._tell(tried + drawn(drafting.preview_lines(shown)))

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

    def action_try(self) -> None:
        prompt, tree = self.checked.prompt, self.tree_id
        if prompt is None or tree is None:
            self.main.tell("a draft without problems and a stored tree are needed to try it", severity="warning")
        elif prompt.kind not in TRIED:
            self.main.tell(f"a {prompt.kind} prompt cannot be tried on its own; those that can: {', '.join(TRIED)}")
        else:
            self.main.set_to_work(partial(self._try, prompt.kind, prompt.text, tree, self.place))

    async def _try(self, kind: str, text: str, tree: str, place: int) -> None:
        before = await self.main.pages.ask(lambda store: said_at(store, place_of(store, tree, kind, place)))
        self.tried = f"before\n{before}\n\nunder the draft\n..."
        self._show()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "draft.md"
            await asyncio.to_thread(file.write_text, text, encoding="utf-8")
            asked = ("prompts", "try", kind, str(file), "--tree", tree, "--place", str(place), "--json")
            ended = await self.main.have_done(f"trying the {kind} prompt", *asked)
        after = ended.document["after"] if ended.code == 0 else ended.reason
        self.tried = f"before\n{before}\n\nunder the draft\n{after}"
        self._show()

    def copied(self) -> str | None:
        return self.text or None


def _draft_file(kind: str) -> Path:
    """Where the draft of a kind of prompt lies while it is typed."""
    return files.folder() / "drafts" / f"{kind}.md"
