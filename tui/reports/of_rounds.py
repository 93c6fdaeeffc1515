"""The report on rounds: whether models get better from round to round, what each step came to, and what is kept.

`facts` are those of `espalier rounds show` with those of the benchmarks that measured them; `report` puts them into
sections.

Invariant: a round is called a gain only where its own comparison says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trees.store import Store
from tui.benchview import bracketed, document
from tui.console import duration
from tui.reports.blocks import Block, Code, Facts, Folded, Picture, Report, Section, Table, Words
from tui.reports.of_bench import curves_of, notes_in
from tui.reports.plots import Curve, Lines, Point
from tui.rounds import shown_words
from tui.roundsview import rounds_facts

if TYPE_CHECKING:
    from trees.rounds import RoundsRow


def facts(store: Store, row: RoundsRow) -> dict[str, Any]:
    """Everything that is reported of rounds."""
    found = rounds_facts(store, row)
    return {**found, "benchmarks": [_document(store, made) for made in measured_by(store, found)]}


def measured_by(store: Store, found: Mapping[str, Any]) -> list[str]:
    """The benchmarks that measured rounds and are in the store, each once."""
    made = dict.fromkeys(step["made"] for step in _measured(found) if step["made"])
    return [each for each in made if store.rows("SELECT 1 FROM benchmarks WHERE id = ?", (each,))]


def _document(store: Store, benchmark_id: str) -> dict[str, Any]:
    from simulation.benchmark import find_benchmark, results

    benchmark = find_benchmark(store, benchmark_id)
    return document(store, benchmark, benchmark[2], results(store, benchmark[0], benchmark[2], benchmark[3]))


def report(found: Mapping[str, Any]) -> Report:
    """The facts in sections."""
    because = f": {found['reason'].splitlines()[0]}" if found["reason"] else ""
    sections = (
        Section("From round to round", tuple(_levels(found))),
        Section("Steps", tuple(_steps(found))),
        Section("What was learnt from", tuple(_learnt(found))),
        Section("What is kept", tuple(_kept(found))),
        Section("Configuration", (Folded("rounds", (Code(json.dumps(found["configuration"], indent=1)),)),)),
    )
    return Report(f"Rounds {found['rounds'][:8]} {found['name']!r}", f"{found['state']}{because}", sections)


def _measured(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [step for step in found["steps"] if step["kind"] == "benchmark" and step["state"] == "done"]


def _levels(found: Mapping[str, Any]) -> Iterator[Block]:
    measured = _measured(found)
    if not measured:
        yield Words("No round has been measured yet.", "quiet")
        return
    means = [(step["round"], step["figures"]["mean"]) for step in measured]
    points = tuple(Point(n, mean["value"], mean["low"], mean["high"]) for n, mean in means if mean["value"] is not None)
    plot = Lines("rounds", "Mean level by round", "round", "mean score", (Curve("mean", points),), whole_x=True)
    yield Picture(plot, "Round 0 is what there was before. With 95 % intervals for new people.")
    for each in found["benchmarks"]:
        plot = replace(curves_of(each), name=f"alignment-{each['benchmark'][:8]}")
        yield Picture(plot, "Every model that was measured, by turn, with 95 % intervals.")
        yield from notes_in(each)
    rows = [
        (str(step["round"]), bracketed(dict(step["figures"]["mean"])), _against(step["figures"])) for step in measured
    ]
    yield Table(("round", "mean", "in words"), tuple(rows), ("round",))


def _against(figures: Mapping[str, Any]) -> str:
    if "outcome" not in figures:
        return ""
    words = {"gain": "above", "loss": "below", "same": "not distinguishable from"}[figures["outcome"]]
    return f"{words} {figures['against']}, {bracketed(dict(figures['difference']), sign=True)}"


def _steps(found: Mapping[str, Any]) -> Iterator[Block]:
    rows = [
        (
            str(line["round"]),
            line["step"],
            line["standing"],
            "" if line["took_s"] is None else duration(line["took_s"]),
            (line["made"] or "")[:8],
            line["figure"],
        )
        for line in found["timeline"]
    ]
    yield Table(("round", "step", "", "took", "made", "came to"), tuple(rows), ("round", "took"))
    for step in found["steps"]:
        if step["state"] == "failed":
            yield Words(f"Round {step['round']}, {step['kind']} failed: {step['reason']}", "warn")
            yield Code(shown_words(step["words"]))
        for warning in step["figures"].get("warnings", ()) if step["kind"] == "lint" else ():
            yield Words(f"Round {step['round']}, data: {warning}", "quiet")
    if made := [step["made"] for step in found["steps"] if step["made"]]:
        commands = "\n".join(f"espalier report {name[:8]}" for name in dict.fromkeys(made))
        yield Folded("Reports on what the steps made", (Code(commands),))


def _learnt(found: Mapping[str, Any]) -> Iterator[Block]:
    """What of the store each round trained on, and what its trainings came to."""
    done = [step for step in found["steps"] if step["state"] == "done"]
    data = [step for step in done if step["kind"] == "lint"]
    trained = [step for step in done if step["kind"] in ("sft", "dpo")]
    if not data and not trained:
        yield Words("Nothing has been trained yet.", "quiet")
    if data:
        heads = ("round", "targets", "pairs", "people", "warnings")
        counts = [(str(s["round"]), *(str(s["figures"][key]) for key in heads[1:4])) for s in data]
        warned = [str(len(step["figures"]["warnings"])) for step in data]
        yield Table(heads, tuple((*row, number) for row, number in zip(counts, warned, strict=True)), heads)
    if trained:
        rows = [(str(s["round"]), s["kind"], str(s["figures"]["steps"]), _loss(s["figures"])) for s in trained]
        yield Table(("round", "training", "steps", "loss"), tuple(rows), ("round", "steps", "loss"))


def _loss(figures: Mapping[str, Any]) -> str:
    return "none" if figures["loss"] is None else f"{figures['loss']:.4g}"


def _kept(found: Mapping[str, Any]) -> Iterator[Block]:
    best = found["best"]
    if best is None:
        yield Words("No round is above what was there before.", "quiet")
        return
    yield Facts((("best", f"round {best['round']}, {best['model']}"), ("adapter", best["adapter"])))
    yield Code(f"espalier train export {best['adapter'][:8]} OUT")
