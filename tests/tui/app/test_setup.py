"""Setup: the form and the text change each other, Start says why not, and what is started is the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import Input, Static, TextArea

from simulation.quickstart import quickstart
from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from tests.tui.conftest import CONFIG
from tui.app import form
from tui.app.dialogs import Choice
from tui.app.frame import Editor, Table
from tui.app.screens.setup import SetupScreen


def setup(driven: Driven) -> SetupScreen:
    assert isinstance(driven.screen, SetupScreen)
    return driven.screen


def write(name: str) -> None:
    """A configuration file in the current folder."""
    Path(name).write_text(CONFIG, encoding="utf-8")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
async def test_setup_at_each_size(opening: Opening, snapshot: Callable[[str], None], width: int, height: int) -> None:
    write("quickstart.toml")
    async with opening(width, height, mode="setup") as driven:
        snapshot(driven.text())


async def test_a_change_in_the_form_is_written_into_the_text_and_back(opening: Opening) -> None:
    async with opening(160, 44, mode="setup") as driven:
        screen = setup(driven)
        table = screen.query_one("#field-table", Table)
        table.move_cursor(row=table.get_row_index("turns"))
        await driven.press("enter")
        driven.app.screen.query_one(Input).value = "5"
        await driven.press("enter")
        assert "\nturns = 5\n" in screen.text
        assert "# How often the user speaks in a conversation." in screen.text
        screen.query_one(TextArea).text = screen.text.replace("turns = 5", "turns = 8")
        await driven.until(lambda: [f.value for f in screen.fields if f.name == "turns"] == [8], "the form follows")
        table.move_cursor(row=table.get_row_index("branching.policy"))
        await driven.press("enter")
        assert isinstance(driven.app.screen, Choice)


async def test_start_says_why_not_and_then_begins_the_run(opening: Opening) -> None:
    async with opening(160, 44, mode="setup", live=True) as driven:
        screen = setup(driven)
        assert "Start - blocked: it has no file yet" in driven.text()
        screen.query_one(TextArea).text = CONFIG + "\n[branching]\npolicy = 'best'\n"
        await driven.until(lambda: "blocked: 1 problem: branching.policy" in driven.text(), "the problem is named")
        screen.query_one(TextArea).text = CONFIG
        await driven.until(lambda: screen.reading.config is not None, "the text is read")
        screen._save("mine.toml")
        await driven.press("ctrl+r")
        await driven.until(lambda: driven.app.run_id is not None, "the run was begun")
        assert driven.app.current_mode == "monitor"
        await driven.until(lambda: driven.app.current_run().word == "done", "it is played")


async def test_an_unsaved_configuration_is_not_left_without_a_word(opening: Opening) -> None:
    write("quickstart.toml")
    async with opening(mode="setup") as driven:
        setup(driven).query_one(TextArea).text = CONFIG + "# more\n"
        await driven.press("ctrl+q")
        assert "is not saved" in driven.text()
        assert driven.app._exit is False


@pytest.mark.parametrize("has_file", [True, False])
@pytest.mark.parametrize("key", ["O", "F"])
@pytest.mark.usefixtures("run_id")
async def test_what_was_typed_is_not_lost_without_a_word(opening: Opening, key: str, has_file: bool) -> None:
    if has_file:
        write("quickstart.toml")
    async with opening(160, 44, mode="setup") as driven:
        screen = setup(driven)
        assert screen.unsaved is None
        screen.query_one(TextArea).text = f"{screen.text}# mine\n"
        await driven.press(key)
        assert "is not saved and would be lost" in driven.text()
        await driven.press("enter")
        assert "# mine" in screen.text
        await driven.press(key, "left", "enter")
        if key == "O":
            write("other.toml")
            driven.app.screen.query_one(Input).value = "other.toml"
            await driven.press("enter")
        await driven.until(lambda: "# mine" not in screen.text, "another one is shown")
        assert screen.unsaved is None


async def test_what_the_form_changes_can_be_undone_with_what_was_typed_before(opening: Opening) -> None:
    write("quickstart.toml")
    async with opening(160, 44, mode="setup") as driven:
        screen = setup(driven)
        screen.query_one("#toml").focus()
        await driven.press(*"# by hand", "enter")
        assert screen.text.startswith("# by hand\n")
        before = screen.text
        field = next(each for each in screen.fields if each.name == "turns")
        screen._change(field, "9")
        assert screen.text == before.replace("turns = 2", "turns = 9")
        await driven.press("ctrl+z")
        assert screen.text == before
        await driven.press(*["ctrl+z"] * 9)
        assert screen.text == CONFIG


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "a\nb"), ("a\nb\n", "a\nb\n"), ("aa\naa\n", "aa\n"), ("x\ny\nz", "x\nz"), ("one", "two\n"), ("aXa", "a")],
)
async def test_an_editor_is_rewritten_where_it_differs(opening: Opening, before: str, after: str) -> None:
    async with opening(mode="setup") as driven:
        editor = setup(driven).query_one(Editor)
        editor.text = before
        editor.rewrite(after)
        assert editor.text == after
        editor.undo()
        assert editor.text == before


async def test_escape_leads_from_the_text_back_to_the_form_and_is_offered(opening: Opening) -> None:
    async with opening(80, 24, mode="setup") as driven:
        screen = setup(driven)
        assert "esc Form" not in driven.text()
        await driven.press("Z")
        assert screen.focused is screen.query_one("#toml")
        assert "esc Form" in driven.text().splitlines()[-1]
        await driven.press("escape")
        assert screen.focused is screen.query_one("#field-table")
        assert screen.pane("form").display


async def test_the_configuration_of_a_stored_run_can_be_taken(opening: Opening, run_id: str) -> None:
    async with opening(mode="setup") as driven:
        screen = setup(driven)
        await driven.press("F")
        await driven.until(lambda: 'name = "small"' in screen.text, "it is taken")
        assert screen.reading.problems == ()


def test_every_preset_goes_through_the_form_unharmed() -> None:
    for preset in ("corrected", "paper", "paper-code"):
        text = quickstart(preset)
        reading = form.read(text)
        assert reading.config is not None
        for field in form.fields(text, reading.config):
            if field.written:
                again = form.read(form.changed(text, field.path, form.shown(field.value)))
                assert again.config == reading.config, field.path


def test_a_word_that_looks_like_a_number_stays_a_word_where_one_is_meant() -> None:
    assert 'name = "12"' in form.changed(CONFIG, ("name",), "12")
    assert "permits = 4" in form.changed(CONFIG, ("models", "s", "permits"), "4")
    assert "permits" not in form.changed(
        form.changed(CONFIG, ("models", "s", "permits"), "4"), ("models", "s", "permits"), ""
    )


async def test_a_dry_run_plays_one_tree_that_is_not_kept_and_tells_the_time(
    opening: Opening, store_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "quickstart.toml"
    file.write_text(
        'name = "dry"\nturns = 2\n[models.scripted]\nkind = "scripted"\n[personas]\ncount = 4\n[responders.plain]\n',
        encoding="utf-8",
    )
    async with opening(180, 60, mode="setup") as driven:
        screen = driven.screen
        told = screen.query_one("#told", Static)
        await driven.until(lambda: "D plays one tree" in str(told.content), "no time is known yet")
        await driven.press("D")
        await driven.until(lambda: "one tree took" in str(told.content), "a tree was played")
        assert "turn 2" in str(told.content)
    assert not os.path.exists(store_path)  # noqa: ASYNC240 - nothing else is going on
