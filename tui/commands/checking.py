"""Whether the store is sound, and what it gives to trainers: `verify` and `export`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from trees.errors import SetupError
from tui.console import say, say_json, say_table
from tui.options import FILE, examples, json_option, store_option
from tui.stores import guard

if TYPE_CHECKING:
    from train.export import Exported
    from train.released_format import PaperExport
    from trees.store import Store
    from trees.verify import Progress, Report


@click.command(epilog=examples("espalier verify", "espalier verify --no-prompts --json"))
@click.option("--no-prompts", is_flag=True, help="Do not render every prompt again to check its digest.")
@json_option
@store_option
def verify(no_prompts: bool, as_json: bool, store_path: Path) -> None:
    """Derive the store again from itself: ids, digests, parents, verdicts, prompts. Exit 1 with findings.

    Nothing is changed, and an engine may be at work meanwhile. Every prompt is rendered again from its tree
    and compared with what was sent, which takes the longest.
    """
    from agents.rerender import Rerender
    from trees.store import Store
    from trees.verify import verify as check

    with Store.read(store_path) as store:
        report = check(store, rerender=None if no_prompts else Rerender(store), progress=_progress())
    if as_json:
        say_json(
            {
                "findings": [{"kind": f.kind, "id": f.id, "what": f.what} for f in report.findings],
                "checked": dict(report.checked),
                "not_rendered": report.not_rendered,
            }
        )
    else:
        _say_report(report, store_path)
    if not report.clean:
        raise SystemExit(1)


def _say_report(report: Report, store_path: Path) -> None:
    looked = ", ".join(f"{number} {what}" for what, number in report.checked.items() if number)
    say(f"checked {looked}")
    if report.not_rendered:
        say(f"{report.not_rendered} prompts belong to turns that were never stored, and cannot be compared")
    if report.clean:
        say(f"{store_path} is sound")
        return
    say(f"{len(report.findings)} findings in {store_path}:")
    say_table(("kind", "id", "finding"), [(f.kind, f.id, f.what) for f in report.findings])
    say("keep a copy (espalier store backup), and delete the runs concerned or restore a backup")


def _progress() -> Progress | None:
    """What is being checked, on one line of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def tell(what: str, rows: int) -> None:
        click.echo(f"\r\x1b[Kchecking {what}: {rows}\r", err=True, nl=False)

    return tell


@click.command(
    epilog=examples(
        "espalier export sft sft.jsonl",
        "espalier export dpo pairs.parquet --run 1a2b3c4d --judge likelihood --min-margin 0.1",
        "espalier export paper conversations.jsonl",
    )
)
@click.argument("what", type=click.Choice(["sft", "dpo", "paper"]))
@click.argument("out", type=FILE)
@click.option("--run", "runs", multiple=True, metavar="RUN", help="Only this run; may be given again for more.")
@click.option("--judge", metavar="NAME", help="Whose verdicts; the only judge's if left out.")
@click.option("--min-margin", type=click.FloatRange(0), help="Smallest difference of scores, in the judge's unit.")
@click.option("--no-card", is_flag=True, help="Write no data set card beside OUT.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@json_option
@store_option
def export(
    what: Literal["sft", "dpo", "paper"],
    out: Path,
    runs: tuple[str, ...],
    judge: str | None,
    min_margin: float | None,
    no_card: bool,
    force: bool,
    as_json: bool,
    store_path: Path,
) -> None:
    """Write training data to OUT, with a data set card (README.md) beside it.

    sft: the winning reply of each turn. dpo: each win of one reply over another. Both as JSON lines in TRL's formats,
    or as Parquet if OUT ends in .parquet. paper: whole conversations in the format released with arXiv 2410.03642.
    Nothing that touches a held-out person is written. What was left out is counted with the reason.
    """
    from trees.store import Store

    if out.exists() and not force:
        raise SetupError(f"{out} exists already", hint="Name another file, or write over it with --force.")
    if what == "paper" and out.suffix == ".parquet":
        raise SetupError(f"the paper's format is JSON lines, and {out} is named as Parquet", hint="Call it .jsonl.")
    asyncio.run(guard(store_path))
    with Store.read(store_path) as store:
        wanted = [store.find("runs", run) for run in runs] or None
        done = _exported(store, what, out, judge, min_margin, wanted, force)
        card = None if no_card else _carded(store, done, bool(wanted))
    if as_json:
        found = {"file": str(out), "rows": done.rows, "judge": done.judge_id, "dropped": dict(done.dropped)}
        say_json({**found, "card": None if card is None else str(card)})
        return
    say(f"{done.rows} rows written to {out}, by the verdicts of {done.judge!r} ({done.judge_id[:8]})")
    if card is not None:
        say(f"{card} says what they are")
    if done.dropped:
        left_out = "verdicts" if what == "dpo" else "turns"
        say_table((f"{left_out} left out", "number"), done.dropped.items(), right=("number",))


def _exported(
    store: Store,
    what: Literal["sft", "dpo", "paper"],
    out: Path,
    judge: str | None,
    min_margin: float | None,
    runs: list[str] | None,
    force: bool,
) -> Exported | PaperExport:
    if what == "paper":
        from train.released_format import export_paper

        return export_paper(store, out, judge=judge, min_margin=min_margin, runs=runs, overwrite=force)
    from train.export import export as write

    return write(store, what, out, judge=judge, min_margin=min_margin, runs=runs, overwrite=force)


def _carded(store: Store, done: Exported | PaperExport, names_runs: bool) -> Path:
    """The card, with the command that makes the file again whatever else the store will hold."""
    from train.card import CardOf, write_card

    chosen = [word for run in done.runs for word in ("--run", run)] if names_runs else []
    margin = [] if done.min_margin is None else ["--min-margin", f"{done.min_margin:g}"]
    command = ("espalier", "export", done.kind, done.path.name, *chosen, "--judge", done.judge_id, *margin)
    about = CardOf(
        path=done.path,
        kind=done.kind,
        rows=done.rows,
        runs=done.runs,
        judge_id=done.judge_id,
        judge=done.judge,
        min_margin=done.min_margin,
        dropped={str(reason): number for reason, number in done.dropped.items()},
        command=command,
    )
    return write_card(store, about)
