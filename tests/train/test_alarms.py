"""Alarms: what points have to look like for a person to be told, and that healthy ones are left alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from train.alarms import STRETCH, Watch, alarms
from train.points import Point, Preferences

HEALTHY = Preferences(
    margin=0.0,
    accuracy=0.8,
    chosen_reward=0.0,
    rejected_reward=0.0,
    longer=4,
    longer_right=3,
    shorter=4,
    shorter_right=3,
)


def training(count: int = 40) -> list[Point]:
    """A preference training that goes well: the margin grows, chosen replies gain."""
    return [
        Point(
            step=step,
            epoch=step / count,
            kind="training",
            loss=0.69 - 0.01 * step,
            grad_norm=1.0,
            preferences=replace(HEALTHY, margin=0.1 * step, chosen_reward=0.05 * step, rejected_reward=-0.05 * step),
        )
        for step in range(1, count + 1)
    ]


def with_preferences(points: list[Point], **changes: list[float]) -> list[Point]:
    found = []
    for at, point in enumerate(points):
        assert point.preferences is not None
        given = {name: values[at] for name, values in changes.items()}
        found.append(replace(point, preferences=replace(point.preferences, **given)))
    return found


def kinds(points: list[Point]) -> list[str]:
    return [alarm.kind for alarm in alarms(points)]


def test_a_training_that_goes_well_raises_none() -> None:
    points = training()
    assert all(kinds(points[:count]) == [] for count in range(len(points) + 1))


def test_an_alarm_is_raised_once_however_often_the_training_is_taken_up_again() -> None:
    points = training()
    points = with_preferences(points, chosen_reward=[-0.05 * p.step for p in points])
    watch = Watch()
    told = [(alarm.kind, point.step) for point in points[:30] for alarm in watch.see(point)]
    assert told == [("chosen_falls", 2 * STRETCH)]
    again = Watch(points[:25], ["chosen_falls"])
    assert [alarm for point in points[25:] for alarm in again.see(point)] == []
    fresh = Watch(points[: 2 * STRETCH - 1])
    assert [alarm.kind for alarm in fresh.see(points[2 * STRETCH - 1])] == ["chosen_falls"], "on what was told before"


def test_what_ended_a_training_ends_it_again() -> None:
    watch = Watch(training()[:5], ["not_a_number"])
    assert watch.fatal is None
    (alarm,) = watch.see(replace(training()[5], loss=math.nan))
    assert alarm.fatal
    assert watch.fatal == alarm


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_is_fatal_and_named(number: float) -> None:
    points = training()
    (alarm,) = alarms([*points[:5], replace(points[5], grad_norm=number), *points[6:]])
    assert (alarm.kind, alarm.step, alarm.fatal) == ("not_a_number", 6, True)
    assert "gradient" in alarm.text
    assert alarms([replace(points[0], loss=number)])[0].fatal


def test_a_margin_that_grows_because_both_sides_fall() -> None:
    falling = [-0.2 * step for step in range(40)]
    points = with_preferences(training(), chosen_reward=falling)
    assert kinds(points) == ["chosen_falls"]
    assert kinds(points[: 2 * STRETCH - 1]) == [], "too little was seen"
    losing = with_preferences(points, margin=falling)
    assert kinds(losing) == [], "the margin does not grow: that is another matter"


def test_all_pairs_right_too_soon() -> None:
    assert kinds(with_preferences(training(100), accuracy=[1.0] * 100)) == ["too_easy"]
    late = [0.8] * 50 + [1.0] * 50
    assert kinds(with_preferences(training(100), accuracy=late)) == []


def test_right_only_where_the_chosen_reply_is_longer() -> None:
    points = with_preferences(training(), longer_right=[4] * 40, shorter_right=[1] * 40)
    (alarm,) = alarms(points)
    assert alarm.kind == "length"
    assert "100%" in alarm.text
    assert "25%" in alarm.text
    assert kinds(with_preferences(points, shorter=[0] * 40, shorter_right=[0] * 40)) == [], "nothing to compare with"


def test_a_held_back_loss_that_keeps_rising() -> None:
    points = training()
    rising = [Point(step, step / 40, "evaluation", 0.6 + step / 100) for step in (10, 20, 30, 40)]
    assert kinds([*points, *rising]) == ["overfits"]
    assert kinds([*points, *rising[:3]]) == []
    assert kinds([*points, *reversed(rising)]) == []
