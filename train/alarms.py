"""Alarms: what the points of a training say is going wrong, in words. Pure functions over points, and an
object that remembers what was said.

Invariant: the same points give the same alarms; each kind is raised once, at the first point that shows it, however
often the training is taken up again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import fmean

from train.points import Alarm, Point, Preferences

LEAST_FALL = 0.05
"""Of the reward of chosen replies, in nats times beta, that is worth a word."""
STRETCH = 10
"""Points that are compared: the last so many against the first so many."""
PAIRS_OF_A_LENGTH = 20
"""Pairs of either kind that the question of length needs."""
LENGTH_GAP = 0.35
FATAL = frozenset({"not_a_number"})
EARLY = 0.25
"""Passes over the data."""


def alarms(points: Sequence[Point]) -> list[Alarm]:
    """All alarms that these points raise, in the order of the checks."""
    raised = (check(points) for check in CHECKS)
    return [alarm for alarm in raised if alarm is not None]


class Watch:
    """The points of one training as they come, and each kind of alarm when it is first due."""

    def __init__(self, points: Iterable[Point] = (), raised: Iterable[str] = ()) -> None:
        """`points` and the kinds that were `raised` are of before, where a training is gone on with.

        A fatal kind may be raised again: what it ended was not kept.
        """
        self._points, self._raised = list(points), set(raised) - FATAL
        self.fatal: Alarm | None = None
        """What the training cannot go on after."""

    def see(self, point: Point) -> list[Alarm]:
        """What this point raises."""
        self._points.append(point)
        new = [alarm for alarm in alarms(self._points) if alarm.kind not in self._raised]
        self._raised |= {alarm.kind for alarm in new}
        self.fatal = next((alarm for alarm in new if alarm.fatal), self.fatal)
        return new


def not_a_number(points: Sequence[Point]) -> Alarm | None:
    """Loss or gradient is NaN or infinite: nothing that follows means anything."""
    for point in points:
        numbers = {"loss": point.loss, "gradient": point.grad_norm or 0.0}
        wrong = [name for name, number in numbers.items() if not math.isfinite(number)]
        if wrong:
            text = f"the {wrong[0]} is {numbers[wrong[0]]} at step {point.step}: lower the learning rate"
            return Alarm("not_a_number", point.step, text, fatal=True)
    return None


def chosen_falls(points: Sequence[Point]) -> Alarm | None:
    """The margin grows because rejected replies fall faster than chosen ones: both become less likely."""
    seen = _preferences(points)
    if len(seen) < 2 * STRETCH:
        return None
    first, last = [p for _, p in seen[:STRETCH]], [p for _, p in seen[-STRETCH:]]
    margin = _mean(last, "margin") - _mean(first, "margin")
    chosen = _mean(last, "chosen_reward") - _mean(first, "chosen_reward")
    if margin <= 0 or chosen >= -max(0.1 * margin, LEAST_FALL) or _mean(last, "chosen_reward") >= 0:
        return None
    text = (
        f"the margin grew by {margin:.2f} while the reward of chosen replies fell by {-chosen:.2f}: the model "
        "unlearns both sides. Raise beta, lower the learning rate, or give the chosen replies some sft_weight"
    )
    return Alarm("chosen_falls", seen[-1][0].step, text)


def too_easy(points: Sequence[Point]) -> Alarm | None:
    """Every pair is right before much was seen: something gives the chosen side away."""
    seen = _preferences(points)
    for at in range(STRETCH, len(seen) + 1):
        point = seen[at - 1][0]
        if point.epoch > EARLY:
            return None
        if all(each.accuracy == 1.0 for _, each in seen[at - STRETCH : at]):
            text = (
                f"all pairs of the last {STRETCH} points are right after {point.epoch:.2f} of the data: what tells "
                "chosen from rejected may be a giveaway (an opening, a length, a model's manner)"
            )
            return Alarm("too_easy", point.step, text)
    return None


def length(points: Sequence[Point]) -> Alarm | None:
    """Pairs are right where the chosen reply is the longer (or the shorter) one, and wrong where it is not."""
    seen = _preferences(points)[-STRETCH:]
    longer, shorter = sum(p.longer for _, p in seen), sum(p.shorter for _, p in seen)
    if len(seen) < STRETCH or min(longer, shorter) < PAIRS_OF_A_LENGTH:
        return None
    if_longer = sum(p.longer_right for _, p in seen) / longer
    if_shorter = sum(p.shorter_right for _, p in seen) / shorter
    if abs(if_longer - if_shorter) < LENGTH_GAP:
        return None
    text = (
        f"{if_longer:.0%} of the pairs are right where the chosen reply is the longer one, {if_shorter:.0%} where it "
        "is the shorter: the model learns length. Take sigmoid_norm, or balance the pairs"
    )
    return Alarm("length", seen[-1][0].step, text)


def overfits(points: Sequence[Point]) -> Alarm | None:
    """The loss on what was held back rises three times in a row while the training loss falls."""
    measured = [point for point in points if point.kind == "evaluation"][-4:]
    trained = [point.loss for point in points if point.kind == "training"]
    if len(measured) < 4 or len(trained) < 2 * STRETCH:
        return None
    if not all(after.loss > before.loss for before, after in pairwise(measured)):
        return None
    if fmean(trained[-STRETCH:]) >= fmean(trained[-2 * STRETCH : -STRETCH]):
        return None
    text = (
        f"the loss on what was held back rose from {measured[0].loss:.4f} to {measured[-1].loss:.4f} while the "
        "training loss fell: stop earlier, or set evaluation.patience"
    )
    return Alarm("overfits", measured[-1].step, text)


CHECKS: tuple[Callable[[Sequence[Point]], Alarm | None], ...] = (
    not_a_number,
    chosen_falls,
    too_easy,
    length,
    overfits,
)


def _preferences(points: Sequence[Point]) -> list[tuple[Point, Preferences]]:
    """The training points that saw pairs."""
    return [(p, p.preferences) for p in points if p.kind == "training" and p.preferences is not None]


def _mean(seen: Sequence[Preferences], name: str) -> float:
    return fmean(getattr(each, name) for each in seen)
