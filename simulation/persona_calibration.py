"""The similarity from which on two profiles, or two personalities, are taken as one person told twice.

Data model: pairs of texts written by hand and labelled `paraphrase` (the same person in other words), `same_kind`
(alike in job, age or temper, and somebody else) or `different`; the cosine similarity that an embedder gives each; a
threshold that calls pairs at or above it duplicates. Only paraphrases are.

Invariant: precision and recall that are reported were measured on pairs that the threshold was not chosen on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trees.personas import Kind

Label = Literal["paraphrase", "same_kind", "different"]

BETA = 0.5
"""Precision counts twice as much as recall: a person wrongly left out is lost, a duplicate kept can be found later."""
SPLITS = 400
_SEED = 2410_03642


@dataclass(frozen=True, slots=True)
class LabelledPair:
    a: str
    b: str
    label: Label


@dataclass(frozen=True, slots=True)
class Share:
    """A proportion on pairs held back, with its 95 % bootstrap interval over pairs and splits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was calibrated, and how far it can be trusted."""

    threshold: float
    """Pairs at or above it are duplicates. Chosen on all pairs, half-way between the two scores that it separates."""
    beta: float
    f_beta: float
    """On the pairs it was chosen on, so flattering: for comparing embedders, not for promising anything."""
    precision: Share
    """Of the pairs called duplicates, those that are; held back."""
    recall: Share
    """Of the duplicates, those called so; held back."""
    left_out: float
    """F-beta with each pair judged by the threshold that all other pairs choose."""
    kept_same_kind: Share
    """Of pairs of the same kind but of two people, those that the filter keeps; held back."""
    spread: tuple[float, float]
    """The thresholds that halves of the pairs choose: the 2.5th and the 97.5th percentile."""
    pairs: int


@cache
def labelled_pairs(kind: Kind) -> tuple[LabelledPair, ...]:
    """The pairs shipped for a kind; each first text stands in pairs of every label."""
    name = "persona_pairs_profiles.jsonl" if kind == "profile" else "persona_pairs_personalities.jsonl"
    lines = (resources.files("simulation") / "data" / name).read_text(encoding="utf-8").splitlines()
    return tuple(LabelledPair(**json.loads(line)) for line in lines)


def calibrate(similarities: Sequence[tuple[float, Label]], *, beta: float = BETA) -> Calibration:
    """The threshold with the highest F-beta of `paraphrase` against both other labels, and what it is worth.

    F-beta = (1 + beta^2) P R / (beta^2 P + R) (van Rijsbergen 1979). Similarities are cosines, in [-1, 1]. Held-back
    figures come from SPLITS random halves, each label split evenly: one half chooses, the other is measured; the
    interval draws the measured half again with replacement. Deterministic.

    Raises ValueError if a similarity is not finite, or a half would lack duplicates or others (fewer than two each).
    """
    scores = np.array([score for score, _ in similarities], dtype=np.float64)
    labels = np.array([label for _, label in similarities], dtype=np.str_)
    _require_enough(scores, labels)
    duplicate = labels == "paraphrase"
    threshold = _best_threshold(scores, duplicate, beta)
    halves = _held_back(scores, labels, beta)
    return Calibration(
        threshold=threshold,
        beta=beta,
        f_beta=_f_beta(*_precision_and_recall(scores >= threshold, duplicate), beta),
        precision=_share(halves.precision),
        recall=_share(halves.recall),
        left_out=_leave_one_out(scores, duplicate, beta),
        kept_same_kind=_share(halves.kept),
        spread=(float(np.quantile(halves.thresholds, 0.025)), float(np.quantile(halves.thresholds, 0.975))),
        pairs=len(scores),
    )


@dataclass(frozen=True, slots=True)
class _HeldBack:
    """One row a split. Shares have two columns: as measured, and measured on the half drawn again."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    kept: NDArray[np.float64]


def _require_enough(scores: NDArray[np.float64], labels: NDArray[np.str_]) -> None:
    unknown = sorted(set(labels.tolist()) - set(get_args(Label)))
    if unknown:
        raise ValueError(f"labels are {', '.join(get_args(Label))}, not {unknown[0]!r}")
    if not np.isfinite(scores).all():
        raise ValueError(f"a similarity is {scores[~np.isfinite(scores)][0]}, not a finite number")
    duplicates = int((labels == "paraphrase").sum())
    if duplicates < 2 or len(labels) - duplicates < 2:
        raise ValueError(f"{duplicates} paraphrases and {len(labels) - duplicates} other pairs: at least 2 of each")


