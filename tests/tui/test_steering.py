"""Command rows: asked, waited for, answered, refused, and what is said when nobody can answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Espalier
from trees.jobs import answer, commands, release, take_lock
from trees.store import Store
from tui.launch import NoEngine, Refused, ask_and_wait


@pytest.mark.parametrize(
    "words",
    [
        ("pause",),
        ("stop",),
        ("set", "limits", "calls", "5"),
        ("set", "limits", "trees_in_flight", "auto"),
        ("set", "permits", "s", "2"),
        ("set", "permits", "s", "auto"),
    ],
)
def test_without_an_engine_the_next_step_is_named(espalier: Espalier, played: str, words: tuple[str, ...]) -> None:
    result = espalier(words[0], played[:8], *words[1:], exit_code=3)
    assert f"no engine is at work on run {played[:8]}" in result.stderr
    assert f"espalier resume {played[:8]}" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("limits", "tokenz", "5"), "tokenz: unknown key"),
        (("limits", "calls", "1.5"), "calls: "),
        (("limits", "calls", "auto"), "calls: "),
        (("limits", "trees_in_flight", "0"), "give a number from 1"),
        (("permits", "s", "0"), "not a number of calls"),
        (("permits", "s", "many"), "not a valid float"),
        (("colour", "s", "1"), "'colour'"),
    ],
)
def test_what_cannot_be_set_is_refused_before_it_is_asked(
    espalier: Espalier, played: str, words: tuple[str, ...], said: str
) -> None:
    assert said in espalier("set", played[:8], *words, exit_code=2).output


async def first_command(store: Store, run: str) -> int:
    """The number of the first command that somebody asks."""
    while True:
        if asked := commands(store, run):
            return asked[0].id
        await asyncio.sleep(0)


async def served(path: Path, run: str, result: Mapping[str, Any] | None, *, refused: bool = False) -> None:
    """An engine that answers one command, or leaves without a word if `result` is None."""
    with Store.open(path) as store:
        lock = take_lock(store, run, "run")
        asked = await first_command(store, run)
        if result is not None:
            store.apply(answer(asked, result, refused=refused))
        store.apply(release(lock))


async def asked_while_served(run: str, result: Mapping[str, Any] | None, *, refused: bool = False) -> dict[str, Any]:
    path = Path("espalier.db")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(served(path, run, result, refused=refused))
        await asyncio.sleep(0)
        with Store.open(path) as store:
            return await ask_and_wait(store, run, "pause", {})
    raise AssertionError("unreachable")


async def test_an_answer_is_waited_for(played: str) -> None:
    assert await asked_while_served(played, {"paused": "soft"}) == {"paused": "soft"}


async def test_a_refusal_is_told(played: str) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await asked_while_served(played, {"error": "not now"}, refused=True)
    assert raised.group_contains(Refused, match="not now")


async def test_an_engine_that_leaves_first_is_told(played: str) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await asked_while_served(played, None)
    assert raised.group_contains(NoEngine, match="left before it answered")
