"""How a benchmark's results are shown: as a document for programs, as a plot of text, as tables with intervals.

Invariant: whatever is shown to a person stands in the document too; a figure that is undefined is shown as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tui.console import say, say_table
from tui.sanitise import one_line

if TYPE_CHECKING:
    from simulation.benchmark import Result
    from simulation.metrics import Estimate, Summary
    from simulation.uptake import Reading
    from trees.store import Store

HEIGHT = 12
"""Lines of the plot."""
MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def document(store: Store, benchmark: tuple[str, str, str, int], judge: str, found: Sequence[Result]) -> dict[str, Any]:
    """Everything that is known of a benchmark by one judge."""
    from simulation.benchmark import notes_of, repetitions
    from simulation.metrics import summarise

    summaries = [summarise(result.table) for result in found]
    return {
        "benchmark": benchmark[0],
        "name": benchmark[1],
        "judge": judge,
        "turns": benchmark[3],
        "unit": next((result.unit for result in found if result.unit), ""),
        "models": [_entry(result, summary) for result, summary in zip(found, summaries, strict=True)],
        "gap_closed": _gaps(found),
        "comparisons": comparisons(found),
        "repetitions": [asdict(one) for one in repetitions(store, found)],
        "notes": notes_of(store, found),
    }


def _entry(result: Result, summary: Summary) -> dict[str, Any]:
    from simulation.metrics import noise_floor

    return {
        "model": result.model,
        "how": result.how,
        "lineage": result.lineage,
        "run": result.run_id,
        "state": result.state,
        "missing": dict(result.missing),
        "noise_floor": noise_floor(result.repeats),
        "equal_n": summary.equal_n,
        **asdict(summary),
        "situations": [_of_situation(name, part) for name, part in result.by_situation().items()],
    }


def _of_situation(name: str, part: Result) -> dict[str, Any]:
    """The figures of the cases of one situation, and what its change did, if something changes."""
    from simulation.metrics import recovery, summarise

    summary = summarise(part.table)
    changed = recovery(part.table, part.change) if part.change is not None else None
    return {
        "situation": name,
        "cases": summary.cases,
        "n": list(summary.n),
        "levels": [asdict(level) for level in summary.levels],
        "mean": asdict(summary.mean),
        "ir": asdict(summary.ir),
        "recovery": None if changed is None else {**asdict(changed), "fell": changed.fell},
    }


def _gaps(found: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """By model: its floor and ceiling, and the share of the gap between them that it closes."""
    from simulation.benchmark import gaps_of

    return {
        each.model: {"floor": each.floor, "ceiling": each.ceiling, "own_ceiling": each.own, **asdict(each.gap)}
        for each in gaps_of(found)
    }


def comparisons(found: Sequence[Result]) -> list[dict[str, Any]]:
    """Every two models; p-values are corrected for all tests made here together."""
    from simulation.metrics import compare, holm, in_words

    couples = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    made = [compare(a.table, b.table) for a, b in couples]
    held = holm([p for one in made for p in (one.p_mean, one.p_ir)])
    return [
        {
            "a": a.model,
            "b": b.model,
            **asdict(one),
            "held_mean": held[2 * i],
            "held_ir": held[2 * i + 1],
            "words": [
                in_words(a.model, b.model, one.mean, held[2 * i], "mean"),
                in_words(a.model, b.model, one.ir, held[2 * i + 1], "IR"),
            ],
        }
        for i, ((a, b), one) in enumerate(zip(couples, made, strict=True))
    ]


def say_benchmark(shown: dict[str, Any]) -> None:
    """A benchmark for a person: curves, table, comparisons, and what is missing."""
    models = shown["models"]
    unit = shown["unit"] or "nothing scored yet"
    say(f"benchmark {shown['benchmark'][:8]} {shown['name']!r}, judge {shown['judge']!r}, {unit}\n")
    if not any(value(level) is not None for model in models for level in model["levels"]):
        say("No reply is scored yet.")
        return
    say("\n".join(plot([(m["model"], [value(level) for level in m["levels"]]) for m in models])) + "\n")
    headings = ("model", "how", "lineage", "state", "cases", "mean", "IR", "R2", "N-IR")
    say_table(headings, [_row(model) for model in models])
    say("\nIn brackets: 95 % for new profiles and personalities. IR: units a turn. N-R2 is R2; N-IR discards size.")
    for model in models:
        _say_caveats(model, shown["turns"])
    for one in shown["repetitions"]:
        say(repetition_in_words(one))
    for note in shown["notes"]:
        say(f"note: {note}")
    if any(model["situations"] for model in models):
        _say_situations(models)
    if shown["gap_closed"]:
        say("\nShare of the gap from floor to ceiling that is closed, by turn and of the mean level:")
        say_table(
            ("model", "ceiling", *map(str, range(1, shown["turns"] + 1)), "mean"),
            [
                (
                    one_line(name, 30),
                    one_line(closed["ceiling"], 30),
                    *(number(share["value"]) for share in closed["turns"]),
                    bracketed(closed["mean"]),
                )
                for name, closed in shown["gap_closed"].items()
            ],
        )
    if shown["comparisons"]:
        say("")
        for one in shown["comparisons"]:
            say_comparison(one)


def _row(model: dict[str, Any]) -> tuple[object, ...]:
    figures = (bracketed(model[key]) for key in ("mean", "ir", "r2", "n_ir"))
    name = one_line(model["model"], 30)
    return (name, model["how"], model["lineage"], model["state"], model["cases"], *figures)


def _say_situations(models: Sequence[dict[str, Any]]) -> None:
    """AL by situation, and how long a model takes to be back after something changed."""
    say("\nBy situation:")
    parts = [(one_line(model["model"], 30), part) for model in models for part in model["situations"]]
    rows = [
        (name, one_line(part["situation"], 20), part["cases"], bracketed(part["mean"]), bracketed(part["ir"]))
        for name, part in parts
    ]
    say_table(("model", "situation", "cases", "mean", "IR"), rows)
    changed = [(name, part["situation"], part["recovery"]) for name, part in parts if part["recovery"] is not None]
    if changed:
        say("\nAfter a change, turns until AL is back, below what it was by no more than chance:")
        told = [
            (
                name,
                one_line(situation, 20),
                found["change"],
                bracketed(found["before"]),
                bracketed(found["fall"], sign=True),
                back_after(found),
            )
            for name, situation, found in changed
        ]
        say_table(("model", "situation", "at turn", "before", "then", "back after"), told)


def back_after(found: dict[str, Any]) -> str:
    """Turns until the level is back; a level that fell by no more than chance has nothing to come back from."""
    if found["fall"]["value"] is None:
        return "-"
    if not found["fell"]:
        return "no fall"
    return "not back" if found["turns"] is None else str(found["turns"])


def _say_caveats(model: dict[str, Any], turns: int) -> None:
    if not model["equal_n"]:
        counts = " ".join(map(str, model["n"]))
        say(f"{model['model']}: unequal n by turn ({counts}); {model['complete_cases']} cases have all {turns} turns:")
        say("  AL over those alone: " + " ".join(number(level) for level in model["complete_levels"]))
    for cause, count in model["missing"].items():
        say(f"{model['model']}: {count} replies without a score: {one_line(cause, 90)}")
    if model["noise_floor"] is not None:
        say(f"{model['model']}: asked again, the judge moves a reply's score by {model['noise_floor']:.3f} (sd)")


def repetition_in_words(one: Mapping[str, Any]) -> str:
    """What a model's figures move by when its conversations are played again."""
    return (
        f"{' and '.join(one['models'])} are the same model: played again, a case's mean moves by {one['sd']:.3f} (sd), "
        f"so by chance two means over {one['cases']} cases differ by {one['of_difference']:.3f} (sd)"
    )