def _best_threshold(scores: NDArray[np.float64], duplicate: NDArray[np.bool_], beta: float) -> float:
    """Half-way under the lowest score that is called a duplicate at the best F-beta; of equals the highest."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(duplicate[order])
    called = np.arange(1, len(scores) + 1)
    precision, recall = hits / called, hits / duplicate.sum()
    weight = beta * beta
    f_beta = np.divide(
        (1 + weight) * precision * recall, weight * precision + recall, out=np.zeros(len(scores)), where=hits > 0
    )
    ends = np.append(ranked[1:] < ranked[:-1], True)
    best = int(np.argmax(np.where(ends, f_beta, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best]
    return float((ranked[best] + below) / 2)


def _precision_and_recall(called: NDArray[np.bool_], duplicate: NDArray[np.bool_]) -> tuple[float, float]:
    """A filter that calls nothing makes no wrong call: its precision is 1, its recall 0."""
    hits = float((called & duplicate).sum())
    return (hits / float(called.sum()) if called.any() else 1.0), hits / float(duplicate.sum())


def _f_beta(precision: float, recall: float, beta: float) -> float:
    weight = beta * beta
    return (1 + weight) * precision * recall / (weight * precision + recall) if precision and recall else 0.0


def _held_back(scores: NDArray[np.float64], labels: NDArray[np.str_], beta: float) -> _HeldBack:
    rng = np.random.default_rng(_SEED)
    duplicate, same_kind = labels == "paraphrase", labels == "same_kind"
    thresholds: list[float] = []
    shares: list[tuple[tuple[float, float, float], tuple[float, float, float]]] = []
    for _ in range(SPLITS):
        chosen, measured = _halves(labels, rng)
        threshold = _best_threshold(scores[chosen], duplicate[chosen], beta)
        again = _drawn_again(measured, duplicate, rng)
        thresholds.append(threshold)
        shares.append(
            (
                _shares(scores[measured] >= threshold, duplicate[measured], same_kind[measured]),
                _shares(scores[again] >= threshold, duplicate[again], same_kind[again]),
            )
        )
    table = np.array(shares, dtype=np.float64)
    return _HeldBack(np.array(thresholds), table[:, :, 0], table[:, :, 1], table[:, :, 2])


def _halves(labels: NDArray[np.str_], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two halves, each label split evenly; an odd one goes to either by chance."""
    first: list[NDArray[np.intp]] = []
    second: list[NDArray[np.intp]] = []
    groups = (labels == "paraphrase", labels == "same_kind", labels == "different")
    for group in groups:
        places = rng.permutation(np.flatnonzero(group))
        middle = (len(places) + int(rng.integers(2))) // 2
        first.append(places[:middle])
        second.append(places[middle:])
    return np.concatenate(first), np.concatenate(second)


def _drawn_again(places: NDArray[np.intp], duplicate: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.intp]:
    """A bootstrap sample with as many duplicates as there were: without any there is no recall."""
    groups = (places[duplicate[places]], places[~duplicate[places]])
    return np.concatenate([rng.choice(group, len(group)) for group in groups])


def _shares(
    called: NDArray[np.bool_], duplicate: NDArray[np.bool_], same_kind: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Precision, recall, and the share of pairs of one kind that are kept (1 where there is none)."""
    precision, recall = _precision_and_recall(called, duplicate)
    kept = float((~called & same_kind).sum() / same_kind.sum()) if same_kind.any() else 1.0
    return precision, recall, kept


def _share(table: NDArray[np.float64]) -> Share:
    measured, again = table[:, 0], table[:, 1]
    return Share(float(measured.mean()), float(np.quantile(again, 0.025)), float(np.quantile(again, 0.975)))


def _leave_one_out(scores: NDArray[np.float64], duplicate: NDArray[np.bool_], beta: float) -> float:
    called = np.zeros(len(scores), dtype=np.bool_)
    for place in range(len(scores)):
        others = np.arange(len(scores)) != place
        called[place] = scores[place] >= _best_threshold(scores[others], duplicate[others], beta)
    return _f_beta(*_precision_and_recall(called, duplicate), beta)
