"""Prompts: problems are said while one types, the preview is what models get, a version is kept, a draft survives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import TextArea

from tests.support.command_line import spawn
from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from trees.store import Store
from tui.app import drafting
from tui.app.screens.prompts import PromptsScreen
from tui.trying import places


async def taken(driven: Driven, kind: str) -> PromptsScreen:
    """The screen with the stored version of a kind of prompt in the editor."""
    screen = driven.screen
    assert isinstance(screen, PromptsScreen)
    table = screen.query_one("#version-table")
    await driven.until(lambda: table.row_count and screen.tree_id, "the versions are listed")
    key = next(source.key for source in screen.sources if source.kind == kind and ":" not in source.key)
    table.move_cursor(row=table.get_row_index(key))
    await driven.press("enter")
    return screen


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
async def test_prompts_at_each_size(opening: Opening, snapshot: Callable[[str], None], width: int, height: int) -> None:
    async with opening(width, height, mode="prompts") as driven:
        await taken(driven, "responder")
        snapshot(driven.text())


@pytest.mark.usefixtures("run_id")
async def test_what_is_wrong_is_said_and_the_preview_follows(opening: Opening) -> None:
    async with opening(180, 40, mode="prompts") as driven:
        screen = await taken(driven, "user")
        draft = screen.query_one(TextArea)
        draft.text = "[head]\nBe {{ profle }}\n"
        await driven.until(
            lambda: "did you mean 'profile'?" in screen.checked.problem, "the misspelt variable is named"
        )
        draft.text = "[head]\nBe exactly {{ profile }}\n"
        await driven.until(lambda: "Be exactly" in str(screen.query_one("#shown-text").content), "it is rendered")


async def test_a_draft_is_kept_as_a_version_and_survives_before(
    opening: Opening, store_path: Path, run_id: str
) -> None:
    async with opening(180, 40, mode="prompts") as driven:
        screen = await taken(driven, "responder")
        screen.query_one(TextArea).text += "\nBe short.\n"
        await driven.until(lambda: screen.checked.prompt and "short" in screen.checked.prompt.text, "it is read")
    async with opening(180, 40, mode="prompts") as driven:
        screen = await taken(driven, "responder")
        assert "Be short." in screen.text
        await driven.press("ctrl+s")
        await driven.press(*"shorter", "enter")
        await driven.until(lambda: screen.unsaved is None, "it is saved")
    with Store.read(store_path) as store:
        kept = [source for source in drafting.sources(store) if source.note == "shorter"]
    assert [source.kind for source in kept] == ["responder"]


def test_trying_asks_where_the_prompt_was_used_before(store_path: Path, run_id: str, tmp_path: Path) -> None:
    with Store.read(store_path) as store:
        tree = store.trees(run_id)[0].id
        assert [use.role for use in places(store, tree, "user")] == ["user"] * 3
    file = tmp_path / "draft.md"
    file.write_text("[head]\nAnswer.\n", encoding="utf-8")
    child = spawn("prompts", "try", "responder", str(file), "--tree", tree, "--place", "2", "--store", str(store_path))
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "turn 1  responder." in said
    assert "\nunder the prompt that was used\n" in said
    assert f"\nunder {file}\n" in said


async def test_a_version_is_taken_into_use_for_runs_begun_here(opening: Opening, run_id: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts" / "responder.md"
    async with opening(180, 40, mode="prompts") as driven:
        screen = await taken(driven, "responder")
        await driven.press("escape", "u")
        assert screen.source is not None
        assert file.read_text(encoding="utf-8") == screen.source.text
        file.write_text("[head]\nSomething of my own.\n", encoding="utf-8")
        await driven.press("u")
        assert "says something else" in driven.text()
        await driven.press("enter")
        assert file.read_text(encoding="utf-8") == "[head]\nSomething of my own.\n"
        await driven.press("u", "left", "enter")
        assert file.read_text(encoding="utf-8") == screen.source.text


@pytest.mark.usefixtures("run_id")
async def test_trying_at_a_place_that_a_tree_does_not_have_is_told_and_not_the_end(opening: Opening) -> None:
    async with opening(180, 40, mode="prompts") as driven:
        screen = await taken(driven, "responder")
        await driven.press("escape", "d", *"nnnnnnnnnn")
        screen.place = 99
        await driven.press("enter", "ctrl+r")
        await driven.until(lambda: driven.app._notifications, "it is told")
        assert any("places where" in told.message for told in driven.app._notifications)


async def test_a_draft_is_tried_beside_what_is_saved_and_judged_on_a_set(opening: Opening, run_id: str) -> None:
    async with opening(180, 40, mode="prompts") as driven:
        screen = await taken(driven, "responder")
        screen.query_one(TextArea).text += "\nBe short.\n"
        await driven.until(lambda: screen.checked.prompt and "short" in screen.checked.prompt.text, "it is read")
        await driven.press("ctrl+r")
        await driven.until(lambda: screen.tries and not driven.app.at_work, "it was tried")
        (tried,) = screen.tries.values()
        assert tried.draft
        assert tried.saved
        shown = driven.text()
        assert "saved" in shown
        assert tried.draft.split()[0] in shown
        await driven.press("escape", "J", "enter", "ctrl+g")
        await driven.until(lambda: len(screen.tries) == 2 and not driven.app.at_work, "a set was tried")
        assert all(each.outcome for each in screen.tries.values())


async def test_a_version_is_applied_to_the_run_that_is_looked_at(
    opening: Opening, store_path: Path, run_id: str
) -> None:
    async with opening(180, 40, mode="prompts") as driven:
        await taken(driven, "responder")
        await driven.press("escape", "A")
        await driven.until(lambda: "Which role" in driven.text(), "it asks which role")
        await driven.press("left", "enter")
        await driven.until(lambda: driven.app.at_work, "it is being applied")
        await driven.until(lambda: not driven.app.at_work, "it was applied")
    with Store.read(store_path) as store:
        assert len(store.revisions(run_id)) == 2
