"""How well a simulated user's drift is found: precision and recall, by label and of any drift, on two halves.

80 hand-written cases each in tests/fixtures/drift: `dev` was read while the detectors were written,
`heldout` was not. A case counts as found under its own label only if it was given that label; "any" asks
only whether it was called drift. Intervals are 95 % Wilson. Beside it two baselines on the same cases: a
message is drift if it is longer than a threshold (the best one on dev), and no message ever is. Times are
of messages of 60 words after 10 lines.

    python benchmarks/drift.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import Bar, finish, say

from agents.cleaning import clean_message
from agents.drift import find_drift
from trees.statistics import Rate

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "drift"
LABELS = ("empty", "echo", "persona_dump", "role_flip", "restart")
REPEATS = 50


@dataclass(frozen=True)
class Case:
    """A message, what came before it, and what it is: a label of `LABELS` or `ok`."""

    label: str
    message: str
    history: tuple[tuple[str, str], ...]
    facts: tuple[str, ...]


Finder = Callable[[Case], str]


def load(half: str) -> list[Case]:
    lines = (FIXTURES / f"{half}.jsonl").read_text(encoding="utf-8").splitlines()
    return [case_of(json.loads(line)) for line in lines]


def case_of(row: dict[str, Any]) -> Case:
    history = tuple((said["speaker"], said["text"]) for said in row["history"])
    return Case(row["label"], row["message"], history, tuple(row["facts"]))


def detectors(case: Case) -> str:
    return find_drift(case.message, case.history, case.facts) or "ok"


def length_threshold(dev: list[Case]) -> tuple[int, Finder]:
    """The number of words from which on a message is called drift, that gives the best F1 on dev."""

    def finder(words: int) -> Finder:
        return lambda case: "any" if len(case.message.split()) >= words else "ok"

    best = max(range(1, 80), key=lambda words: f1(dev, finder(words)))
    return best, finder(best)


def f1(cases: list[Case], find: Finder) -> float:
    precision, recall = any_drift(cases, find)
    return 2 * precision.count / (precision.of + recall.of)


def any_drift(cases: list[Case], find: Finder) -> tuple[Rate, Rate]:
    found = [case.label for case in cases if find(case) != "ok"]
    right = sum(label != "ok" for label in found)
    return Rate(right, len(found)), Rate(right, sum(case.label != "ok" for case in cases))


def of_label(cases: list[Case], find: Finder, label: str) -> tuple[Rate, Rate]:
    found = [case.label for case in cases if find(case) == label]
    right = found.count(label)
    return Rate(right, len(found)), Rate(right, sum(case.label == label for case in cases))


def figures_of(cases: list[Case], find: Finder, labels: tuple[str, ...]) -> dict[str, Any]:
    pairs = {"any": any_drift(cases, find), **{label: of_label(cases, find, label) for label in labels}}
    return {name: {"precision": told(p), "recall": told(r)} for name, (p, r) in pairs.items()}


def told(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    return {"count": rate.count, "of": rate.of, "value": rate.value, "95": [round(low, 4), round(high, 4)]}


def tell(name: str, figures: dict[str, Any]) -> None:
    say(f"\n{name}")
    for label, pair in figures.items():
        say(f"  {label:13} precision {in_words(pair['precision'])}   recall {in_words(pair['recall'])}")


def in_words(figure: dict[str, Any]) -> str:
    value = "  - " if figure["value"] is None else f"{figure['value']:.2f}"
    return f"{value} ({figure['count']:2}/{figure['of']:2}) [{figure['95'][0]:.2f}, {figure['95'][1]:.2f}]"


def cleaning() -> dict[str, Any]:
    lines = (FIXTURES / "stage_directions.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    return told(Rate(sum(clean_message(case["message"]) == case["cleaned"] for case in cases), len(cases)))


def microseconds(dev: list[Case]) -> dict[str, float]:
    """How long a message of 60 words takes after 10 lines, all but the message seen before (as in a run)."""
    fine = [case for case in dev if case.label == "ok" and case.history]
    lines = [line for case in fine for line in case.history]
    taken = []
    for start in range(len(fine) - 8):
        words = " ".join(case.message for case in fine[start : start + 8]).split()[:60]
        history = lines[start : start + 10]
        taken.append(min(timed(f"{' '.join(words)} {n}", history, fine[start].facts) for n in range(REPEATS)))
    return {"median": round(median(taken), 1), "slowest": round(max(taken), 1)}


def timed(message: str, history: list[tuple[str, str]], facts: tuple[str, ...]) -> float:
    began = time.perf_counter()
    find_drift(message, history, facts)
    return (time.perf_counter() - began) * 1e6


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    halves = {half: load(half) for half in ("dev", "heldout")}
    threshold, by_length = length_threshold(halves["dev"])
    figures: dict[str, Any] = {"threshold_words": threshold, "cleaning": cleaning()}
    for half, cases in halves.items():
        figures[half] = {
            "detectors": figures_of(cases, detectors, LABELS),
            f"length of {threshold} words or more": figures_of(cases, by_length, ()),
            "always ok": figures_of(cases, lambda _: "ok", ()),
        }
        for name, found in figures[half].items():
            tell(f"{half}: {name}", found)
    figures["microseconds"] = microseconds(halves["dev"])
    held = figures["heldout"]["detectors"]["any"]
    bars = [
        Bar("heldout: precision of any drift", held["precision"]["value"] or 0.0, at_least=0.9),
        Bar("heldout: recall of any drift", held["recall"]["value"], at_least=0.8),
        Bar("stage directions cleaned as labelled", figures["cleaning"]["value"], at_least=37 / 40),
        Bar("microseconds a message, median", figures["microseconds"]["median"], at_most=200),
    ]
    return finish("drift", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
