"""Benchmarks as the evaluation screen shows them: how each stands, its figures, its cases from best to worst.

A reading is a whole: the scores of every model of a benchmark as they were at one moment, with all figures over them.
What is compared is a base and a tried model; without a base, cases are ranked by the tried model's own scores.

Invariant: everything but the questions is pure; figures are those that `espalier bench show` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len

from trees.store import Store
from trees.text import unescape
from tui.app.curves import Figure
from tui.app.standing import RunLine, Word, run_line
from tui.benchview import bracketed, document, repetition_in_words
from tui.draw import Line, Span, wrapped
from tui.reports.cases import case_facts, compared, ranked
from tui.reports.of_bench import curves_of, gap_of
from tui.reports.text_pen import figure_of
from tui.sanitise import one_line

if TYPE_CHECKING:
    from simulation.benchmark import Result

SHOWN = 20
"""Cases at either end of the ranking."""
SIDE = 24
"""Least cells of a column of a conversation; with less room both stand under each other."""
_ORDER: tuple[Word, ...] = ("running", "warming", "late", "paused", "crashed", "failed", "stopped", "new")
"""The first of these that a model's run is in is how the benchmark stands."""


@dataclass(frozen=True, slots=True)
class BenchLine:
    """A benchmark as the list has it."""

    id: str
    name: str
    judge: str
    turns: int
    models: tuple[RunLine, ...]
    """The run of each model, in the order measured."""

    @property
    def word(self) -> Word:
        words = {run.word for run in self.models}
        return next((word for word in _ORDER if word in words), "done")

    @property
    def share(self) -> float:
        """How much of what is planned is played."""
        return sum(run.share for run in self.models) / max(len(self.models), 1)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One benchmark, as it was read."""

    line: BenchLine
    found: tuple[Result, ...]
    shown: Mapping[str, Any]
    """Every figure, as `bench show --json` has them."""

    def result(self, model: str | None) -> Result | None:
        return next((result for result in self.found if result.model == model), None)

    def run(self, model: str) -> RunLine | None:
        result = self.result(model)
        return next((line for line in self.line.models if result is not None and line.id == result.run_id), None)

    @property
    def scored(self) -> int:
        return sum(sum(model["n"]) for model in self.shown["models"])

    @property
    def due(self) -> int:
        return sum(model["cases"] * self.line.turns for model in self.shown["models"])


@dataclass(frozen=True, slots=True)
class CaseLine:
    """A case as the list has it."""

    case: int
    value: float
    """How far the tried model is above the base; without a base, its own score."""
    base: float | None
    tried: float | None
    title: str
    tree: str
    """Of the tried model."""


# Questions


def read_lines(store: Store, now: float) -> list[BenchLine]:
    """All benchmarks, the latest first."""
    runs = "SELECT b.run_id FROM benchmark_runs b JOIN runs r ON r.id = b.run_id WHERE b.benchmark_id = ?"
    return [
        BenchLine(
            *(row[0], unescape(row[1]), unescape(row[2]), row[3]),
            tuple(
                run_line(store, store.run(run[0]), now)
                for run in store.rows(f"{runs} ORDER BY r.created_at, r.id", (row[0],))
            ),
        )
        for row in store.rows("SELECT id, name, judge, turns FROM benchmarks ORDER BY at DESC, id")
    ]


def read_evaluation(store: Store, line: BenchLine) -> Evaluation:
    """A benchmark's scores and figures by its own judge."""
    from simulation.benchmark import results

    found = results(store, line.id, line.judge, line.turns)
    shown = document(store, (line.id, line.name, line.judge, line.turns), line.judge, found)
    return Evaluation(line, tuple(found), shown)


def read_cases(store: Store, base: Result | None, tried: Result, turn: int | None) -> list[CaseLine]:
    """The best cases, then the worst ones: over all turns, or at one of them."""
    order = ranked(base, tried, turn)
    ends = order if len(order) <= 2 * SHOWN else [*order[:SHOWN], *order[-SHOWN:]]
    titles = {row.position: row for row in store.trees(tried.run_id)}
    return [
        CaseLine(
            case,
            value,
            None if base is None else _score(base, case, turn),
            _score(tried, case, turn),
            titles[case].title,
            titles[case].id,
        )
        for case, value in ends
    ]


def read_case(store: Store, base: Result | None, tried: Result, case: CaseLine) -> dict[str, Any]:
    """What both models said to the person of a case."""
    return case_facts(store, [tried] if base is None else [base, tried], case.case, case.value)


def _score(result: Result, case: int, turn: int | None) -> float | None:
    scores = result.table.scores[case] if turn is None else result.table.scores[case, turn - 1 : turn]
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else None


def read_rounds(store: Store) -> Mapping[str, Any] | None:
    """The timeline of the rounds that were begun last; None where there are none."""
    from trees.rounds import all_rounds
    from tui.roundsview import rounds_facts

    rows = all_rounds(store)
    return rounds_facts(store, rows[0]) if rows else None


# What is shown


def chosen(evaluation: Evaluation, base: str | None, tried: str | None) -> tuple[Result | None, Result | None]:
    """What is compared: what a person chose as far as it is there, else what a report would show."""
    usual_base, usual = compared(evaluation.found)
    wanted = evaluation.result(tried) or usual
    other = evaluation.result(base)
    if other is None and usual_base is not None and wanted is not None:
        other = usual_base if usual_base.run_id != wanted.run_id else usual
    return (other if other is not None and wanted is not None and other.run_id != wanted.run_id else None), wanted


