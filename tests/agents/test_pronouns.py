"""A personality's pronouns fit the profile it is paired with."""

from __future__ import annotations

import re

import pytest

from agents.pronouns import Pronouns, fit_pronouns
from simulation.personas import seed_personalities
from trees.personas import Personality

SETS: dict[Pronouns, set[str]] = {
    "she": {"she", "her", "hers", "herself", "she's"},
    "he": {"he", "him", "his", "himself", "he's"},
    "they": {"they", "them", "their", "theirs", "themself", "themselves", "they're", "they've"},
}
WORDS = re.compile(r"[a-z]+(?:['’][a-z]+)?")


@pytest.mark.parametrize("personality", seed_personalities(), ids=lambda p: p.text[:24])
@pytest.mark.parametrize("wanted", ["she", "he", "they"])
def test_no_word_of_the_written_set_is_left(personality: Personality, wanted: Pronouns) -> None:
    fitted = fit_pronouns(personality.text, personality.pronouns, wanted)
    if wanted == personality.pronouns:
        assert fitted == personality.text
        return
    left = set(WORDS.findall(fitted.lower())) & (SETS[personality.pronouns] - SETS[wanted])
    assert left == set()
    subject = {"she": "She ", "he": "He ", "they": "They "}[wanted]
    assert subject in fitted


@pytest.mark.parametrize("personality", seed_personalities(), ids=lambda p: p.text[:24])
def test_there_and_back_between_she_and_he(personality: Personality) -> None:
    if personality.pronouns == "they":
        return
    other: Pronouns = "he" if personality.pronouns == "she" else "she"
    there = fit_pronouns(personality.text, personality.pronouns, other)
    assert fit_pronouns(there, other, personality.pronouns) == personality.text


@pytest.mark.parametrize(
    ("written", "wanted", "text", "fitted"),
    [
        ("she", "he", "She loves her garden.", "He loves his garden."),
        ("she", "he", "People trust her.", "People trust him."),
        ("she", "he", "People trust her and follow her lead.", "People trust him and follow his lead."),
        ("she", "he", "The choice is hers.", "The choice is his."),
        ("she", "he", "She keeps to herself.", "He keeps to himself."),
        ("she", "he", "SHe is a great listener.", "He is a great listener."),
        ("she", "he", "She's calm; she'd rather wait.", "He's calm; he'd rather wait."),
        ("she", "he", "She’s calm.", "He’s calm."),
        ("she", "he", "It makes her upset when her friends argue.", "It makes him upset when his friends argue."),
        ("she", "he", "Her own ideas matter to her.", "His own ideas matter to him."),
        ("she", "he", "Nobody tells her what to do.", "Nobody tells him what to do."),
        ("he", "she", "He trusts his gut.", "She trusts her gut."),
        ("he", "she", "The last word is his.", "The last word is hers."),
        ("he", "she", "Friends rely on him.", "Friends rely on her."),
        ("he", "she", "He taught himself.", "She taught herself."),
        ("he", "she", "This theme is here to stay, he says.", "This theme is here to stay, she says."),
        ("she", "they", "She is curious and loves books.", "They are curious and love books."),
        ("she", "they", "She often brings cake.", "They often bring cake."),
        ("she", "they", "She also enjoys silence.", "They also enjoy silence."),
        ("she", "they", "She doesn't mind.", "They don't mind."),
        ("he", "they", "He has a quick wit.", "They have a quick wit."),
        ("he", "they", "He was shy.", "They were shy."),
        ("he", "they", "He tries and never gives up.", "They try and never give up."),
        ("he", "they", "He watches, listens and waits.", "They watch, listen and wait."),
        ("he", "they", "He can wait.", "They can wait."),
        ("he", "they", "He's patient.", "They're patient."),
        ("he", "they", "He's been ill.", "They've been ill."),
        ("she", "they", "She values others' ideas and emotions.", "They value others' ideas and emotions."),
        ("she", "they", "Her mother says little.", "Their mother says little."),
        ("she", "they", "Everything is a game to her.", "Everything is a game to them."),
        ("she", "they", "She likes anyone who asks.", "They like anyone who asks."),
        ("she", "they", "She says what she thinks.", "They say what they think."),
        ("they", "she", "They are calm and love tea.", "She is calm and loves tea."),
        ("they", "he", "They have opinions.", "He has opinions."),
        ("they", "he", "They try hard.", "He tries hard."),
        ("they", "she", "They don't shout.", "She doesn't shout."),
        ("they", "he", "They're late.", "He's late."),
        ("they", "she", "They could wait.", "She could wait."),
        ("they", "he", "It suits them.", "It suits him."),
        ("they", "she", "They trust themselves.", "She trusts herself."),
    ],
)
def test_tricky_sentences(written: Pronouns, wanted: Pronouns, text: str, fitted: str) -> None:
    assert fit_pronouns(text, written, wanted) == fitted
