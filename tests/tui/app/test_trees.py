"""The Trees screen: listing, filtering, opening, comparing, what is told of a message, and what a person notes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from textual.widgets import Input

from simulation.votes import Person, shown_order
from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from trees.store import Store
from trees.verify import verify
from tui.app.frame import Table
from tui.app.handing_out import hand_out
from tui.app.notes import notes_of
from tui.app.screens import trees as trees_module
from tui.app.screens.trees import TreesScreen
from tui.main import main


def trees(driven: Driven) -> TreesScreen:
    assert isinstance(driven.screen, TreesScreen)
    return driven.screen


async def listed(driven: Driven, number: int) -> TreesScreen:
    screen = trees(driven)
    await driven.until(lambda: screen.index.total == number == len(screen.index.rows), f"{number} trees are listed")
    return screen


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
async def test_trees_at_each_size(opening: Opening, snapshot: Callable[[str], None], width: int, height: int) -> None:
    async with opening(width, height, mode="trees") as driven:
        await listed(driven, 2)
        await driven.press("enter", "j")
        snapshot(driven.text())


@pytest.mark.usefixtures("run_id")
async def test_trees_in_ascii_hold_nothing_else_in_signs_and_marks(opening: Opening) -> None:
    async with opening(160, 40, mode="trees", ascii=True) as driven:
        await listed(driven, 2)
        await driven.press("enter", "j")
        assert not set("★○▶●✓─│╭") & set(driven.text())


@pytest.mark.usefixtures("run_id")
async def test_the_narrow_screen_goes_deeper_and_back(opening: Opening) -> None:
    async with opening(80, 24, mode="trees") as driven:
        screen = await listed(driven, 2)
        for key, pane in (("enter", "outline"), ("enter", "detail"), ("escape", "outline"), ("escape", "index")):
            await driven.press(key)
            shown = [each.id for each in screen.query(".pane").results() if each.display]
            assert shown == [pane]


@pytest.mark.usefixtures("run_id")
async def test_a_filter_lists_what_it_lets_through_and_says_what_it_does_not_know(opening: Opening) -> None:
    async with opening(mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press("slash")
        await driven.press(*"turns", "less_than_sign", "1")
        assert screen.query_one("#filter", Input).value == "turns<1"
        await driven.until(lambda: screen.index.total == 0, "no tree is listed")
        assert "no tree fits this filter" in driven.text()
        screen.query_one("#filter", Input).value = "turn>1"
        await driven.until(lambda: "did you mean turns?" in driven.text(), "the misspelt key is pointed out")
        await driven.press("escape")
        await listed(driven, 2)


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize("depth", [1, 2])
async def test_the_filter_is_reached_from_every_pane(opening: Opening, depth: int) -> None:
    async with opening(80, 24, mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press(*["enter"] * depth)
        await driven.press("slash", *"zzz")
        assert screen.query_one("#filter", Input).value == "zzz"
        await driven.until(lambda: screen.index.total == 0, "no tree is listed")


@pytest.mark.usefixtures("run_id")
async def test_a_search_opens_at_the_first_hit(opening: Opening, store_path: Path) -> None:
    with Store.read(store_path) as store:
        hit = store.search("thank")[-1]
    async with opening(mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press("slash")
        screen.query_one("#filter", Input).value = f"tree:{hit.tree_id[:8]} thank"
        await driven.until(lambda: screen.index.total == 1 and screen.opened is not None, "the tree is listed")
        await driven.press("enter", "enter")
        assert screen.opened is not None
        assert screen.node is not None
        assert screen.node.id == screen.opened.hits[0]
        assert "thank" in screen.node.text.lower()


@pytest.mark.usefixtures("run_id")
async def test_each_view_tells_of_the_message(opening: Opening) -> None:
    wanted = {
        "t": "went on from",
        "d": "+ ",
        "g": "showing 1",
        "p": "revealed by turn 1",
        "w": "[system]",
        "J": '"node":',
    }
    async with opening(120, 60, mode="trees") as driven:
        await listed(driven, 2)
        await driven.press("enter", "j")
        for key, words in wanted.items():
            await driven.press(key)
            await driven.until(lambda words=words: words in driven.text(), f"{key} shows {words!r}")


async def test_bookmarks_and_notes_are_kept_and_taken_back(opening: Opening, store_path: Path, run_id: str) -> None:
    async with opening(mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press("enter", "m")
        await driven.until(lambda: screen.opened is not None and screen.opened.notes, "the bookmark is shown")
        node = screen.node
        assert node is not None
        with Store.read(store_path) as store:
            assert notes_of(store, node.tree_id)[node.id].bookmarked
        await driven.press("m")
        await driven.until(lambda: screen.opened is not None and not screen.opened.notes, "it is taken back")
        told = CliRunner().invoke(main, ["note", node.id, "too early", "--store", str(store_path)])
        assert told.exit_code == 0, told.output
        await driven.until(lambda: "note: too early" in driven.text(), "a note of the command line is shown")
    with Store.read(store_path) as store:
        assert verify(store).clean


@pytest.mark.usefixtures("run_id")
async def test_marked_trees_are_handed_out(opening: Opening, tmp_path: Path) -> None:
    async with opening(mode="trees") as driven:
        await listed(driven, 2)
        await driven.press("space", "x")
        line = driven.app.screen.query_one(Input)
        line.value = "one.md"
        await driven.press("enter")
        await driven.until((tmp_path / "one.md").is_file, "the file is there")
        assert (tmp_path / "one.md").read_text().count("# Tree") <= 1
        assert "## Turn 1" in (tmp_path / "one.md").read_text()


@pytest.mark.usefixtures("run_id")
async def test_the_app_looks_at_the_store_while_trees_are_being_written(
    opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def slow(store: Store, trees: Sequence[str], path: Path) -> int:
        may_end.wait(60)
        return hand_out(store, trees, path)

    monkeypatch.setattr(trees_module, "hand_out", slow)
    async with opening(mode="trees") as driven:
        await listed(driven, 2)
        trees(driven)._export("all.md")
        await driven.app.look()
        await driven.press("enter", "j")
        assert "went on from" in driven.text()
        may_end.set()
        await driven.until((tmp_path / "all.md").is_file, "the file is there")


@pytest.mark.usefixtures("run_id")
async def test_an_edit_becomes_a_branch_beside_the_old_one(opening: Opening, store_path: Path) -> None:
    async with opening(mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press("enter", "j")
        node = screen.node
        assert node is not None
        screen._branch(node, "--edit", "I would say it like this.", "editing")
        await driven.until(lambda: screen.node is not None and screen.node.origin == "human", "the edit is shown")
        with Store.read(store_path) as store:
            siblings = store.tree(node.tree_id).siblings(node.id)
        assert [each.text for each in siblings if each.origin == "human"] == ["I would say it like this."]
        assert node.id in {each.id for each in siblings}


async def test_an_empty_store_says_what_fills_it(opening: Opening, store_path: Path) -> None:
    Store.open(store_path).close()
    async with opening(mode="trees") as driven:
        await driven.until(lambda: "q plays the quickstart" in driven.text(), "it is said")
        assert trees(driven).query_one("#tree-table", Table).row_count == 0


HIDDEN = ("★", "○", "▶", "hinted", "went on from", "scripted", "rating:")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 40)])
async def test_blind_a_person_votes_and_sees_nothing_that_could_sway(
    opening: Opening, store_path: Path, run_id: str, width: int, height: int
) -> None:
    async with opening(width, height, mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press("enter", "j", "A")
        assert "you said" not in driven.text(), "a letter votes only while everything is hidden"
        await driven.press("b")
        await driven.until(lambda: screen.agreed, "the agreement is read")
        assert screen.opened is not None
        assert screen.node is not None
        user = screen.opened.tree.parent(screen.node.id)
        assert user is not None
        for key in ("g", "w", "J", "d", "Y", "R", "e", "E"):
            await driven.press(key)
            assert driven.screen is screen, f"{key} asks something that names the role"
        text = driven.text()
        assert not [word for word in HIDDEN if word in text.lower()]
        assert {reply.text[:12] in text for reply in screen.opened.tree.children(user.id)} == {True}
        await driven.press("B")
        await driven.until(lambda: screen.node is not None and screen.node.turn == user.turn + 1, "the next turn")
        await driven.press("equals_sign")
        await driven.until(lambda: "2 turns" in screen.agreed, "both votes are compared")
        await driven.press("left_curly_bracket")
    with Store.read(store_path) as store:
        assert verify(store).clean
        tree = store.tree(user.tree_id)
        order = shown_order(user, tree.children(user.id))
        made = tree.judgement_of(user.id, Person().id)
        assert made is not None
        assert {(v.first_id, v.outcome) for v in made.verdicts} <= {(order[1].id, "win"), (order[1].id, "tie")}
        assert store.rows("SELECT count(*) FROM operations WHERE kind = 'vote'")[0][0] == 2


@pytest.mark.usefixtures("run_id")
async def test_blind_mode_at_its_size(opening: Opening, snapshot: Callable[[str], None]) -> None:
    async with opening(120, 40, mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.press("enter", "j", "b")
        await driven.until(lambda: screen.agreed, "the agreement is read")
        snapshot(driven.text())
        await driven.press("b")
        assert "★" in driven.text(), "it is all shown again"


@pytest.mark.usefixtures("run_id")
async def test_a_long_outline_is_taken_up_bit_by_bit_and_whole(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees_module, "SLICE", 2)
    async with opening(mode="trees") as driven:
        screen = await listed(driven, 2)
        table = screen.query_one("#outline-table", Table)
        await driven.until(lambda: table.row_count == len(screen._listed) > 6, "the rest follows")
        assert [key.value for key in table.rows] == [row.node_id for row in screen._listed]
        await driven.press("enter", "end")
        last = table.at
        screen.refresh_view()
        await driven.until(lambda: not any(w.group == "tree" for w in screen.workers), "it was read again")
        assert (table.at, table.row_count) == (last, len(screen._listed))


@pytest.mark.usefixtures("run_id")
async def test_a_message_that_the_outline_has_not_taken_up_yet_is_gone_to(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing_more(_: TreesScreen) -> None:
        return

    monkeypatch.setattr(trees_module, "SLICE", 2)
    monkeypatch.setattr(TreesScreen, "_take_up_the_rest", nothing_more)
    async with opening(mode="trees") as driven:
        screen = await listed(driven, 2)
        await driven.until(lambda: screen.node is not None, "a tree is open")
        assert screen.query_one("#outline-table", Table).row_count == 2
        await driven.press("enter", "right_curly_bracket", "right_curly_bracket")
        assert screen.node is not None
        assert (screen.node.speaker, screen.node.turn) == ("user", 3)
