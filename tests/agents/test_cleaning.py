"""What a persona user's answer looks like once it is a chat message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cleaning import clean_message

CASES = Path(__file__).parents[1] / "fixtures" / "drift" / "stage_directions.jsonl"
MARKED = st.text(alphabet="ab s*\"'“”:\n.,«»UserMe", max_size=60)
"""Texts that are dense in what cleaning looks for."""


def test_stage_directions_go_and_emphasis_stays() -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    missed = [case for case in cases if clean_message(case["message"]) != case["cleaned"]]
    assert missed == [], f"{len(missed)} of {len(cases)} missed"


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        ("User: I baked bread.", "I baked bread."),
        ("**Me:** tired", "tired"),
        ("PERSON: “I baked bread.”", "I baked bread."),
        ('"User: I baked bread."', "I baked bread."),
        ("Me: tired. Him: asleep.", "Me: tired. Him: asleep."),
        ('"Yes," he said, "no."', '"Yes," he said, "no."'),
        ("'Tis the dogs' fault, and the cats'", "'Tis the dogs' fault, and the cats'"),
        ("« Bonjour ! »", "Bonjour !"),
        ("Usernames: I forget them all", "Usernames: I forget them all"),
        ("Assistant: I can help.", "Assistant: I can help."),
        ("one\n\ntwo\nthree", "one\n\ntwo\nthree"),
        ("He *laughs* at everything.", "He *laughs* at everything."),
        ("My mother *sings* all day.", "My mother *sings* all day."),
        ("You made me *laugh*.", "You made me *laugh*."),
        ("*sigh* Not again.", "Not again."),
        ("*slowly nods* Fine.", "Fine."),
        ("*Smiles warmly* Fine.", "Fine."),
        ("*nods*, then", "then"),
        ("", ""),
        ("  \n ", ""),
    ],
)
def test_a_message_is_left_with_what_the_person_says(message: str, cleaned: str) -> None:
    assert clean_message(message) == cleaned


@given(st.one_of(st.text(), MARKED))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    cleaned = clean_message(text)
    assert clean_message(cleaned) == cleaned
    assert len(cleaned) <= len(text)
