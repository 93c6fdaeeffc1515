"""Text at the store's border: nothing is lost, and what people type to search is only words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.builders import make_run
from trees.store import Store
from trees.text import LEAD, escape, search_query, unescape

ANY_TEXT = st.text(st.characters(exclude_categories=()))
HARD_TEXT = st.text(st.sampled_from(["\x00", LEAD, "\ud800", "\udfff", "u", "0", "d", "8", "世", "\U0001f600"]))


@given(ANY_TEXT | HARD_TEXT)
@example("\x00")
@example("\ud800\udc00")
@example(LEAD + "0")
@example(LEAD + LEAD + "ud800")
def test_escape_loses_nothing_and_sqlite_holds_it(text: str) -> None:
    stored = escape(text)
    assert unescape(stored) == text
    assert "\x00" not in stored
    with sqlite3.connect(":memory:") as connection:
        assert connection.execute("SELECT ?", (stored,)).fetchone()[0] == stored


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00" + LEAD)))
def test_ordinary_text_is_stored_as_it_is(text: str) -> None:
    assert escape(text) == text


MESSAGES = {
    "zh": "我昨天在北京买了一辆自行车。",
    "ja": "きょうは猫とお茶を飲みました。カフェで。",
    "de": "Ich mag Äpfel und Straßen, am liebsten Österreich.",
    "en": 'She said "NEAR the harbour" AND left* (quickly): a OR b -- c^2',
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store.db")
    run = make_run(store)
    for number, text in enumerate(MESSAGES.values()):
        run.turn(run.user(run.trees[0], text, replica=str(number)), [])
    return store


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("京", "zh"),
        ("北京", "zh"),
        ("自行车", "zh"),
        ("北京 买", "zh"),
        ("猫", "ja"),
        ("お茶", "ja"),
        ("カフェ", "ja"),
        ("apfel", "de"),
        ("österreich", "de"),
        ("harbour", "en"),
    ],
)
def test_search_finds_words_of_any_script(store: Store, words: str, found: str) -> None:
    assert [hit.text for hit in store.search(words)] == [MESSAGES[found]]


@pytest.mark.parametrize("words", ["京北", "自车", "カ猫", "har", "harbour 北京"])
def test_search_wants_every_word_whole_and_in_order(store: Store, words: str) -> None:
    assert store.search(words) == []


@pytest.mark.parametrize(
    "words",
    ['"NEAR', "NEAR AND left", "left*", "(quickly)", "a OR b", "c^2", "words: left", "-- left", "she;'left"],
)
def test_quotes_and_operators_are_only_words(store: Store, words: str) -> None:
    hits = store.search(words.replace("words: ", "").replace("AND", ""))
    assert [hit.text for hit in hits] == [MESSAGES["en"]]
    store.search(words)


@given(ANY_TEXT)
def test_no_search_is_a_syntax_error(words: str) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE VIRTUAL TABLE w USING fts5(words, content='')")
        try:
            query = search_query(words)
        except ValueError:
            return
        connection.execute("SELECT rowid FROM w WHERE w MATCH ?", (escape(query),)).fetchall()


def test_nothing_to_search_for_is_said(store: Store) -> None:
    with pytest.raises(ValueError, match="nothing to search for"):
        store.search(' "*- ')
