"""How many trees are played at once: by the letter, in a run, and that no tree depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.engine import close_engine
from simulation.inflight import FIRST_TREES, LOOKS, Room, TreesInFlight
from tests.support.play import configuration, engine_for, play
from trees.jobs import events
from trees.store import Store
from tui.canonical import canonical_run

IDLE = Room(permits=8, held=2, waiting=0)
FULL = Room(permits=8, held=8, waiting=0)
WAITED_FOR = Room(permits=8, held=8, waiting=3)
CROWDED = Room(permits=8, held=8, waiting=9)


def looked(trees: TreesInFlight, *rooms: Room, answered: int = 1000, times: int = LOOKS) -> TreesInFlight:
    for _ in range(times):
        trees = trees.seen(rooms, answered)
    return trees


def test_trees_are_let_in_when_permits_were_free_for_a_while() -> None:
    trees = TreesInFlight(width=3, trees=4)
    assert looked(trees, IDLE, times=LOOKS - 1).trees == 4
    assert looked(trees, IDLE).trees == 6
    assert looked(trees, Room(permits=8, held=7, waiting=0)).trees == 5
    assert looked(TreesInFlight(width=3, trees=40), IDLE).trees == 50


def test_as_many_as_the_permits_that_stayed_free_can_serve() -> None:
    trees = TreesInFlight(width=3, trees=4).seen([IDLE], 1000)
    assert trees.seen([Room(permits=64, held=4, waiting=0)], 1000).trees == 6


def test_none_is_let_in_before_those_let_in_last_had_an_answer_each() -> None:
    trees = TreesInFlight(width=1, trees=4, answered=100)
    assert looked(trees, IDLE, answered=103, times=50).trees == 4
    assert looked(trees, IDLE, answered=104).trees == 10


@pytest.mark.parametrize("rooms", [(FULL,), (WAITED_FOR,), (FULL, WAITED_FOR), (IDLE, CROWDED)])
def test_none_is_let_in_where_it_would_only_wait(rooms: tuple[Room, ...]) -> None:
    assert looked(TreesInFlight(width=3, trees=4), *rooms, times=50).trees == 4


def test_a_model_with_nothing_to_do_lets_trees_in_though_another_is_waited_for() -> None:
    assert looked(TreesInFlight(width=3, trees=4), IDLE, WAITED_FOR).trees == 6


def test_a_moment_without_free_permits_begins_the_while_anew() -> None:
    trees = looked(TreesInFlight(width=3, trees=4), IDLE, times=LOOKS - 1).seen([FULL], 1000)
    assert looked(trees, IDLE, times=LOOKS - 1).trees == 4


ROOMS = st.builds(Room, st.integers(1, 64), st.integers(0, 64), st.integers(0, 200))


@given(st.lists(st.tuples(st.lists(ROOMS, min_size=1, max_size=3), st.integers(0, 20)), max_size=60), st.integers(1, 8))
def test_their_number_never_falls_and_grows_only_where_permits_are_free(
    seen: list[tuple[list[Room], int]], width: int
) -> None:
    trees, answered = TreesInFlight(width, FIRST_TREES), 0
    for rooms, more in seen:
        answered += more
        after = trees.seen(rooms, answered)
        most = max(room.free for room in rooms)
        assert trees.trees <= after.trees <= trees.trees + max(most // width, trees.trees // 4, 1)
        assert most or after.trees == trees.trees
        trees = after


SLOW = {"scripted": {"kind": "scripted", "latency_s": 0.02}}


async def test_a_run_lets_trees_in_and_says_so(store_path: Path) -> None:
    config = configuration(models=SLOW, personas={"count": 24})
    engine = await engine_for(store_path, config)
    assert await engine.run() == "finished"
    await close_engine(engine)
    with Store.read(store_path) as store:
        let_in = [e.data for e in events(store, engine.run_row.id) if e.kind == "trees.let_in"]
    assert let_in[0]["was"] == FIRST_TREES
    assert all(event["in_flight"] > event["was"] for event in let_in)
    assert engine._in_flight.limit == let_in[-1]["in_flight"]


async def test_no_more_trees_than_permits_can_serve(store_path: Path) -> None:
    narrow = {"scripted": {"kind": "scripted", "latency_s": 0.02, "permits": 2}}
    engine = await engine_for(store_path, configuration(models=narrow, personas={"count": 12}))
    assert await engine.run() == "finished"
    await close_engine(engine)
    assert engine._in_flight.limit <= FIRST_TREES + 2


async def canonical(path: Path, **changes: Any) -> bytes:
    run = await play(path, configuration(personas={"count": 12}, **changes))
    with Store.read(path) as store:
        return json.dumps(canonical_run(store, store.run(run)), sort_keys=True).encode("ascii")


async def test_whatever_the_numbers_the_trees_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    def models(permits: int | str) -> dict[str, Any]:
        return {"scripted": {"kind": "scripted", "permits": permits, "latency_s": 0.001}}

    auto = await canonical(tmp_path / "auto.db", models=models("auto"))
    assert auto == await canonical(tmp_path / "one.db", models=models(1), limits={"trees_in_flight": 1})
    assert auto == await canonical(tmp_path / "all.db", models=models(64), limits={"trees_in_flight": 12})
