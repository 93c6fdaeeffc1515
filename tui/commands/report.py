"""`report`: all that is known of a run, a training, a benchmark or rounds, on one page, with its plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import NotFound, SetupError
from tui.console import say, say_json
from tui.options import FILE, examples, json_option, store_option

if TYPE_CHECKING:
    from trees.store import Store
    from tui.reports.blocks import Report

FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Made:
    """A report as a program reads it, and as a person does."""

    facts: dict[str, Any]
    report: Report


@dataclass(frozen=True)
class Kind:
    """Something that is reported on."""

    name: str
    find: Callable[[Store, str], Callable[[], Made] | None]
    """What makes the report on the one that a word names; None if it names none of this kind."""


@click.command(
    epilog=examples(
        "espalier report",
        "espalier report 3f2a --html run.html",
        "espalier report trial --html bench.html --plots plots",
        "espalier report 9c01 --json",
    )
)
@click.argument("what", metavar="[RUN|TRAINING|BENCH|ROUNDS]", required=False)
@click.option("--html", type=FILE, help="Write one page that needs no network, instead of printing.")
@click.option("--plots", type=FOLDER, help="Write every plot into this folder, as PNG and as SVG.")
@click.option("--judge", metavar="NAME", help="Of a benchmark: the judge whose scores are meant.")
@json_option
@store_option
def report(
    what: str | None, html: Path | None, plots: Path | None, judge: str | None, as_json: bool, store_path: Path
) -> None:
    """Report on a run, a training (or its adapter), a benchmark or rounds: plots, tables, conversations.

    It is named by the beginning of its id, a benchmark and rounds by their names too; the run worked on last if it
    is left out.
    """
    from trees.store import Store
    from tui.reports.paper import say_report

    with Store.read(store_path) as store:
        made = _find(store, what, judge)()
    if plots is not None:
        _write_plots(made.report, plots)
    if html is not None:
        from tui.reports.page import page

        _write(html, page(made.report).encode("utf-8"))
        say(f"wrote {html}", stderr=as_json)
    if as_json:
        say_json(made.facts)
    elif html is None:
        say_report(made.report)


def _find(store: Store, what: str | None, judge: str | None) -> Callable[[], Made]:
    if what is None:
        from simulation.runs import latest_run

        what = latest_run(store).id
    found = {kind.name: making for kind in kinds(judge) if (making := kind.find(store, what)) is not None}
    if len(found) > 1:
        raise NotFound(f"{what!r} names a {' and a '.join(found)}", hint="Give more of the id.")
    if not found:
        raise NotFound(
            f"no run, training, benchmark or rounds begin with {what!r} in {store.path}",
            hint="List them: `espalier status`, `espalier train list`, `espalier bench show`, `espalier rounds list`.",
        )
    return next(iter(found.values()))


def kinds(judge: str | None) -> tuple[Kind, ...]:
    """Everything that is reported on: whoever adds a kind adds it here."""
    return (
        Kind("run", _run),
        Kind("training", _training),
        Kind("benchmark", lambda store, what: _benchmark(store, what, judge)),
        Kind("timeline of rounds", _rounds),
    )


def _run(store: Store, what: str) -> Callable[[], Made] | None:
    if not _begins(store, "runs", what):
        return None

    def make() -> Made:
        from tui.reports.of_run import facts, report

        found = facts(store, store.run(store.find("runs", what)))
        return Made(found, report(found))

    return make


def _training(store: Store, what: str) -> Callable[[], Made] | None:
    if not _begins(store, "trainings", what) and not _begins(store, "adapters", what):
        return None

    def make() -> Made:
        from trees.trainings import find_training
        from tui.reports.of_training import facts, report

        found = facts(store, find_training(store, what))
        return Made(found, report(found))

    return make


def _benchmark(store: Store, what: str, judge: str | None) -> Callable[[], Made] | None:
    from trees.text import escape

    if not _begins(store, "benchmarks", what) and not store.rows(
        "SELECT 1 FROM benchmarks WHERE name = ?", (escape(what),)
    ):
        return None

    def make() -> Made:
        from simulation.benchmark import find_benchmark, results
        from tui.reports.of_bench import facts, report

        benchmark = find_benchmark(store, what)
        name = judge or benchmark[2]
        found = facts(store, benchmark, name, results(store, benchmark[0], name, benchmark[3]))
        return Made(found, report(found))

    return make


def _rounds(store: Store, what: str) -> Callable[[], Made] | None:
    from trees.text import escape

    if not _begins(store, "rounds", what) and not store.rows("SELECT 1 FROM rounds WHERE name = ?", (escape(what),)):
        return None

    def make() -> Made:
        from trees.rounds import find_rounds
        from tui.reports.of_rounds import facts, report

        found = facts(store, find_rounds(store, what))
        return Made(found, report(found))

    return make


def _begins(store: Store, table: str, what: str) -> bool:
    low = what.strip().lower()
    return bool(low and store.rows(f"SELECT 1 FROM {table} WHERE id >= ? AND id < ? LIMIT 1", (low, low + "g")))


def _write_plots(made: Report, folder: Path) -> None:
    from tui.reports.png_pen import png
    from tui.reports.shapes import drawing
    from tui.reports.svg_pen import alone

    drawn_plots = list(made.plots())
    for plot in drawn_plots:
        drawn = drawing(plot)
        _write(folder / f"{plot.name}.svg", alone(drawn).encode("utf-8"))
        _write(folder / f"{plot.name}.png", png(drawn))
    say(f"wrote {len(drawn_plots)} plots to {folder}, as PNG and SVG", stderr=True)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}") from error
