"""Leaks and uptake, on sentences whose answer is plain."""

from __future__ import annotations

from simulation.uptake import leaks_fact, takes_up

FACTS = ("She keeps two tortoises on a balcony.", "She repairs xylophones in Ljubljana.")


def test_a_fact_that_nobody_mentioned_is_a_leak() -> None:
    assert leaks_fact("How are the tortoises on your balcony?", ["I slept badly."], FACTS)


def test_what_was_mentioned_is_none_and_neither_is_a_single_word() -> None:
    assert not leaks_fact("How are the tortoises on your balcony?", ["My tortoises like the balcony."], FACTS)
    assert not leaks_fact("A balcony would help.", ["I slept badly."], FACTS)


def test_uptake_comes_back_to_what_the_last_message_does_not_say() -> None:
    noted = ["They keep tortoises."]
    assert takes_up("Did the tortoises wake you?", "I slept badly.", noted)
    assert not takes_up("Tortoises, then!", "It is about the tortoises.", noted)
    assert not takes_up("Sleep well.", "I slept badly.", noted)