def figure(evaluation: Evaluation, of: Sequence[str], *, gap: bool, at: int | None, plain: bool = False) -> Figure:
    """AL by turn with the intervals of some models, or the share of the gap that is closed."""
    plot = gap_of(evaluation.shown) if gap else curves_of(evaluation.shown)
    if plot is None:
        return Figure("Share of the gap", (), "turn", nothing=_no_gap(evaluation))
    drawn = figure_of(plot, intervals_of=of, plain=plain)
    nothing = "no reply is scored yet"
    return Figure(drawn.title, drawn.series, "turn", at=None if at is None else float(at), nothing=nothing)


def _no_gap(evaluation: Evaluation) -> str:
    if not evaluation.shown["gap_closed"]:
        return "a gap needs a floor and a ceiling: how = 'floor' and how = 'told' among the tested models"
    return "at no turn is the ceiling above the floor by more than chance"


def in_words(evaluation: Evaluation, base: str | None, tried: str | None) -> list[Line]:
    """The two models that are compared, in sentences that claim no more than there is."""
    one = next((c for c in evaluation.shown["comparisons"] if {c["a"], c["b"]} == {base, tried}), None)
    if one is None:
        return [(Span("one model alone: there is nothing to compare with", "dim"),)]
    lines: list[Line] = [
        (
            Span(one_line(f"{one['a']} less {one['b']}", 60), "bold"),
            Span(f" over {one['cells']} replies to each", "dim"),
        )
    ]
    for key, words in (("mean", one["words"][0]), ("ir", one["words"][1])):
        p = one[f"held_{key}"]
        told = f"  {bracketed(one[key], sign=True)}  p {'-' if p is None else f'{p:.4f}'} (Holm)"
        clear = not words.endswith(("not distinguishable", "nothing to compare"))
        lines += [(Span(one_line(words, 100), "green" if clear else "yellow"),), (Span(told, "dim"),)]
    return lines


def caveats(evaluation: Evaluation, model: str | None) -> list[Line]:
    """What one must know of a model's figures: what is missing, unequal, or unsteady, and what holds for all."""
    row = next((m for m in evaluation.shown["models"] if m["model"] == model), None)
    if row is None:
        return []
    lines: list[Line] = []
    if not row["equal_n"]:
        lines.append((Span(f"unequal n by turn: {' '.join(map(str, row['n']))}", "yellow"),))
    lines += [
        (Span(one_line(f"{count} replies without a score: {cause}", 120), "yellow"),)
        for cause, count in row["missing"].items()
    ]
    lines += [(Span(one_line(note, 240), "yellow"),) for note in evaluation.shown["notes"]]
    lines += [(Span(one_line(repetition_in_words(one), 240)),) for one in evaluation.shown["repetitions"]]
    floor = row["noise_floor"]
    steady = (
        "not judged twice: its noise is unknown" if floor is None else f"judged again, a score moves by {floor:.3f}"
    )
    return [*lines, (Span(steady, "dim"),), (Span(f"lineage {one_line(row['lineage'], 60)}", "dim"),)]


def talk(case: Mapping[str, Any], turn: int | None, unit: str, width: int, *, plain: bool) -> list[Line]:
    """A conversation with either model side by side, or under each other where there is little room."""
    sides = max((len(pair) for pair in case["turns"]), default=1)
    wide = (width - 3 * (sides - 1)) // max(sides, 1)
    lines = [line for name, text in case["persona"].items() for line in _persona(name, text, width)]
    for pair in case["turns"]:
        room = wide if wide >= SIDE else width
        users = [list(_user(side, room)) for side in pair]
        replies = [list(_reply(side, unit, room)) for side in pair]
        here = turn is not None and any(side["turn"] == turn for side in pair)
        rule = "=" if here else "-"
        lines.append((Span((rule if plain else ("━" if here else "─")) * width, "cyan" if here else "dim"),))
        if wide >= SIDE:
            lines += [*_beside(users, wide, plain), *_beside(replies, wide, plain)]
        else:
            lines += [line for two in zip(users, replies, strict=True) for column in two for line in column]
    return lines


def _persona(name: str, text: str, width: int) -> Iterator[Line]:
    yield (Span(f"{name} ", "dim"), Span(one_line(text, max(width - len(name) - 1, 10))))


def _user(side: Mapping[str, Any], wide: int) -> Iterator[Line]:
    yield (Span(one_line(f"turn {side['turn']} user", wide), "bold blue"),)
    yield from ((Span(text),) for text in wrapped(side["user"], wide))


def _reply(side: Mapping[str, Any], unit: str, wide: int) -> Iterator[Line]:
    score = "no score" if side["score"] is None else f"{side['score']:.2f} {unit}"
    yield (Span(one_line(f"{side['model']}  {score}", wide), "bold green"),)
    reply = "(no reply)" if side["reply"] is None else side["reply"]
    yield from ((Span(text),) for text in wrapped(reply, wide))


def _beside(columns: Sequence[Sequence[Line]], wide: int, plain: bool) -> Iterator[Line]:
    """Columns of lines as lines."""
    between = Span(" | " if plain else " │ ", "dim")
    for row in range(max(map(len, columns))):
        spans: list[Span] = []
        for number, column in enumerate(columns):
            cell = column[row] if row < len(column) else ()
            room = wide - sum(cell_len(span.text) for span in cell)
            spans += [*([between] if number else []), *cell, Span(" " * max(room, 0))]
        yield tuple(spans)
