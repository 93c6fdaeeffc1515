"""The report on a benchmark: curves with intervals, the gap, comparisons in words, what replies know, who said what.

`facts` asks the store, `report` puts the answers into sections; programs get the facts as they are.

Invariant: no model is called better unless p and interval both say so; what is missing is counted beside what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from trees.statistics import Rate
from trees.store import Store
from tui.benchview import back_after, bracketed, document, number, repetition_in_words
from tui.console import count, duration
from tui.facts import rate
from tui.reports.blocks import Block, Code, Facts, Folded, Picture, Report, Section, Table, Words
from tui.reports.cases import case_facts, compared, conversation_of, ranked
from tui.reports.of_run import card, costs, people_map, people_of, what_it_is
from tui.reports.plots import Curve, Intervals, Lines, Measured, Point
from tui.sanitise import one_line

if TYPE_CHECKING:
    from simulation.benchmark import Result

SHOWN = 3
"""Conversations at either end."""
BASELINES = ("floor", "told")


def facts(store: Store, benchmark: tuple[str, str, str, int], judge: str, found: Sequence[Result]) -> dict[str, Any]:
    """Everything that is reported of a benchmark by one judge."""
    from simulation.uptake import read_run

    readings = {result.model: read_run(store, result.run_id, benchmark[3]) for result in found}
    return {
        **document(store, benchmark, judge, found),
        "readings": {
            model: {
                "leaks": [rate(r) for r in each.leaks],
                "expected": list(each.expected),
                "above_chance": asdict(each.above_chance),
                "uptake": [rate(r) for r in each.uptake],
            }
            for model, each in readings.items()
        },
        "conversations": _conversations(store, found),
        "cards": {result.model: card(store, store.run(result.run_id)) for result in found},
        "people": people_of(store, found[0].run_id) if found else None,
        "configuration": _configuration(store, found),
    }


def _configuration(store: Store, found: Sequence[Result]) -> str | None:
    """The file that makes the benchmark again, as it was when a model was last begun; None if that was not noted."""
    from simulation.benchmark import configuration_of
    from tui.app.form import toml_of

    noted = [written for result in found if (written := configuration_of(store, result.run_id)) is not None]
    if not noted:
        return None
    # A model whose measurement was laid over the file (an adapter, a round) stands in its own note alone.
    tested = {name: table for written in noted for name, table in written["tested"].items()}
    return toml_of({**noted[-1], "tested": tested, "models": {k: v for w in noted for k, v in w["models"].items()}})


def _conversations(store: Store, found: Sequence[Result]) -> dict[str, Any]:
    base, tried = compared(found)
    if tried is None:
        return {"base": None, "tried": None, "best": [], "worst": []}
    order = ranked(base, tried)
    shown = min(SHOWN, (len(order) + 1) // 2)
    sides = [tried] if base is None else [base, tried]
    best, worst = order[:shown], order[shown:][-shown:][::-1]
    return {
        "base": None if base is None else base.model,
        "tried": tried.model,
        "best": [case_facts(store, sides, case, value) for case, value in best],
        "worst": [case_facts(store, sides, case, value) for case, value in worst],
    }


# Plots: the app shows them too


def curves_of(found: Mapping[str, Any]) -> Lines:
    """AL by turn of every model, with intervals."""
    return Lines(
        "alignment",
        "Alignment level by turn",
        "turn",
        f"mean score, {found['unit'] or 'unscored'}",
        tuple(
            Curve(model["model"], _points(model["levels"]), quiet=model["how"] in BASELINES)
            for model in found["models"]
        ),
        whole_x=True,
        span=(1, found["turns"]),
    )


def _points(levels: Sequence[Mapping[str, Any]]) -> tuple[Point, ...]:
    return tuple(
        Point(turn, level["value"], level["low"], level["high"])
        for turn, level in enumerate(levels, 1)
        if level["value"] is not None
    )


def gap_of(found: Mapping[str, Any]) -> Lines | None:
    """The share of the gap between floor and ceiling that each model closes; None where no turn has a gap."""
    curves = tuple(Curve(model, _points(closed["turns"])) for model, closed in found["gap_closed"].items())
    if not any(curve.points for curve in curves):
        return None
    told = "share of the gap"
    return Lines(
        "gap",
        "Share of the gap from floor to ceiling",
        "turn",
        told,
        curves,
        whole_x=True,
        level=1.0,
        span=(1, found["turns"]),
    )


def _reading_plot(found: Mapping[str, Any], field: str, title: str) -> Lines:
    curves = []
    for model, reading in found["readings"].items():
        points = [
            Point(turn, share["value"], *share["interval"])
            for turn, share in enumerate(reading[field], 1)
            if share["value"] is not None
        ]
        curves.append(Curve(model, tuple(points)))
    return Lines(
        field, title, "turn", "share of replies", tuple(curves), whole_x=True, share=True, span=(1, found["turns"])
    )


def _differences(found: Mapping[str, Any], key: str, title: str, unit: str) -> Intervals | None:
    rows = tuple(
        Measured(f"{one['a']} - {one['b']}", one[key]["value"], one[key]["low"], one[key]["high"], _p(one, key))
        for one in found["comparisons"]
        if one[key]["value"] is not None
    )
    return Intervals(f"differences-{key}", title, unit, rows, share=False, level=0.0) if rows else None


def _p(one: Mapping[str, Any], key: str) -> str:
    p = one[f"held_{key}"]
    return "" if p is None else f"p {p:.4f} (Holm)"


# Sections


def report(found: Mapping[str, Any]) -> Report:
    """The facts in sections."""
    models = found["models"]
    states = ", ".join(f"{model['model']} {model['state']}" for model in models)
    about = f"{found['turns']} turns, judge {found['judge']!r}, {found['unit'] or 'nothing scored yet'}; {states}"
    sections = [
        Section("Alignment by turn", tuple(_levels(found))),
        Section("Comparisons", tuple(_comparisons(found))),
        *([Section("Situations", tuple(_situations(found)))] if any(m["situations"] for m in found["models"]) else []),
        Section("What replies know", tuple(_readings(found))),
        Section("Conversations", tuple(_talks(found))),
        Section("What is missing, and how it was measured", tuple(_measurement(found))),
        Section("To make it again, and what it cost", tuple(_again(found))),
    ]
    return Report(f"Benchmark {found['benchmark'][:8]} {found['name']!r}", about, tuple(sections))


def _levels(found: Mapping[str, Any]) -> Iterator[Block]:
    if not any(level["value"] is not None for model in found["models"] for level in model["levels"]):
        yield Words("No reply is scored yet.", "quiet")
        return
    yield Picture(curves_of(found), "Mean score of the replies at each turn, with 95 % intervals for new people.")
    if (gap := gap_of(found)) is not None:
        yield Picture(gap, "0 is the generic reply, 1 the model that is told everything about the person.")
        told = ("model", "its ceiling", "share of the gap, of the mean level")
        shares = [(m, closed["ceiling"], bracketed(closed["mean"])) for m, closed in found["gap_closed"].items()]
        yield Table(told, tuple(shares), told[2:])
    elif found["gap_closed"]:
        yield Words(
            "At no turn is the ceiling above the floor by more than chance, so there is no gap to close.", "quiet"
        )
    heads = ("model", "how", "lineage", "cases", "mean", "IR", "R2", "N-IR")
    rows = [
        (m["model"], m["how"], m["lineage"], str(m["cases"]), *(bracketed(m[k]) for k in ("mean", "ir", "r2", "n_ir")))
        for m in found["models"]
    ]
    yield Table(heads, tuple(rows), heads[3:])
    yield Words(
        "IR is the slope of the level, a turn; R2 how well a line tells it; N-IR the slope over the span, which "
        "discards its size. In brackets: 95 % intervals for new profiles and new personalities.",
        "quiet",
    )

    yield from notes_in(found)


def notes_in(found: Mapping[str, Any]) -> Iterator[Block]:
    """What one must know to read the figures."""
    for note in found["notes"]:
        yield Words(f"Note: {note}.", "warn")


def _comparisons(found: Mapping[str, Any]) -> Iterator[Block]:
    if not found["comparisons"]:
        yield Words("Two models make a comparison.", "quiet")
        return
    heads = ("models", "replies", "mean", "p", "in words", "IR", "p", "in words")
    rows = [
        (
            f"{one['a']} - {one['b']}",
            str(one["cells"]),
            bracketed(one["mean"], sign=True),
            _plain_p(one["held_mean"]),
            one["words"][0],
            bracketed(one["ir"], sign=True),
            _plain_p(one["held_ir"]),
            one["words"][1],
        )
        for one in found["comparisons"]
    ]
    for key, title, unit in (("mean", "Difference of means", found["unit"]), ("ir", "Difference of slopes", "a turn")):
        plot = _differences(found, key, title, unit or "")
        if plot is not None:
            yield Picture(plot, "Where the interval crosses the dashed line, the two are not distinguishable.")
    yield Table(heads, tuple(rows), ("replies", "mean", "p", "IR"))
    yield Words(
        "Over the replies that both models were scored on. p is of a sign-flip test, corrected (Holm) for all tests.",
        "quiet",
    )


def _situations(found: Mapping[str, Any]) -> Iterator[Block]:
    """A plot for each situation, and how long models take to be back after something changed."""
    parts = [(model, part) for model in found["models"] for part in model["situations"]]
    for name in dict.fromkeys(part["situation"] for _, part in parts):
        these = [(model, part) for model, part in parts if part["situation"] == name]
        curves = tuple(Curve(m["model"], _points(p["levels"]), quiet=m["how"] in BASELINES) for m, p in these)
        changes = {p["recovery"]["change"] for _, p in these if p["recovery"] is not None}
        yield Picture(
            Lines(
                f"situation-{_stem(name)}",
                f"Alignment level: {name}",
                "turn",
                f"mean score, {found['unit'] or 'unscored'}",
                curves,
                whole_x=True,
                span=(1, found["turns"]),
                events=tuple((float(turn), "something changes at this turn") for turn in sorted(changes)),
            )
        )
    heads = ("model", "situation", "cases", "mean", "IR")
    rows = [
        (model["model"], part["situation"], str(part["cases"]), bracketed(part["mean"]), bracketed(part["ir"]))
        for model, part in parts
    ]
    yield Table(heads, tuple(rows), heads[2:])
    changed = [(model["model"], part["situation"], part["recovery"]) for model, part in parts if part["recovery"]]
    if changed:
        yield Words("After a change, turns until the level is back, below what it was by no more than chance:")
        told = [
            (
                model,
                name,
                str(each["change"]),
                bracketed(each["before"]),
                bracketed(each["fall"], sign=True),
                back_after(each),
            )
            for model, name, each in changed
        ]
        yield Table(("model", "situation", "at turn", "before", "then", "back after"), tuple(told), ("at turn",))


def _stem(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:40] or "unnamed"


def _plain_p(p: float | None) -> str:
    return "-" if p is None else f"{p:.4f}"


def _readings(found: Mapping[str, Any]) -> Iterator[Block]:
    if not found["readings"]:
        yield Words("Nothing has been said yet.", "quiet")
        return
    yield Picture(
        _reading_plot(found, "uptake", "Replies that come back to an earlier fact"),
        "Of the replies before which a fact was noted. 95 % intervals.",
    )
    yield Picture(
        _reading_plot(found, "leaks", "Replies that use a fact nobody has mentioned"),
        "A model that was told nothing should hardly do it more often than it meets facts of other people by chance.",
    )
    heads = ("model", "came back to an earlier fact", "used a fact nobody mentioned", "expected", "above expected")
    rows = [
        (
            model,
            _in_all(each["uptake"]),
            _in_all(each["leaks"]),
            _expected(each),
            bracketed(each["above_chance"], sign=True),
        )
        for model, each in found["readings"].items()
    ]
    yield Table(heads, tuple(rows), heads[3:])
    yield Words(
        "Expected: the share of replies in which a fact of another person, whom nobody told of, is met.", "quiet"
    )


def _expected(reading: Mapping[str, Any]) -> str:
    """Over all turns, by the replies there were."""
    known = [(e, s["of"]) for e, s in zip(reading["expected"], reading["leaks"], strict=True) if e is not None]
    replies = sum(of for _, of in known)
    return f"{sum(share * of for share, of in known) / replies:.0%}" if replies else "-"


def _in_all(shares: Sequence[Mapping[str, Any]]) -> str:
    whole = Rate(sum(share["count"] for share in shares), sum(share["of"] for share in shares))
    low, high = whole.interval
    return "-" if whole.value is None else f"{whole.count} of {whole.of} ({whole.value:.0%}, {low:.0%} to {high:.0%})"


def _talks(found: Mapping[str, Any]) -> Iterator[Block]:
    talks = found["conversations"]
    unit = found["unit"]
    if not talks["best"]:
        yield Words("No conversation is scored yet.", "quiet")
        return
    by = f"{talks['tried']} is above {talks['base']}" if talks["base"] is not None else f"{talks['tried']} scores"
    for where, title in (("best", f"Where {by} most"), ("worst", f"Where {by} least")):
        if talks[where]:
            yield Words(f"{title}:")
            for case in talks[where]:
                yield conversation_of(case, unit)


def _measurement(found: Mapping[str, Any]) -> Iterator[Block]:
    rows = []
    for model in found["models"]:
        floor = model["noise_floor"]
        if not model["equal_n"]:
            counts = " ".join(map(str, model["n"]))
            levels = " ".join(number(level) for level in model["complete_levels"])
            rows.append(
                (model["model"], f"unequal n by turn ({counts}); over {model['complete_cases']} whole cases {levels}")
            )
        rows += [
            (model["model"], f"{count} replies without a score: {cause}") for cause, count in model["missing"].items()
        ]
        if floor is not None:
            rows.append((model["model"], f"asked again, the judge moves a reply's score by {floor:.3f} (sd)"))
    if rows:
        yield Facts(tuple(rows))
    else:
        yield Words("Nothing is missing: every reply that was due is scored.", "quiet")
    if all(model["noise_floor"] is None for model in found["models"]):
        yield Words("No reply was judged twice, so how steady the judge is was not measured:", "quiet")
        yield Code(f"espalier judge RUN --judge {one_line(found['judge'], 40)} --again")
    for one in found["repetitions"]:
        yield Words(f"{repetition_in_words(one)}.")
    if not found["repetitions"]:
        yield Words("No model was measured twice, so what figures move by from one draw to the next was not:", "quiet")
        yield Code("espalier bench run bench.toml --repeat 1")


def _again(found: Mapping[str, Any]) -> Iterator[Block]:
    """The benchmark's file, and of each model's run what it was played with and what it cost."""
    cards = found["cards"]
    seeds = dict.fromkeys(str(of["run"]["seed"]) for of in cards.values())
    yield Facts((("benchmark", found["benchmark"]), ("seed", ", ".join(seeds)), ("judge", found["judge"])))
    heads = ("model", "its run", "state", "calls", "read", "written", "time")
    yield Table(heads, tuple(_cost(model, cards[model["model"]]) for model in found["models"]), heads[3:])
    if found["configuration"] is not None:
        yield Words("To make it again, save its configuration as bench.toml, with the same people and adapters:")
        yield Code("espalier bench run bench.toml")
        yield Folded("bench.toml", (Code(found["configuration"]),))
    for model, of in cards.items():
        blocks = (_renamed(block, of["run"]["id"][:8]) for block in (*what_it_is(of), *costs(of)))
        yield Folded(f"{model}: models, judges, prompts by version, costs", tuple(blocks))
    if found["people"] is not None:
        yield Folded("The people", tuple(people_map(found["people"], judged=False)))


def _cost(model: Mapping[str, Any], of: Mapping[str, Any]) -> tuple[str, ...]:
    calls = of["calls"]
    tokens = (count(calls[key]) for key in ("tokens_in", "tokens_out"))
    return (model["model"], model["run"], model["state"], str(calls["answered"]), *tokens, duration(calls["seconds"]))


def _renamed(block: Block, of: str) -> Block:
    """A plot under a name of its own: the reports of several runs stand on one page."""
    if not isinstance(block, Picture):
        return block
    return replace(block, plot=replace(block.plot, name=f"{block.plot.name}-{of}"))
