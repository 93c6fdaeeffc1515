"""Trainings that differ in their seed alone, side by side: each one's last evaluation, their mean and their spread.

Invariant: what is compared is measured alike; a training that was not measured is listed, and is in no mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tui.console import say, say_table

FIGURES = ("loss", "accuracy", "margin")
"""Of an evaluation; the last two of pairs alone."""


def over_seeds(trainings: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kind of training the last evaluation of each seed, and of every figure mean, spread and number.

    `trainings` are facts as `tui.trainingview.training_facts` gives them. The spread is the standard deviation of a
    sample; None of fewer than two.
    """
    return {kind: _of_kind([each for each in trainings if each["kind"] == kind]) for kind in _kinds(trainings)}


def say_over_seeds(found: Mapping[str, Mapping[str, Any]]) -> None:
    """The same for a person."""
    for kind, lines in found.items():
        say(f"\n{kind} over {len(lines['seeds'])} seeds, by the last evaluation of each:")
        rows = [
            (line["seed"], line["training"][:8], line["state"], _cell(line["step"]), *(_cell(line[f]) for f in FIGURES))
            for line in lines["seeds"]
        ]
        for what in ("mean", "spread"):
            rows.append((what, "", "", "", *(_cell(lines["figures"][figure][what]) for figure in FIGURES)))
        say_table(("seed", "training", "state", "step", *FIGURES), rows, right=("step", *FIGURES))
        if not any(lines["figures"][figure]["of"] for figure in FIGURES):
            say("nobody was held back to measure on: evaluation.share is 0")


def _kinds(trainings: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(each["kind"] for each in trainings))


def _of_kind(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    lines = [_line(each) for each in trainings]
    return {"seeds": lines, "figures": {figure: _spread([line[figure] for line in lines]) for figure in FIGURES}}


def _line(training: Mapping[str, Any]) -> dict[str, Any]:
    measured = [point for point in training["points"] if point["kind"] == "evaluation"]
    last = measured[-1] if measured else {}
    return {
        "seed": training["configuration"]["seed"],
        "training": training["training"],
        "adapter": training["adapter"],
        "state": training["state"],
        "step": last.get("step"),
        **{figure: last.get(figure) for figure in FIGURES},
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | int | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "spread": stdev(known) if len(known) > 1 else None,
        "of": len(known),
    }


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4g}"
