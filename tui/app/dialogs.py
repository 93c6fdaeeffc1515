"""Small screens over a screen: a question with buttons, a line or a text to write, help, and jump mode.

Invariant: `escape` always leaves without doing anything, and what destroys or ends something is never focused first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, OptionList, Static, TextArea

from tui.app.content import safe, styled
from tui.app.frame import Editor, LineEditor

_BOX = """
    {name} {{ align: center middle; }}
    {name} > .box {{
        width: 80; max-width: 96%; height: auto; max-height: 90%; padding: 0 1;
        background: $panel; border: round $primary;
    }}
    {name} .buttons {{ height: auto; align-horizontal: right; }}
    {name} Button {{ margin: 0 1; height: 1; min-width: 10; border: none; }}
    {name} Button:focus {{ background: $primary; color: $background; text-style: bold; }}
"""

_LEAVE: list[BindingType] = [Binding("escape", "dismiss", "Cancel")]


class Question(ModalScreen[str | None]):
    """A question with some answers. Dismissed with the answer's name, None for none; the last is focused."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *_LEAVE,
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]
    DEFAULT_CSS = _BOX.format(name="Question")

    def __init__(self, words: str, answers: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._words = words
        self._answers = answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(safe(self._words))
            with Horizontal(classes="buttons"):
                for name, label in self._answers:
                    yield Button(Content(label), id=name)

    def on_mount(self) -> None:
        self.query(Button).last().focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id if event.button.id != "cancel" else None)


class Line(ModalScreen[str | None]):
    """A line to write. Dismissed with it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = _LEAVE
    DEFAULT_CSS = _BOX.format(name="Line")

    def __init__(self, words: str, text: str = "") -> None:
        super().__init__()
        self._words = words
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(safe(self._words))
            yield LineEditor(self._text, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


class Choice(ModalScreen[str | None]):
    """One of some words. Dismissed with it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = _LEAVE
    DEFAULT_CSS = _BOX.format(name="Choice") + "\n    Choice OptionList { height: auto; max-height: 16; border: none; }"

    def __init__(self, words: str, choices: Sequence[str]) -> None:
        super().__init__()
        self._words = words
        self._choices = choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(safe(self._words))
            yield OptionList(*(safe(choice) for choice in self._choices))

    def on_mount(self) -> None:
        self.query_one(OptionList).focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index])


class Text(ModalScreen[str | None]):
    """A text to write. Dismissed with it, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [*_LEAVE, Binding("ctrl+s", "done", "Done")]
    DEFAULT_CSS = _BOX.format(name="Text") + "\n    Text TextArea { height: 12; }"

    def __init__(self, words: str, text: str = "") -> None:
        super().__init__()
        self._words = words
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(safe(f"{self._words}\nctrl+s takes it, escape leaves"))
            yield Editor(self._text, soft_wrap=True)

    def on_mount(self) -> None:
        self.query_one(TextArea).focus()

    def action_done(self) -> None:
        self.dismiss(self.query_one(TextArea).text)


class Help(ModalScreen[None]):
    """What the focused pane is for, and its keys; the same key again shows what the screen is for."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss", "Close"),
        Binding("question_mark,f1", "tour", "The whole screen"),
    ]
    DEFAULT_CSS = _BOX.format(name="Help")

    def __init__(self, about: str, keys: Iterable[tuple[str, str]], tour: str) -> None:
        super().__init__()
        self._about = about
        self._keys = list(keys)
        self._tour = tour

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(id="told")

    def on_mount(self) -> None:
        width = max((len(key) for key, _ in self._keys), default=0)
        lines = [styled((f"{key:<{width}}", "accent"), f"  {what}") for key, what in self._keys]
        foot = styled(("\n? tells about the whole screen, escape closes", "muted"))
        self._show(Content("\n").join([safe(self._about), Content(), *lines, foot]))

    def action_tour(self) -> None:
        self._show(safe(self._tour))

    def _show(self, content: Content) -> None:
        self.query_one("#told", Static).update(content)


LETTERS = "asdfghjklqwertyuiopzxcvbnm"


class Jump(ModalScreen[Widget | None]):
    """A letter on everything that can have the focus; pressing it goes there."""

    DEFAULT_CSS = """
    Jump { background: transparent; }
    Jump Static { position: absolute; width: 3; height: 1; background: $accent; color: $background; text-style: bold; }
    """

    def __init__(self, targets: Sequence[Widget]) -> None:
        super().__init__()
        self._targets = dict(zip(LETTERS, targets, strict=False))

    def compose(self) -> ComposeResult:
        for letter, target in self._targets.items():
            label = Static(Content(f" {letter} "))
            label.absolute_offset = target.region.offset
            yield label

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(self._targets.get(event.key))
