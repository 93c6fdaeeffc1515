"""Nearest neighbours and diversity on vectors whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.embedders import LexicalEmbedder, normalised, open_embedder
from simulation.similarity import (
    Nearest,
    Neighbourhood,
    closest_pairs,
    nearest_similarities,
    plane,
    vendi_score,
)
from trees.errors import SetupError


def unit(*degrees: float) -> np.ndarray:
    turns = np.radians(degrees)
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def test_the_nearest_item_and_how_near_it_is() -> None:
    there = Neighbourhood()
    assert there.nearest(unit(10)) == [None]
    there.add(["east", "north"], unit(0, 90))
    there.add(["west"], unit(180))
    (first, second) = there.nearest(unit(60, 150))
    assert first is not None
    assert second is not None
    assert first.id == "north"
    assert first.similarity == pytest.approx(math.cos(math.radians(30)), abs=1e-6)
    assert second.id == "west"


def test_of_equals_the_one_that_joined_first_is_named() -> None:
    there = Neighbourhood()
    there.add(["a", "b"], unit(30, 30))
    assert there.nearest(unit(30)) == [Nearest("a", pytest.approx(1.0, abs=1e-6))]


def test_an_item_is_not_its_own_neighbour() -> None:
    assert nearest_similarities(unit(0, 90)).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert nearest_similarities(unit(5)).tolist() == [0]
    assert nearest_similarities(unit(0, 0, 90)).tolist() == pytest.approx([1, 1, 0], abs=1e-6)


def test_the_closest_pairs_come_first() -> None:
    assert [(a, b) for a, b, _ in closest_pairs(unit(0, 80, 10, 85), 2)] == [(1, 3), (0, 2)]


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 5))
def test_the_vendi_score_counts_what_is_really_different(kinds: int, copies: int) -> None:
    rows = np.repeat(np.eye(kinds, dtype=np.float32), copies, axis=0)
    assert vendi_score(rows) == pytest.approx(kinds, rel=1e-6)


def test_the_vendi_score_is_the_same_by_rows_and_by_columns() -> None:
    rows = normalised(np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32))
    shares = np.linalg.eigvalsh((rows @ rows.T).astype(np.float64) / 40)
    shares = shares[shares > 1e-12]
    assert vendi_score(rows) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert vendi_score(rows[:0]) == 0


def test_the_plane_keeps_distances_of_what_lies_in_one() -> None:
    rows = unit(0, 40, 100, 200)
    placed = plane(rows)
    assert np.linalg.norm(placed[0] - placed[3]) == pytest.approx(float(np.linalg.norm(rows[0] - rows[3])), abs=1e-5)
    assert plane(rows[:2]).tolist() == [[0, 0], [0, 0]]


async def test_the_lexical_embedder_knows_words_and_says_that_it_knows_no_paraphrases() -> None:
    embedder = LexicalEmbedder()
    texts = ["She keeps two cats in Lisbon.", "she keeps two cats in lisbon", "An old man mends clocks.", ""]
    rows = await embedder.vectors(texts)
    assert rows.shape[0] == 4
    assert float(rows[0] @ rows[1]) == pytest.approx(1, abs=1e-6)
    assert float(rows[0] @ rows[2]) < 0.3
    assert not rows[3].any()
    assert not embedder.knows_paraphrases


async def test_an_embedder_that_is_not_there_is_named_with_the_choices() -> None:
    with pytest.raises(SetupError, match="no folder 'nowhere'") as raised:
        await open_embedder("nowhere")
    assert "lexical" in str(raised.value)


def test_greatest_similarities_are_kept_as_items_join() -> None:
    rows = normalised(np.random.default_rng(3).normal(size=(50, 8)).astype(np.float32))
    there = Neighbourhood()
    for begin, end in ((0, 1), (1, 2), (2, 30), (30, 50)):
        there.add([str(i) for i in range(begin, end)], rows[begin:end])
        np.testing.assert_allclose(there.greatest(), nearest_similarities(rows[:end]), atol=1e-6)