def say_comparison(one: dict[str, Any]) -> None:
    """Two models as two lines that claim no more than there is."""
    say(f"{one['a']} less {one['b']}, over {one['cases']} cases and {one['cells']} replies each:")
    for key, label, words in (("mean", "mean", one["words"][0]), ("ir", "IR  ", one["words"][1])):
        p = one[f"held_{key}"]
        say(f"  {label} {bracketed(one[key], sign=True)}  p {'-' if p is None else f'{p:.4f}'} (Holm)  {words}")


def say_readings(readings: Mapping[str, Reading], turns: int) -> None:
    """Leaks, beside what is chance of them, and uptake of each model by turn, as shares."""
    heads = ("model", *map(str, range(1, turns + 1)))
    say("Replies that use a fact nobody has mentioned, and in how many somebody else's would be met (expected):")
    rows: list[tuple[object, ...]] = []
    for model, reading in readings.items():
        above = bracketed(asdict(reading.above_chance), sign=True)
        rows.append((one_line(model, 30), *(number(rate.value) for rate in reading.leaks), above))
        rows.append(("  expected", *(number(share) for share in reading.expected), ""))
    say_table((*heads, "above expected"), rows)
    say("Replies that come back to an earlier fact:")
    say_table(
        heads,
        [(one_line(model, 30), *(number(rate.value) for rate in each.uptake)) for model, each in readings.items()],
    )


