"""Every key does what its binding says, from where it is offered, and so does every entry of the palette."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual.actions import parse
from textual.binding import Binding
from textual.widget import Widget
from textual.widgets import Input, TextArea

from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from tui.app import app as app_module
from tui.app.app import SCREENS, EspalierApp, known_bindings
from tui.app.children import Ended
from tui.app.frame import Mode, Pane, Table
from tui.app.train_form import TrainForm

WIDE = (200, 60)


@dataclass(frozen=True)
class Offered:
    """A binding where it is offered."""

    id: str
    keys: tuple[str, ...]
    priority: bool
    action: tuple[str, tuple[object, ...]]
    owner: type
    """The class whose method the action is."""


def offered(declared: type, screen: type) -> Iterator[Offered]:
    """The bindings that a class declares itself."""
    for binding in vars(declared).get("BINDINGS", ()):
        if isinstance(binding, Binding) and binding.id:
            namespace, name, arguments = parse(binding.action)
            owner = {"app": EspalierApp, "screen": screen}.get(namespace, declared)
            keys = tuple(binding.key.split(","))
            yield Offered(binding.id, keys, binding.priority, (name, tuple(arguments)), owner)


def on_screen(screen: Mode) -> list[tuple[Widget | None, Offered]]:
    """What can be pressed on a screen, each with the widget that must have the focus; None: whatever has it."""
    kind = type(screen)
    found: list[tuple[Widget | None, Offered]] = [(None, each) for each in offered(EspalierApp, kind)]
    found += [(None, each) for each in offered(kind, kind)]
    for pane in screen.query(Pane):
        inside = [widget for widget in screen.focus_chain if pane in widget.ancestors]
        inner = next((widget for widget in inside if isinstance(widget, Table)), next(iter(inside), None))
        found += [(inner, each) for each in offered(type(pane), kind)]
    return found


def recording(screen: Mode, patch: pytest.MonkeyPatch) -> list[tuple[str, tuple[object, ...]]]:
    """From now on actions do nothing but be remembered."""
    reached: list[tuple[str, tuple[object, ...]]] = []

    def remember(name: str) -> Any:
        return lambda _, *arguments: reached.append((name, arguments))

    for _, each in on_screen(screen):
        patch.setattr(each.owner, f"action_{each.action[0]}", remember(each.action[0]))
    return reached


async def look_at(driven: Driven, mode: str) -> Mode:
    screen = driven.screen
    assert mode == screen.MODE
    await driven.settle()
    return screen


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize("mode", SCREENS)
async def test_every_key_reaches_its_action_while_one_types_too_and_every_entry_of_the_palette(
    opening: Opening, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opening(*WIDE, mode=mode) as driven:
        screen = await look_at(driven, mode)
        if mode == "prompts":
            await driven.press("enter", "escape")  # the editor can be typed into
        first = screen.focused
        with monkeypatch.context() as patch:
            reached = recording(screen, patch)
            for place, each in on_screen(screen):
                if each.owner is type(screen) and not screen.check_action(*each.action):
                    continue  # offered in a state that the screen is not in
                focused = place or first
                screen.set_focus(focused)
                for key in each.keys:
                    if key == "enter" and isinstance(focused, Table) and not focused.row_count:
                        continue  # there is nothing to enter
                    reached.clear()
                    await driven.pilot.press(key)
                    assert reached[:1] == [each.action], f"{each.id}: {key} did {reached}"
            await in_text_fields(driven, screen, reached)
            for place in {id(place): place or first for place, _ in on_screen(screen)}.values():
                screen.set_focus(place)
                await driven.pilot.pause()
                titles = [command.title for command in driven.app.get_system_commands(screen)]
                assert len(titles) == len(set(titles)), titles
                for command in driven.app.get_system_commands(screen):
                    if command.help.startswith("key ") and not command.title.startswith("Go to"):
                        reached.clear()
                        await command.callback()
                        assert len(reached) == 1, command.title


async def in_text_fields(driven: Driven, screen: Mode, reached: list[tuple[str, tuple[object, ...]]]) -> None:
    """Keys with ctrl are taken wherever one types; what writes is written."""
    for field in [each for each in screen.focus_chain if isinstance(each, Input | TextArea)]:
        for place, each in on_screen(screen):
            for key in each.keys if place is None else ():
                field.focus()
                reached.clear()
                await driven.pilot.press(key)
                writes = not (key.startswith("ctrl+") or key in ("f1", "escape"))
                assert reached[:1] == ([] if writes else [each.action]), f"{each.id}: {key} did {reached}"


@pytest.mark.parametrize(
    ("mode", "stored"), [*((mode, "nothing") for mode in SCREENS), ("trees", "a run"), ("prompts", "a run")]
)
async def test_no_key_brings_the_app_down(
    opening: Opening,
    played_store: tuple[Path, str],
    store_path: Path,
    mode: str,
    stored: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if stored == "a run":
        shutil.copy(played_store[0], store_path)

    async def refused(arguments: Any, on_line: Any) -> Ended:
        return Ended(3, "", f"error: {arguments[0]} is not done in this test")

    monkeypatch.setattr(app_module, "command_line", refused)
    async with opening(*WIDE, mode=mode) as driven:
        screen = await look_at(driven, mode)
        first = screen.focused
        for place, each in on_screen(screen):
            if each.id == "app.quit" or (each.owner is EspalierApp and mode != "home"):
                continue
            screen.set_focus(place or first)
            for key in each.keys:
                await driven.pilot.press(key)
            for _ in range(3):
                if not isinstance(driven.app.screen, Mode):
                    await driven.pilot.press("escape")
            assert isinstance(driven.app.screen, Mode), f"{each.id}: escape does not leave {driven.app.screen}"
            if driven.app.screen is not screen:
                driven.app.action_go(mode)
                await driven.pilot.pause()
        await driven.settle()
        assert driven.app.is_running
        assert driven.screen is screen


def test_every_binding_has_an_id_that_can_be_given_another_key() -> None:
    screens = [type(make()) for make in SCREENS.values()]
    kinds = (EspalierApp, TrainForm, *screens, *Pane.__subclasses__())
    assert {each.id for kind in kinds for each in offered(kind, kind)} == known_bindings()
    for kind in kinds:
        unnamed = [b for b in vars(kind).get("BINDINGS", ()) if not (isinstance(b, Binding) and b.id)]
        assert not unnamed, f"{kind.__name__}: {unnamed}"
