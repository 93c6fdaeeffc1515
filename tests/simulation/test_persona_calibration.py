"""Thresholds from labelled similarities whose best cut is known."""

from __future__ import annotations

import numpy as np
import pytest

from simulation.persona_calibration import Label, best_threshold, calibrate


def labelled(paraphrase: list[float], same_kind: list[float], different: list[float]) -> list[tuple[float, Label]]:
    found: list[tuple[float, Label]] = [(value, "paraphrase") for value in paraphrase]
    found += [(value, "same_kind") for value in same_kind]
    return found + [(value, "different") for value in different]


def test_a_clean_gap_is_cut_in_its_middle_and_is_worth_everything() -> None:
    found = calibrate(labelled([0.9, 0.92, 0.94, 0.96], [0.7, 0.6, 0.65], [0.1, 0.2, 0.3]))
    assert found.threshold == pytest.approx(0.8)
    assert found.recall == 1
    assert found.precision > 0.95  # where a half's own gap lies elsewhere, one pair of the other half slips through
    assert (found.same_kind_above, found.different_above) == (0, 0)


def test_where_labels_overlap_nine_of_ten_above_are_paraphrases() -> None:
    values = np.linspace(0.95, 0.40, 12)
    same = np.array([True] * 5 + [False] + [True] * 5 + [False])
    # 10 of the first 11 are paraphrases; 10 of all 12 are not enough.
    assert best_threshold(values, same) == pytest.approx((values[10] + values[11]) / 2)


def test_where_nothing_is_that_precise_the_most_precise_is_taken() -> None:
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    same = np.array([False, True, True, False, False, False])
    assert best_threshold(values, same) == pytest.approx(0.65)


def test_equal_values_are_taken_together() -> None:
    values = np.array([0.9, 0.8, 0.8, 0.1])
    same = np.array([True, True, False, False])
    assert best_threshold(values, same) == pytest.approx(0.85)


def test_what_it_is_worth_is_told_of_halves_it_was_not_chosen_on() -> None:
    draw = np.random.default_rng(3)
    same, other = draw.normal(0.8, 0.1, 60).tolist(), draw.normal(0.7, 0.1, 120).tolist()
    found = calibrate(labelled(same, other[:60], other[60:]))
    assert found.precision_interval[0] <= found.precision <= found.precision_interval[1]
    assert found.recall_interval[0] <= found.recall <= found.recall_interval[1]
    assert calibrate(labelled(same, other[:60], other[60:])) == found


def test_one_label_alone_gives_none() -> None:
    with pytest.raises(ValueError, match="needs paraphrases and other pairs"):
        calibrate(labelled([0.9, 0.8], [], []))
