"""What a model wrote never drives the terminal, and ordinary text of any script is not spoilt."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.sanitise import LONGEST, in_place, one_line, visible

ANYTHING = st.text(st.characters(codec=None), max_size=300)
BIDI = set(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)))


@given(ANYTHING)
def test_no_control_survives(text: str) -> None:
    shown = visible(text)
    assert not BIDI & set(shown)
    for character in shown:
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp"), hex(
            ord(character)
        )


@given(ANYTHING)
def test_what_is_safe_stays_as_it_is(text: str) -> None:
    once = visible(text, longest=None)
    assert visible(once, longest=None) == once


@given(ANYTHING)
def test_a_line_is_one_line_of_the_width_asked_for(text: str) -> None:
    line = one_line(text, 30)
    assert "\n" not in line
    assert len(line) <= 30


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "<ESC>[31mred"),
        ("\x1b]0;title\x07", "<ESC>]0;title<BEL>"),
        ("a\rb", "a<CR>b"),
        ("\x9b2J", "<U+009B>2J"),
        ("\x7f", "<DEL>"),
        ("\u202eevil\u202c", "<U+202E>evil<U+202C>"),
        ("\ud800", "<U+D800>"),
        ("a\u200bb", "a<U+200B>b"),
        ("\ufeff", "<U+FEFF>"),
        ("a\u200db", "a<U+200D>b"),
        ("\u2028", "<U+2028>"),
        ("x\U000e0041", "x<U+E0041>"),
        ("a\ufe0f", "a<U+FE0F>"),
    ],
)
def test_hiding_characters_become_tokens(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "plain\ttext\n",
        "[bold]not markup[/bold]",
        "naïve café, 日本語, العربية",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: a non-joiner within a word
        "\u0915\u094d\u200d\u0937",  # Devanagari: a joiner after a virama
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family, one emoji of three
        "1\ufe0f\u20e3 \u2764\ufe0f",  # a keycap and a red heart
    ],
)
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


def test_a_long_text_is_cut_with_a_note() -> None:
    shown = visible("x" * (LONGEST + 1500))
    assert shown.endswith("[1,500 more characters]")
    assert len(shown) < LONGEST + 50
    assert visible("x" * (LONGEST + 1), longest=None) == "x" * (LONGEST + 1)


@given(st.text(max_size=60))
def test_an_editor_shows_a_character_for_each_and_none_that_drives_the_terminal(text: str) -> None:
    shown = in_place(text)
    assert len(shown) == len(text)
    assert in_place(shown) == shown
    assert visible(shown.replace("\u200c", "").replace("\u200d", "")) == shown.replace("\u200c", "").replace(
        "\u200d", ""
    )
