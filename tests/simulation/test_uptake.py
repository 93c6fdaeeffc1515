"""Leaks and uptake, on sentences whose answer is plain."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.personas import held_out_profiles
from simulation.uptake import leaks_fact, read_run, takes_up
from tests.simulation.test_benchmark import BASE, config_of, measure
from trees.store import Store

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


@pytest.mark.parametrize("knows", [False, True])
async def test_leaks_are_set_against_what_is_met_of_people_nobody_told_of(store_path: Path, knows: bool) -> None:
    """A model that says the same of everybody leaks by chance; one that says what is true of its person does not."""
    config = config_of(tested={"base": {"model": "says"}}, models={**BASE["models"], "says": SAYS}, turns=2)
    run = (await measure(store_path, config, "base")).planned.id
    if knows:
        with Store.open(store_path) as store:
            for row in store.trees(run):
                fact = store.profile(str(row.profile_id)).facts[-1]
                of_tree = "WHERE tree_id = ? AND speaker = 'assistant'"
                store.apply([(f"UPDATE nodes SET text = ? {of_tree}", (fact, row.id))])
    with Store.read(store_path) as store:
        read = read_run(store, run, 2)
    assert [rate.of for rate in read.leaks] == [10, 10]
    expected = [share for share in read.expected if share is not None]
    assert len(expected) == 2
    above = read.above_chance
    assert above.low is not None
    assert above.high is not None
    if knows:
        assert read.leaks[0].count == 10, "each of them says a fact that nobody mentioned"
        assert above.low > 0.4, "at one turn of two: what was said once is none any more"
        assert max(expected) < 0.1
    else:
        assert read.leaks[0].count == 1, "the one person it is true of"
        assert expected[0] == pytest.approx(0.1), "a tenth of all people, whoever is spoken to"
        assert above.low <= 0 <= above.high


SAYS = {"kind": "scripted", "says": [held_out_profiles()[3].facts[-1]]}


async def test_with_nobody_else_there_is_no_chance_to_compare_with(store_path: Path) -> None:
    run = (await measure(store_path, config_of(cases={"count": 1}), "base")).planned.id
    with Store.read(store_path) as store:
        read = read_run(store, run, 3)
    assert read.expected == (None, None, None)
    assert read.above_chance.value is None
