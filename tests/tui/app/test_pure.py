"""What the screens show, without a screen: filters, pages, sentences, how runs stand, rates and time left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import judge_again, judged, make_judge, small_store
from trees.store import Store
from tui.app import filters, index, watching
from tui.app.handing_out import hand_out
from tui.app.index import Asked, Came, Counted, Index
from tui.app.opened import open_tree, outline
from tui.app.sentences import compared, sentences
from tui.app.standing import RunLine, run_line
from tui.app.watching import Watching
from tui.draw import Look


def test_any_text_is_a_filter_that_the_store_can_answer(store_path: Path) -> None:
    with Store.open(store_path) as store:

        @given(st.text(max_size=60) | st.from_regex(r"-?[a-z]+[:<>=].{0,9}", fullmatch=True))
        def ask(text: str) -> None:
            wanted = filters.parse(text)
            assert index.page(store, wanted, "place", 0) == ()
            assert index.count(store, wanted) == 0

        ask()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", 1),
        ("good 2", 1),
        ("nowhere", 0),
        ("-nowhere", 1),
        ("turns>1 messages=6", 1),
        ("turns>2", 0),
        ("outcome:win", 1),
        ("outcome:tie", 0),
        ("margin<2", 1),
        ("margin<.5", 0),
        ("persona:ada", 1),
        ('persona:"calm."', 1),
        ("role:warm", 1),
        ("state:growing", 1),
        ("-state:growing", 0),
        ("is:edited", 0),
        ("drift:any", 0),
    ],
)
def test_what_a_filter_lets_through(store_path: Path, text: str, found: int) -> None:
    store, _ = small_store(store_path)
    with store:
        wanted = filters.parse(text)
        assert wanted.problems == ()
        assert index.count(store, wanted) == found == len(index.page(store, wanted, "closest", 0))


@pytest.mark.parametrize("order", index.ORDERS)
def test_every_order_can_be_asked(store_path: Path, order: str) -> None:
    store, _ = small_store(store_path)
    with store:
        (row,) = index.page(store, filters.Filter(), order, 0)
    assert (row.wins, row.ties, row.margin) == (2, 0, 1.0)


def test_a_late_answer_of_an_earlier_question_is_passed_over() -> None:
    first = index.reduce(Index(), Asked(filters.parse("a"), "place"))
    second = index.reduce(first, Asked(filters.parse("b"), "place"))
    assert index.reduce(second, Came(first.generation, 0, ())) == second
    assert index.reduce(second, Counted(first.generation, 9)) == second
    assert index.reduce(second, Came(second.generation, 0, ())).complete


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_comparison_holds_both_texts_whole(first: str, second: str) -> None:
    rows = compared(first, second)
    left = ["".join(span.text for span in row[0]) for row in rows if row[0]]
    right = ["".join(span.text for span in row[1]) for row in rows if row[1]]
    assert left == sentences(first)
    assert right == sentences(second)


def test_texts_too_long_to_compare_are_shown_whole_on_both_sides() -> None:
    first, second = "word " * 20_000, "a. " * 20_000
    rows = compared(first, second)
    assert "".join(span.text for row in rows for span in row[0]).split() == first.split()
    assert [span.text for row in rows for span in row[1]] == sentences(second)


def test_a_changed_word_is_marked_alone() -> None:
    ((before, after),) = compared("I like tea.", "I like coffee.")
    assert [span.text for span in before if span.style] == ["tea."]
    assert [span.text for span in after if span.style] == ["coffee."]


def test_the_outline_tells_the_winner_from_what_went_on(store_path: Path) -> None:
    store, run = small_store(store_path)
    with store:
        tree = run.tree()
        user = tree.roots()[0]
        good, plain = tree.children(user.id)
        judge = make_judge(store)
        judge_again(store, judged(user, judge, [(plain, good, "win")], repeat=1))
        rows = {row.node_id: "".join(text for text, _ in row.cells) for row in _outline(store, tree.id)}
    assert "○▶" in rows[good.id]
    assert "★ " in rows[plain.id]


def _outline(store: Store, tree: str) -> list[watching.Any]:
    return list(outline(open_tree(store, tree), Look(), everything=False))


def test_trees_are_handed_out_once(store_path: Path, tmp_path: Path) -> None:
    store, run = small_store(store_path)
    with store:
        assert hand_out(store, run.trees, tmp_path / "trees.md") == 1
        assert "> good 2" in (tmp_path / "trees.md").read_text()
        with pytest.raises(Exception, match="exists already"):
            hand_out(store, run.trees, tmp_path / "trees.md")
        with pytest.raises(Exception, match="says no form"):
            hand_out(store, run.trees, tmp_path / "trees.csv")


def test_the_time_left_is_a_range_once_enough_was_seen(store_path: Path) -> None:
    store, run = small_store(store_path)
    with store:
        line = run_line(store, store.run(run.id), time.time())
    state = Watching(run.id)
    for at, turns in ((0.0, 0), (10.0, 4), (20.0, 5), (30.0, 20)):
        state = watching.reduce(state, _read(line, at, turns))
        if turns < 5:
            assert watching.time_left(state) is None
    low, high = watching.time_left(state) or (0, 0)
    assert 0 < low < high
    assert low == pytest.approx(80 / 1.5 * 0.9)
    assert high == pytest.approx(80 / (20 / 30) * 1.1)


def _read(line: RunLine, at: float, turns: int) -> watching.Read:
    from dataclasses import replace

    return watching.Read(at, replace(line, turns=turns, turns_planned=100), {}, (), (), (), (), None)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1000)), max_size=300))
def test_watching_stays_bounded_and_never_fails(seen: list[tuple[float, int]]) -> None:
    line = RunLine("r", "n", "play", "running", None, 1, 0, 0, 0, 1000, 0.0, 1, 0.0)
    state = Watching("r")
    for at, turns in sorted(seen):
        state = watching.reduce(state, _read(line, at, turns))
        watching.time_left(state)
    assert len(state.readings) <= watching.KEPT
