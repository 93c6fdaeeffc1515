"""The estimate of a run brackets what the run takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.config import BranchingConfig
from simulation.estimate import branching_in_words, estimate, levels
from simulation.runs import draw_personas
from tests.support.play import cast_of, configuration, play
from trees.statistics import usage
from trees.store import Store


@pytest.mark.parametrize(
    ("branching", "replies", "turns"),
    [
        (BranchingConfig(policy="winner"), 3, [1, 1, 1, 1]),
        (BranchingConfig(policy="random"), 3, [1, 1, 1, 1]),
        (BranchingConfig(policy="all", depth=2), 3, [1, 3, 9, 9]),
        (BranchingConfig(policy="beam", width=2), 3, [1, 2, 2, 2]),
        (BranchingConfig(policy="all", depth=3), 1, [1, 1, 1, 1]),
    ],
)
def test_turns_of_each_depth(branching: BranchingConfig, replies: int, turns: list[int]) -> None:
    assert levels(branching, 4, replies) == turns
    assert branching_in_words(branching, replies)


@pytest.mark.parametrize(
    "judges",
    [
        {"a": {"kind": "likelihood"}},
        {"a": {"kind": "choice"}},
        {"a": {"kind": "rating"}},
        {"a": {"kind": "pairwise"}, "b": {"kind": "treatment"}},
    ],
)
async def test_a_played_run_lies_within_its_estimate(store_path: Path, judges: dict[str, object]) -> None:
    config = configuration(judges=judges, judge="a", branching={"policy": "all", "depth": 2})
    guess = estimate(await cast_of(config), draw_personas(config.personas, config.seed, None, None))
    run = await play(store_path, config)
    with Store.read(store_path) as store:
        took = {row.role: row for row in usage(store, run)}
    rows = {row.role: row for row in guess.rows}
    assert set(took) == set(rows) - {"all"}
    for role, row in took.items():
        assert rows[role].calls[0] <= row.calls <= rows[role].calls[1], role
        assert row.tokens_in <= rows[role].tokens_in[1], role
        assert row.tokens_out <= rows[role].tokens_out[1], role
