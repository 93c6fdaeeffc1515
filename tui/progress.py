"""Live progress on stderr while a run is played: a moving display on a terminal, a line now and then
elsewhere.

It reads the store on a connection of its own and in a thread, so that drawing never holds up the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.console import console, count, duration, say
from tui.facts import progress_facts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from trees.store import RunRow, Store

Below = Callable[["Store"], list[str]]
"""Further lines of a display, as text, from the store: all of them on a terminal, the first one elsewhere."""
LINE_EVERY_S = 10.0
"""Between two lines where there is no terminal."""
DRAW_EVERY_S = 0.5
SHARE_OF_TIME = 0.05
"""At most this share of the time is spent on reading the store for the display."""


class Rate:
    """Tokens a second over the last while."""

    def __init__(self, over_s: float = 30.0) -> None:
        self._over_s = over_s
        self._seen: list[tuple[float, int]] = []

    def add(self, now: float, tokens: int) -> float:
        """The rate after this many tokens in all."""
        self._seen.append((now, tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._over_s:
            self._seen.pop(0)
        then, before = self._seen[0]
        return (tokens - before) / (now - then) if now > then else 0.0


@contextlib.asynccontextmanager
async def shown(
    path: Path, run: RunRow, *, every_s: float | None = None, quiet: bool = False, below: Below | None = None
) -> AsyncIterator[None]:
    """Show how a run goes while the body plays it."""
    if quiet:
        yield
        return
    showing = asyncio.create_task(_show(path, run, every_s, below))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _show(path: Path, run: RunRow, every_s: float | None, below: Below | None) -> None:
    from trees.store import Store

    store = await asyncio.to_thread(Store.read, path)
    err = console(stderr=True)
    try:
        if err.is_terminal and not err.is_dumb_terminal:
            await _draw(store, run, every_s or DRAW_EVERY_S, below)
        else:
            await _tell(store, run, every_s or LINE_EVERY_S, below)
    finally:
        store.close()


async def _tell(store: Store, run: RunRow, every_s: float, below: Below | None) -> None:
    rate, began = Rate(), time.monotonic()
    while True:
        await asyncio.sleep(every_s)
        facts = await asyncio.to_thread(progress_facts, store, run)
        now = time.monotonic()
        say(f"{duration(now - began)}: {in_a_line(facts, rate.add(now, tokens_of(facts)))}", stderr=True)
        for line in (await _lines(store, below))[:1]:
            say(line, stderr=True)


async def _draw(store: Store, run: RunRow, every_s: float, below: Below | None) -> None:
    from rich.live import Live

    rate, began = Rate(), time.monotonic()
    with Live(console=console(stderr=True), auto_refresh=False, transient=True) as live:
        while True:
            started = time.monotonic()
            facts = await asyncio.to_thread(progress_facts, store, run)
            now = time.monotonic()
            lines = await _lines(store, below)
            live.update(_panel(run, facts, rate.add(now, tokens_of(facts)), now - began, lines), refresh=True)
            await asyncio.sleep(max(every_s, (now - started) / SHARE_OF_TIME))


async def _lines(store: Store, below: Below | None) -> list[str]:
    return [] if below is None else await asyncio.to_thread(below, store)


def tokens_of(facts: dict[str, Any]) -> int:
    """Tokens read and written, those from a cache not counted."""
    calls = facts["calls"]
    return int(calls["tokens_in"] - calls["tokens_cached"] + calls["tokens_out"])


def in_a_line(facts: dict[str, Any], rate: float) -> str:
    """The progress as one line of text."""
    trees, turns, calls = facts["trees"], facts["turns"], facts["calls"]
    failed = f", {trees['failed']} failed" if trees["failed"] else ""
    return "  ".join(
        (
            f"trees {trees['done']}/{trees['planned']} done{failed}",
            f"turns {turns['stored']}/{turns['planned']}",
            f"calls {calls['answered']}",
            f"tokens {count(calls['tokens_in'])} in, {count(calls['tokens_out'])} out ({count(rate)}/s)",
            f"failures {calls['failed']}",
            f"pairs {sum(facts['pairs'].values())}",
        )
    )


def _panel(run: RunRow, facts: dict[str, Any], rate: float, seconds: float, lines: list[str]) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    from tui.sanitise import one_line

    turns = facts["turns"]
    heading = Text.assemble((f"{run.id[:8]} ", "bold"), one_line(run.name, 40), (f"  {duration(seconds)}", "dim"))
    bar = ProgressBar(total=max(turns["planned"], 1), completed=turns["stored"], width=60)
    told = Text(in_a_line(facts, rate), overflow="fold")
    drawn = [Text("\n".join(lines))] if lines else []
    return Group(heading, bar, told, *drawn, Text("Ctrl-C stops: what is in flight is finished and kept.", style="dim"))
