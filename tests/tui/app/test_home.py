"""Home and the frame around every screen: tabs, help, palette, themes, keys of one's own, a missing store."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets._footer import FooterKey

from tests.tui.app.conftest import Opening
from tui.app import files
from tui.app.app import SCREENS, known_bindings
from tui.app.frame import TABS, Pane
from tui.app.screens.trees import TreesScreen
from tui.app.themes import THEMES

SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_no_store_yet(opening: Opening, snapshot: Callable[[str], None], width: int, height: int) -> None:
    async with opening(width, height) as driven:
        snapshot(driven.text())


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_home_with_a_run(opening: Opening, snapshot: Callable[[str], None], width: int, height: int) -> None:
    async with opening(width, height) as driven:
        snapshot("\n".join(line for line in driven.text().splitlines() if "bytes" not in line) + "\n")


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize(("width", "height"), [(60, 15), (120, 40)])
async def test_every_screen_at_every_size_keeps_its_frame(opening: Opening, width: int, height: int) -> None:
    async with opening(width, height) as driven:
        for number, (mode, name) in enumerate(TABS, 1):
            if mode not in SCREENS:
                continue
            await driven.press(str(number))
            lines = driven.text().splitlines()
            assert f"{number} {name}" in lines[0]
            assert "? Help" in lines[height - 1] or width < 80, lines[height - 1]
            assert len(driven.screen.query(FooterKey)) <= 7, mode
            shown = [pane for pane in driven.screen.query(Pane) if pane.display and pane.parent.display]
            assert all(pane.region.area for pane in shown)
            assert driven.screen.focused is not None


@pytest.mark.usefixtures("run_id")
async def test_help_tells_of_the_focused_pane_then_of_the_screen(opening: Opening) -> None:
    async with opening() as driven:
        await driven.press("question_mark")
        assert "those being played first. R goes on" in driven.text()
        await driven.press("question_mark")
        assert "Home lists the runs of this store" in driven.text()
        await driven.press("escape")
        assert driven.screen.MODE == "home"


@pytest.mark.usefixtures("run_id")
async def test_jump_mode_goes_where_a_letter_stands(opening: Opening) -> None:
    async with opening(160, 40, mode="trees") as driven:
        await driven.press("ctrl+o", "s")
        assert driven.screen.focused is not None
        assert driven.screen.focused.id == driven.screen.focus_chain[1].id


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize("theme", [theme.name for theme in THEMES])
async def test_the_apps_own_themes_apply(opening: Opening, theme: str) -> None:
    async with opening(theme=theme, mode="trees") as driven:
        await driven.press("enter")
        assert driven.app.theme == theme


def test_keys_are_checked_with_line_and_meaning(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('"app.help" = "f2"\n"app.hlp" = "f3"\n"app.copy" = "ctrl+i"\n', encoding="utf-8")
    keys, problems = files.read_keys(path, known_bindings())
    assert keys == {"app.help": "f2"}
    assert problems[0].endswith("line 2: there is no action 'app.hlp'; did you mean 'app.help'?")
    assert "line 3" in problems[1]


def test_what_is_remembered_is_read_again_and_rubbish_is_not(tmp_path: Path) -> None:
    path = tmp_path / "state.toml"
    files.write_state(path, files.State("high-contrast", "trees"))
    assert files.read_state(path) == files.State("high-contrast", "trees")
    path.write_text("theme = [", encoding="utf-8")
    assert files.read_state(path) == files.State()


def test_binding_ids_are_given_once() -> None:
    assert {"app.help", "trees.reroll", "monitor.stop"} <= known_bindings()


@pytest.mark.usefixtures("run_id")
async def test_the_palette_does_what_the_pane_can_do(opening: Opening) -> None:
    async with opening(160, 40, mode="trees") as driven:
        screen = driven.screen
        assert isinstance(screen, TreesScreen)
        await driven.until(lambda: screen.index.total, "the trees are listed")
        commands = {command.title: command for command in driven.app.get_system_commands(screen)}
        assert {"Filter", "Order", "Go to Monitor", "Theme"} <= set(commands)
        await driven.press("ctrl+p")
        await driven.press(*"order")
        await driven.press("enter", "enter")
        await driven.until(lambda: screen.index.order != "place", "the trees are ordered otherwise")


@pytest.mark.usefixtures("run_id")
async def test_a_store_that_was_looked_at_before_can_be_opened(
    opening: Opening, store_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / 'an "other" ☂.db'
    shutil.copy(store_path, other)
    kept = tmp_path / "state.toml"
    files.write_state(kept, files.State().after(other, "textual-dark", "home").after(tmp_path / "gone.db", "", ""))
    async with opening(120, 40) as driven:
        driven.app._remembered = files.read_state(kept)
        await driven.press("r")
        await driven.press("o")
        await driven.until(lambda: "Which store?" in driven.text(), "it asks which")
        await driven.press("enter")
    assert driven.app.return_value == other
