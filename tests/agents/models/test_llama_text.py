"""The text of an answer from bytes in any pieces: UTF-8, reasoning, stop strings."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.models.llama_text import AnswerText


def read(pieces: list[bytes], stop: tuple[str, ...] = (), *, reasons: bool = False) -> tuple[AnswerText, str]:
    answer = AnswerText(stop, reasons=reasons)
    said = "".join(answer.feed(piece) for piece in pieces if not answer.stopped)
    return answer, said + answer.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


places = st.lists(st.integers(0, 200), max_size=8)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda t: "<think>" not in t),
    places,
)
def test_text_in_any_pieces_is_the_text(text: str, edges: list[int]) -> None:
    answer, said = read(cut(text.encode(), edges))
    assert answer.text == said == text
    assert answer.reasoning is None


@given(st.text("ab<", max_size=20), st.lists(st.text("ab<", min_size=1, max_size=3), max_size=3), places)
def test_a_stop_string_ends_the_text_wherever_it_is_cut(text: str, stop: list[str], edges: list[int]) -> None:
    answer, said = read(cut(text.encode(), edges), tuple(stop))
    assert answer.text == said
    assert text.startswith(said)
    assert not any(mark in said for mark in stop)
    assert answer.stopped == any(mark in text for mark in stop)
    if not answer.stopped:
        assert said == text


@given(places)
def test_reasoning_goes_aside(edges: list[int]) -> None:
    answer, said = read(cut("\n<think> is it <b>?\n</think>\n\nYes é".encode(), edges), ("is",))
    assert (said, answer.text, answer.reasoning) == ("Yes é", "Yes é", "is it <b>?")


@pytest.mark.parametrize(
    ("text", "reasons", "expected"),
    [
        ("so</think>Yes", True, ("Yes", "so")),
        ("<think>so", False, ("", "so")),
        ("so</thi", True, ("", "so</thi")),
        ("<think></think>Yes", False, ("Yes", None)),
        ("<thi", False, ("<thi", None)),
        ("no <think>a</think>", False, ("no <think>a</think>", None)),
    ],
)
def test_reasoning_cut_short_or_opened_by_the_prompt(
    text: str, reasons: bool, expected: tuple[str, str | None]
) -> None:
    answer, said = read([text.encode()], reasons=reasons)
    assert (said, answer.reasoning) == expected


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert read([b"a\xff", b"\xe2\x82"])[1] == "a\ufffd\ufffd"


def test_a_stop_string_of_spaces_counts_at_the_very_end() -> None:
    answer, said = read([b"\n"], ("\n",))
    assert said == ""
    assert answer.stopped
