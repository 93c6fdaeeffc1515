"""From which similarity on two items say the same: measured on labelled pairs, for one embedder.

Pairs ship with the project: *paraphrase* (the same person in other words), *same kind* (another person with the same
work, age or family) and *different*. The threshold is the lowest one above which nine of ten pairs are paraphrases: a
filter that takes two people for one costs variety, and no encoder finds all that is said in other words. What it is
worth is measured on halves that it was not chosen on.

Invariant: the same similarities and labels give the same calibration; nothing is drawn without a fixed seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trees.personas import Kind

Label = Literal["paraphrase", "same_kind", "different"]
FILES: dict[Kind, str] = {
    "profile": "persona_pairs_profiles.jsonl",
    "personality": "persona_pairs_personalities.jsonl",
}
LEAST_PRECISION = 0.9
"""Of the pairs at or above a threshold, the share that has to be paraphrases."""
LEAST_RECALL = 0.8
"""Of the paraphrases, the share that the guard of held-out items is to find where that does not cost too much."""
WARNED_BELOW = 0.5
"""Of the paraphrases found; fewer are pointed out."""
OTHERS: tuple[Label, ...] = ("same_kind", "different")
HALVES = 200
"""Random halvings over which precision and recall are taken."""


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two texts, and whether they tell of the same person."""

    a: str
    b: str
    label: Label


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold and what it is worth. Intervals hold 95 % of the halvings."""

    threshold: float
    precision: float
    """Of the pairs at or above it, the share that are paraphrases, on halves held back."""
    precision_interval: tuple[float, float]
    recall: float
    """Of the paraphrases, the share at or above it, on halves held back."""
    recall_interval: tuple[float, float]
    same_kind_above: float
    """Share of the pairs of the same kind at or above it: false alarms."""
    different_above: float
    pairs: int
    similarities: Mapping[str, tuple[float, ...]]
    """Of all pairs by label, so that what any other threshold would find can be told."""

    def as_dict(self) -> dict[str, Any]:
        """Everything but the threshold, for the store."""
        return {name: value for name, value in asdict(self).items() if name != "threshold"}


@dataclass(frozen=True, slots=True)
class Found:
    """Which of the labelled pairs a threshold takes for the same, of how many."""

    paraphrases: tuple[int, int]
    same_kind: tuple[int, int]
    different: tuple[int, int]

    @property
    def recall(self) -> float:
        found, of = self.paraphrases
        return found / of if of else 0.0


def found_at(measured: Mapping[str, Any], threshold: float) -> Found | None:
    """What a threshold finds of the pairs that were measured; None where none were."""
    by_label = measured.get("similarities")
    if not by_label:
        return None
    counts = [(sum(v >= threshold for v in by_label[label]), len(by_label[label])) for label in ("paraphrase", *OTHERS)]
    return Found(*counts)


def recalling(measured: Mapping[str, Any]) -> float | None:
    """The highest threshold that finds LEAST_RECALL of the measured paraphrases; None where none were measured."""
    found = sorted((measured.get("similarities") or {}).get("paraphrase", ()), reverse=True)
    return found[max(0, math.ceil(LEAST_RECALL * len(found)) - 1)] if found else None


@cache
def labelled_pairs(kind: Kind) -> tuple[LabelledPair, ...]:
    """The shipped pairs of a kind."""
    text = (resources.files("simulation") / "data" / FILES[kind]).read_text(encoding="utf-8")
    return tuple(LabelledPair(**json.loads(line)) for line in text.splitlines() if line.strip())


def calibrate(measured: Sequence[tuple[float, Label]]) -> Calibration:
    """The threshold for these similarities. Raises ValueError without a paraphrase and another pair."""
    values = np.array([similarity for similarity, _ in measured])
    labels = np.array([label for _, label in measured])
    same = labels == "paraphrase"
    if not same.any() or same.all():
        raise ValueError("a threshold needs paraphrases and other pairs")
    threshold = best_threshold(values, same)
    precisions, recalls = _held_back(values, same)
    return Calibration(
        threshold=threshold,
        precision=float(np.mean(precisions)),
        precision_interval=_interval(precisions),
        recall=float(np.mean(recalls)),
        recall_interval=_interval(recalls),
        same_kind_above=_share_above(values[labels == "same_kind"], threshold),
        different_above=_share_above(values[labels == "different"], threshold),
        pairs=len(measured),
        similarities={
            label: tuple(sorted(round(float(v), 6) for v in values[labels == label]))
            for label in ("paraphrase", *OTHERS)
        },
    )


def best_threshold(values: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The lowest threshold of enough precision, in the gap below the last value it lets through.

    Where none has it, the lowest of those with the highest precision there is.
    """
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], np.cumsum(same[order])
    precision = hits / np.arange(1, len(ranked) + 1)
    # Equal values are taken together, so a cut may only lie where the next one is smaller.
    cuttable = np.append(ranked[:-1] > ranked[1:], True) & (hits > 0)
    wanted = min(LEAST_PRECISION, float(precision[cuttable].max()))
    last = int(np.flatnonzero(cuttable & (precision >= wanted))[-1])
    below = ranked[last + 1] if last + 1 < len(ranked) else ranked[last]
    return float(min(1.0, (ranked[last] + below) / 2))


def _held_back(values: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall on one half at the threshold of the other, over random halvings with both labels in each."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(HALVES):
        chosen = np.zeros(len(values), dtype=bool)
        for label in (True, False):
            members = np.flatnonzero(same == label)
            chosen[draw.permutation(members)[: max(1, len(members) // 2)]] = True
        for half, other in ((chosen, ~chosen), (~chosen, chosen)):
            if same[half].any() and same[other].any():
                found.append(_worth(values[other], same[other], best_threshold(values[half], same[half])))
    if not found:
        found = [_worth(values, same, best_threshold(values, same))]
    rows = np.array(found)
    return rows[:, 0], rows[:, 1]


def _worth(values: NDArray[np.float64], same: NDArray[np.bool_], threshold: float) -> tuple[float, float]:
    above = values >= threshold
    hits = int((above & same).sum())
    return (hits / int(above.sum()) if above.any() else 1.0), hits / int(same.sum())


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _share_above(values: NDArray[np.float64], threshold: float) -> float:
    return float((values >= threshold).mean()) if len(values) else 0.0
