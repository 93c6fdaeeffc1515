"""Reasoning apart from speech, whole and in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.models.reasoning import ReasoningSplitter, split_reasoning


@pytest.mark.parametrize(
    ("text", "speech", "reasoning"),
    [
        ("Hello.", "Hello.", None),
        (" spaced ", " spaced ", None),
        ("<think>hm</think>\n\nHello.", "Hello.", "hm"),
        ("<think>\n\n</think>\n\nHello.", "Hello.", None),
        ("hm\n</think>\nHello.", "Hello.", "hm"),
        ("<think>cut of", "", "cut of"),
        ("Hello. <think>second</think>Bye.", "Hello. Bye.", "second"),
        ("<think>a</think>x<think>b</think>y", "xy", "a\nb"),
        ("<think>a<think>b</think>y", "y", "a<think>b"),
        ("1 < 2 and <b>", "1 < 2 and <b>", None),
    ],
)
def test_split(text: str, speech: str, reasoning: str | None) -> None:
    assert split_reasoning(text) == (speech, reasoning)


words = st.text(alphabet="abc \n<>/", max_size=8).filter(lambda text: "think" not in text)


@given(st.lists(st.tuples(words, words), min_size=1))
def test_speech_is_what_stands_outside_the_blocks(parts: list[tuple[str, str]]) -> None:
    text = "".join(f"{said}<think>{thought}</think>" for said, thought in parts)
    speech, reasoning = split_reasoning(text)
    assert speech == "".join(said for said, _ in parts).strip()
    assert (reasoning or "").split() == " ".join(thought for _, thought in parts).split()


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "a", "b ", "\n"])), st.data())
def test_pieces_do_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    splitter = ReasoningSplitter()
    place = 0
    while place < len(text):
        size = data.draw(st.integers(1, 9))
        splitter.feed(text[place : place + size])
        place += size
    assert splitter.finish() == split_reasoning(text)


@given(st.integers(1, 60))
def test_what_is_shown_as_it_comes_is_the_speech(size: int) -> None:
    text = "<think>What <b>would</b> they like?</think>\n\nHello, 1 < 2, my <th friend."
    splitter = ReasoningSplitter()
    shown = "".join(splitter.feed(text[i : i + size]) for i in range(0, len(text), size))
    assert shown == split_reasoning(text)[0]
