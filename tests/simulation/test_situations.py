"""Situations: data that can be played, dealt evenly, told in tails alone, recorded on trees and rendered again."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rerender import Rerender
from simulation.benchmark import cases_of
from simulation.benchmark_config import CasesConfig
from simulation.cast import load_prompts
from simulation.runs import config_of
from simulation.situations import SituationConfig, draw_situations, shipped_situations
from tests.support.play import cast_of, configuration, play
from trees.errors import SetupError
from trees.situations import Situation, situation_from
from trees.store import Store
from trees.verify import USE_COLUMNS, use_from_row, verify

NAMES = tuple(shipped_situations())
KEYS = [f"{p.id}:{q.id}" for p, q in cases_of(CasesConfig(), None)]


def drawn(names: tuple[str, ...], turns: int, seed: int, keys: list[str] = KEYS) -> list[Situation]:
    found = draw_situations([shipped_situations()[name] for name in names], keys, turns, seed)
    return [situation for situation in found if situation is not None]


def test_the_shipped_situations_are_the_six_that_the_docs_name() -> None:
    assert set(NAMES) == {"small_talk", "advice", "task", "disagreement", "mood", "taste"}
    for name, situation in shipped_situations().items():
        assert len(situation.openings) >= 2
        assert bool(situation.changes) == (name in ("mood", "taste"))
        for change in situation.changes:
            assert change.wants
            assert bool(change.wants_before) == (name == "taste")


@given(st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_each_situation_is_dealt_as_often_and_its_steps_cover_every_turn(turns: int, seed: int) -> None:
    found = drawn(NAMES, turns, seed)
    counts = Counter(situation.name for situation in found)
    assert max(counts.values()) - min(counts.values()) <= 1
    for situation in found:
        assert situation_from(situation.as_json()) == situation
        assert [step.turn for step in situation.steps] == sorted({step.turn for step in situation.steps})
        assert situation.at(1).direction.startswith(
            tuple(opening for opening in shipped_situations()[situation.name].openings)
        )
        changes = situation.name in ("mood", "taste") and turns >= 2
        assert (situation.change is not None) == changes
        if situation.change is not None:
            assert 2 <= situation.change <= turns
            assert situation.at(situation.change - 1).wants != situation.at(situation.change).wants


def test_a_seed_draws_the_same_again_and_another_seed_other_openings() -> None:
    assert drawn(NAMES, 10, 1) == drawn(NAMES, 10, 1)
    assert drawn(NAMES, 10, 1) != drawn(NAMES, 10, 2)
    assert drawn(NAMES, 10, 1, KEYS[:7]) == drawn(NAMES, 10, 1)[:7], "a trial on the first cases plays what all play"
    assert len({situation.at(1).direction for situation in drawn(("small_talk",), 10, 1)}) > 1


async def test_directions_stand_in_the_tail_of_their_turn_alone_and_prompts_grow_at_their_end(
    store_path: Path,
) -> None:
    run = await play(store_path, configuration(situations=["taste"], turns=4, user={"rerolls": 0}))
    with Store.read(store_path) as store:
        rows = store.trees(run)
        assert all(row.situation is not None and row.situation.change == 3 for row in rows)
        for row in rows:
            assert row.situation is not None
            prompts = _user_prompts(store, row.id)
            for turn, prompt in enumerate(prompts, 1):
                told = row.situation.at(turn).direction
                assert told in prompt[-1][1]
                assert all(told not in content for _, content in prompt[:-1])
            for earlier, later in pairwise(prompts):
                assert later[: len(earlier) - 1] == earlier[:-1]
                assert later[len(earlier) - 1][1] == earlier[-1][1].partition("(")[0].strip()
        assert verify(store, rerender=Rerender(store)).clean


async def test_the_points_judge_is_told_what_suits_now_and_only_it(store_path: Path) -> None:
    judges = {"points": {"kind": "points", "scores_lone": True}, "rating": {"kind": "rating", "scores_lone": True}}
    run = await play(store_path, configuration(situations=["taste"], turns=2, judges=judges))
    with Store.read(store_path) as store:
        row = store.trees(run)[0]
        assert row.situation is not None
        wants = [row.situation.at(turn).wants for turn in (1, 2)]
        assert wants[0] != wants[1]
        for judge, told in (("points", True), ("rating", False)):
            for turn in (1, 2):
                prompts = _prompts(store, row.id, f"judge.{judge}", turn)
                assert prompts
                assert all((wants[turn - 1] in prompt[-1][1]) is told for prompt in prompts)
                assert all(wants[2 - turn] not in content for prompt in prompts for _, content in prompt)
        assert verify(store, rerender=Rerender(store)).clean


def _user_prompts(store: Store, tree: str) -> list[list[tuple[str, str]]]:
    """What the user was asked along the conversation really played, by turn."""
    path = store.tree(tree).continued_path()
    ends = [tree, *(node.id for node in path if node.speaker == "assistant")][: len(path) // 2]
    by_end = {use.node_id: prompt for use, prompt in _rendered(store, tree, "user")}
    return [by_end[end] for end in ends]


def _prompts(store: Store, tree: str, role: str, turn: int) -> list[list[tuple[str, str]]]:
    nodes = store.tree(tree)
    return [prompt for use, prompt in _rendered(store, tree, role) if nodes[use.node_id].turn == turn]


def _rendered(store: Store, tree: str, role: str) -> list[tuple[Any, list[tuple[str, str]]]]:
    render = Rerender(store)
    uses = store.rows(f"SELECT {USE_COLUMNS} FROM uses u WHERE u.tree_id = ? AND u.role = ?", (tree, role))
    found = [(use, render.messages(use)) for use in map(use_from_row, uses)]
    return [(use, [(m.role, m.content) for m in messages]) for use, messages in found if messages is not None]


async def test_a_run_without_situations_is_the_run_it_was(store_path: Path) -> None:
    cast = await cast_of(configuration())
    assert "situations" not in cast.identity()["play"]
    assert cast.prompts["user"] == load_prompts(configuration(), None)["user"]
    run = await play(store_path, configuration())
    with Store.read(store_path) as store:
        assert all(row.situation is None for row in store.trees(run))


async def test_the_store_alone_goes_on_with_a_run_in_situations(store_path: Path) -> None:
    mine = {"name": "mine", "openings": ["Begin with the weather."], "then": "Go on."}
    config = configuration(situations=["advice", mine])
    run = await play(store_path, config)
    with Store.read(store_path) as store:
        read = config_of(store.run(run)).situations
        assert read == config.situations
        assert read[0] == shipped_situations()["advice"]
        told = {row.situation.name for row in store.trees(run) if row.situation is not None}
        assert told == {"advice", "mine"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tasks"], "no 'tasks', only .*; did you mean 'task'?"),
        (["task", "task"], "'task' stands there twice"),
        ([{"name": "x", "openings": []}], "openings"),
        ([{"name": "x", "openings": ["a"], "at": 1}], "less than 1"),
    ],
)
def test_what_is_no_situation_is_refused(given: list[object], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        configuration(situations=given)


def test_a_users_own_prompt_has_to_say_where_a_situation_goes(tmp_path: Path) -> None:
    (tmp_path / "user.md").write_text("[head]\nBe {{ profile }}\n[tail]\n(Go on.)\n", encoding="utf-8")
    with pytest.raises(SetupError, match="nobody would be told"):
        load_prompts(configuration(situations=["task"]), tmp_path)
    (tmp_path / "user.md").write_text("[head]\nBe {{ profile }}\n[tail]\n({{ situation }})\n", encoding="utf-8")
    assert "situation" in load_prompts(configuration(situations=["task"]), tmp_path)["user"].text
    assert SituationConfig(name="a", openings=("b",)).then == ""