def curves_so_far(store: Store, benchmark_id: str, judge: str, turns: int, measured: str) -> list[str]:
    """While models are measured: AL by turn of the one that plays now, in a line, and the plot of all so far."""
    from simulation.benchmark import results
    from simulation.metrics import alignment_levels, values_of

    found = results(store, benchmark_id, judge, turns)
    curves = [(result.model, values_of(alignment_levels(result.table.scores))) for result in found]
    if not any(level is not None for _, curve in curves for level in curve):
        return ["AL: no reply is scored yet"]
    mine = next((curve for model, curve in curves if model == measured), ())
    return [f"{one_line(measured, 30)}, AL by turn: {' '.join(number(level) for level in mine)}", *plot(curves)]


def plot(curves: Sequence[tuple[str, Sequence[float | None]]]) -> list[str]:
    """AL by turn, a letter a model; where models meet, a star."""
    known = [level for _, curve in curves for level in curve if level is not None]
    low, high = min(known), max(known)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    turns = max(len(curve) for _, curve in curves)
    grid = [[" "] * turns for _ in range(HEIGHT)]
    for mark, (_, curve) in zip(MARKS * (1 + len(curves) // len(MARKS)), curves, strict=False):
        for turn, level in enumerate(curve):
            if level is not None:
                line = HEIGHT - 1 - round((level - low) / (high - low) * (HEIGHT - 1))
                grid[line][turn] = mark if grid[line][turn] == " " else "*"
    lines = [
        f"{high - (high - low) * i / (HEIGHT - 1):7.3f} |" + "".join(f" {c} " for c in row)
        for i, row in enumerate(grid)
    ]
    lines.append(" " * 8 + "+" + "---" * turns)
    lines.append(" " * 9 + "".join(f"{turn:^3}" for turn in range(1, turns + 1)) + " turn")
    names = zip(MARKS * (1 + len(curves) // len(MARKS)), curves, strict=False)
    return [*lines, " " * 9 + "  ".join(f"{mark} {one_line(name, 30)}" for mark, (name, _) in names)]


def value(figure: dict[str, Any] | Estimate) -> float | None:
    found = figure["value"] if isinstance(figure, dict) else figure.value
    return None if found is None or not math.isfinite(found) else found


def bracketed(figure: dict[str, Any], *, sign: bool = False) -> str:
    """A figure with its interval, or what there is of them."""
    if figure["value"] is None:
        return "-"
    form = "+.3f" if sign else ".3f"
    if figure["low"] is None:
        return f"{figure['value']:{form}}"
    return f"{figure['value']:{form}} [{figure['low']:{form}}, {figure['high']:{form}}]"


def number(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
