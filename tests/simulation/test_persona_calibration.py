"""A threshold between one person told twice and two people, and honest figures about it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from simulation.persona_calibration import Label, calibrate, labelled_pairs
from trees.personas import Kind


def _scored(seed: int, duplicates: float, alike: float, other: float, spread: float) -> list[tuple[float, Label]]:
    """Sixty pairs of each label with similarities around a middle."""
    rng = random.Random(seed)
    middles: dict[Label, float] = {"paraphrase": duplicates, "same_kind": alike, "different": other}
    return [(rng.gauss(middle, spread), label) for label, middle in middles.items() for _ in range(60)]


def test_labels_that_similarity_separates_are_separated() -> None:
    found = calibrate(_scored(1, 0.9, 0.6, 0.3, 0.03))
    assert 0.68 < found.threshold < 0.85
    assert found.f_beta == 1
    assert found.precision.low == found.recall.low == found.kept_same_kind.low == 1
    assert found.left_out == 1


def test_held_back_figures_are_not_the_flattering_ones() -> None:
    """Where similarity says nothing, the best threshold on the pairs looks better than it is on others."""
    found = calibrate(_scored(2, 0.5, 0.5, 0.5, 0.1))
    assert found.left_out < found.f_beta
    assert abs(found.precision.value - 1 / 3) < 0.12


def test_intervals_cover_what_fresh_pairs_show() -> None:
    found = calibrate(_scored(5, 0.8, 0.65, 0.3, 0.06))
    fresh = _scored(8, 0.8, 0.65, 0.3, 0.06)
    called = [label for score, label in fresh if score >= found.threshold]
    assert found.precision.low <= called.count("paraphrase") / len(called) <= found.precision.high
    assert found.recall.low <= called.count("paraphrase") / 60 <= found.recall.high
    assert found.spread[0] <= found.threshold <= found.spread[1]


def test_a_smaller_beta_asks_for_more_certainty() -> None:
    scored = _scored(5, 0.75, 0.65, 0.3, 0.08)
    assert calibrate(scored, beta=0.25).threshold >= calibrate(scored, beta=2).threshold


def test_the_order_of_pairs_does_not_move_the_threshold_and_twice_gives_the_same() -> None:
    scored = _scored(6, 0.8, 0.7, 0.3, 0.05)
    assert calibrate(scored) == calibrate(scored)
    assert calibrate(scored).threshold == calibrate(scored[::-1]).threshold


def test_equal_similarities_stay_on_one_side() -> None:
    scored: list[tuple[float, Label]] = [
        (0.9, "paraphrase"),
        (0.8, "paraphrase"),
        (0.8, "same_kind"),
        (0.1, "different"),
    ]
    found = calibrate(scored * 4)
    assert found.threshold == pytest.approx(0.85)


@pytest.mark.parametrize(
    "scored",
    [
        [],
        [(0.9, "paraphrase")] * 5,
        [(0.9, "paraphrase"), (0.1, "different"), (0.2, "different")],
        [(float("nan"), "paraphrase"), (0.9, "paraphrase"), (0.1, "different"), (0.2, "different")],
    ],
)
def test_too_little_to_calibrate_on_is_refused(scored: list[tuple[float, Label]]) -> None:
    with pytest.raises(ValueError, match=r"at least 2|finite"):
        calibrate(scored)


@pytest.mark.parametrize(("kind", "least"), [("profile", 60), ("personality", 50)])
def test_there_are_enough_labelled_pairs_and_none_twice(kind: Kind, least: int) -> None:
    pairs = labelled_pairs(kind)
    assert all(
        Counter(pair.label for pair in pairs)[label] >= least for label in ("paraphrase", "same_kind", "different")
    )
    assert len({(pair.a, pair.b) for pair in pairs}) == len(pairs)
    assert all(25 <= len(text.split()) <= 80 for pair in pairs for text in (pair.a, pair.b))
