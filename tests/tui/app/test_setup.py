"""Setup: the form and the text change each other, Start says why not, and what is started is the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import Input, TextArea

from simulation.quickstart import quickstart
from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from tests.tui.conftest import CONFIG
from tui.app import form
from tui.app.dialogs import Choice
from tui.app.frame import Table
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
        await driven.until(lambda: driven.app.current_run().word == "done", "it is played")


async def test_an_unsaved_configuration_is_not_left_without_a_word(opening: Opening) -> None:
    write("quickstart.toml")
    async with opening(mode="setup") as driven:
        setup(driven).query_one(TextArea).text = CONFIG + "# more\n"
        await driven.press("ctrl+q")
        assert "is not saved" in driven.text()
        assert driven.app._exit is False


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
