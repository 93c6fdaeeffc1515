"""`status --watch`: a run that is being played elsewhere, with what its models are writing at this moment.

The figures come from the store. The lanes come from the engine's socket, if it is on this machine; without
it, or when it goes away, the figures are shown all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from tui.console import console, duration, say
from tui.lanes import Lanes
from tui.progress import LINE_EVERY_S, Rate, in_a_line, tokens_of
from tui.sanitise import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trees.jobs import Lock
    from trees.store import Store

DRAW_EVERY_S = 0.5


async def watch(store: Store, run_id: str, *, as_json: bool) -> None:
    """Show a run until its engine leaves, or until interrupted."""
    from trees.jobs import live_engine
    from tui.facts import run_facts

    lock = live_engine(store, run_id)
    if as_json:
        await _watch_as_json(store, run_id)
        return
    if lock is None:
        say(f"no engine is at work on run {run_id[:8]}; this is how it stands", stderr=True)
    else:
        await _follow(store, run_id, lock)
    from tui.statusview import say_facts

    say_facts(run_facts(store, store.run(run_id)))


async def _watch_as_json(store: Store, run_id: str) -> None:
    """One JSON document a line, for programs."""
    from trees.jobs import live_engine
    from tui.facts import run_facts

    while True:
        live = live_engine(store, run_id)
        print(json.dumps(run_facts(store, store.run(run_id)), sort_keys=True), flush=True)
        if live is None:
            return
        await asyncio.sleep(DRAW_EVERY_S)


async def _follow(store: Store, run_id: str, lock: Lock) -> None:
    lanes = Lanes()
    listening = asyncio.create_task(_listen(lock.socket, lanes))
    try:
        if console().is_terminal and not console().is_dumb_terminal:
            await _draw(store, run_id, lanes)
        else:
            await _tell(store, run_id)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _listen(socket: str | None, lanes: Lanes) -> None:
    if socket is None:
        return
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            while line := await reader.readline():
                lanes.take(line, time.monotonic())
        finally:
            writer.close()


async def _tell(store: Store, run_id: str) -> None:
    """A line now and then, and none after the engine has left."""
    from trees.jobs import live_engine
    from tui.facts import progress_facts

    rate, told_at = Rate(), -LINE_EVERY_S
    while live_engine(store, run_id) is not None:
        now = time.monotonic()
        if now - told_at >= LINE_EVERY_S:
            facts = progress_facts(store, store.run(run_id))
            say(in_a_line(facts, rate.add(now, tokens_of(facts))))
            told_at = now
        await asyncio.sleep(DRAW_EVERY_S)


async def _draw(store: Store, run_id: str, lanes: Lanes) -> None:
    from rich.live import Live

    from trees.jobs import live_engine
    from tui.facts import model_facts, progress_facts

    rate, out = Rate(), console()
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while (lock := live_engine(store, run_id)) is not None:
            row = store.run(run_id)
            facts = progress_facts(store, row)
            now = time.monotonic()
            told = in_a_line(facts, rate.add(now, tokens_of(facts)))
            heard = duration(time.time() - lock.heartbeat_at)
            heading = f"{run_id[:8]} {row.state}, pid {lock.pid}, heard of {heard} ago"
            shown = lanes.shown(now, max(out.width - 36, 20))
            live.update(_picture(heading, told, model_facts(store, row), shown), refresh=True)
            await asyncio.sleep(DRAW_EVERY_S)


def _picture(heading: str, told: str, models: list[dict[str, Any]], lanes: list[tuple[str, str]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from tui.statusview import MODEL_HEADINGS, model_row

    table: Any = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True, width=34)
    table.add_column(no_wrap=True)
    for who, text in lanes:
        table.add_row(Text(who), Text(text))
    figures: Any = Table(box=None, pad_edge=False, header_style="dim")
    for number, name in enumerate(MODEL_HEADINGS):
        figures.add_column(name, justify="right" if number else "left")
    for row in models:
        figures.add_row(*(Text("" if cell is None else one_line(str(cell), 24)) for cell in model_row(row)))
    return Group(Text(heading, style="bold"), Text(told, overflow="fold"), figures, table)
