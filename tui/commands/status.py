"""`status`: how runs stand, from the store alone, once or again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from tui.console import say, say_json
from tui.options import examples, json_option, store_option


@click.command(
    epilog=examples("espalier status", "espalier status 1a2b3c4d --watch", "espalier status 1a2b3c4d --json")
)
@click.argument("run", required=False)
@click.option("--watch", is_flag=True, help="Go on showing it until the engine leaves or Ctrl-C.")
@click.option("--all", "every", is_flag=True, help="List all runs of the store.")
@json_option
@store_option
def status(run: str | None, watch: bool, every: bool, as_json: bool, store_path: Path) -> None:
    """Show how RUN stands, or the one worked on last.

    Trees, turns, tokens and time of each role and model, failures by cause, what the judges said, and who is
    at work. All of it comes from the store, so it works while a run is played and long after. With --watch,
    what the models write is shown as they write it, if the engine is on this machine.
    """
    from trees.store import Store
    from tui.facts import run_facts, run_line
    from tui.statusview import say_facts, say_runs
    from tui.stores import run_or_latest

    with Store.read(store_path) as store:
        if every:
            runs = [run_line(row) for row in store.runs()]
            say_json(runs) if as_json else say_runs(runs)
            return
        row = run_or_latest(store, run)
        if watch:
            from tui.watch import watch as go_on_watching

            asyncio.run(go_on_watching(store, row.id, as_json=as_json))
            return
        facts = run_facts(store, row)
    if as_json:
        say_json(facts)
        return
    say_facts(facts)
    if facts["engine"] is None and row.kind == "play" and row.state not in ("finished",):
        say(f"go on with it: espalier resume {row.id[:8]}")
