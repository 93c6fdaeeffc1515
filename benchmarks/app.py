"""The app on a store of the paper's size and on a tenth of it: does what a person waits for grow with the store?

3,310 trees of 50 messages, as benchmarks/store.py writes them. Measured in the app itself, without a terminal: from a
key to the settled screen, beside a key that does nothing; how late the event loop is while a person scrolls; memory.

    python benchmarks/app.py [--quick] [--stores FOLDER]

--stores keeps the two stores in FOLDER and finds them there again.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import Bar, finish, say
from store import fill
from textual.pilot import Pilot
from textual.widgets import Input

from tui.app.app import EspalierApp, Start
from tui.app.screens.trees import TreesScreen

FULL, TENTH = 3310, 331
REPEATS = 7
LONGEST_S = 60.0
BEAT_S = 0.01
"""How often the event loop's lateness is looked at."""


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing is being read and nothing is left to paint."""
    await pilot.pause()
    while any(not worker.is_finished for worker in pilot.app.workers):
        await pilot.pause(0.001)
    await pilot.pause()


async def timed(
    pilot: Pilot[None], do: Callable[[], Awaitable[object]], until: Callable[[], object] | None = None
) -> float:
    """Seconds from doing something until the screen has settled and the condition holds."""
    began = time.perf_counter()
    await do()
    while until is not None and not until():
        if time.perf_counter() - began > LONGEST_S:
            raise TimeoutError(f"it did not come to an end within {LONGEST_S:g} s")
        await pilot.pause(0.001)
    await settle(pilot)
    return time.perf_counter() - began


async def lateness(pilot: Pilot[None], keys: list[str]) -> list[float]:
    """How late the event loop was, beat by beat, while these keys were pressed."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            late.append(time.perf_counter() - before - BEAT_S)

    beating = asyncio.create_task(beat())
    for key in keys:
        await pilot.press(key)
    await settle(pilot)
    beating.cancel()
    return late


async def measure(path: Path) -> dict[str, float]:
    """Medians in seconds, by what was done."""
    began = time.perf_counter()
    app = EspalierApp(Start(path, fresh=True))
    async with app.run_test(size=(180, 50)) as pilot:
        while not app.looked:
            await pilot.pause(0.001)
        await settle(pilot)
        home = time.perf_counter() - began
        nothing = [await timed(pilot, lambda: pilot.press("f5")) for _ in range(REPEATS)]
        trees = await timed(pilot, lambda: pilot.press("4"), lambda: _listed(app) >= 200 or _total(app))
        screen = app.screen
        assert isinstance(screen, TreesScreen)
        await timed(pilot, pilot.pause, lambda: _total(app))
        stepping = [await timed(pilot, lambda: pilot.press("full_stop")) for _ in range(REPEATS)]
        opening = [await timed(pilot, lambda: pilot.press("escape", "down", "enter")) for _ in range(REPEATS)]
        late = await lateness(pilot, ["escape", *["pagedown"] * 20, *["down"] * 60])
        box = screen.query_one("#filter", Input)

        async def look_for(words: str) -> None:
            before = screen.index.generation
            box.value = words
            while screen.index.generation == before:
                await pilot.pause(0.001)

        finding = [
            await timed(pilot, lambda n=n: look_for(f"token{n * 7 + 3}"), lambda: screen.index.total is not None)
            for n in range(REPEATS)
        ]
        await look_for("")
        ordering = await timed(pilot, lambda: look_for("margin<.1"), lambda: screen.index.total is not None)
    quickly = sorted(late)
    return {
        "home": home,
        "nothing": statistics.median(nothing),
        "trees": trees,
        "next tree": statistics.median(stepping),
        "open a tree": statistics.median(opening),
        "search": statistics.median(finding),
        "filter by margin": ordering,
        "lateness p95": quickly[int(len(quickly) * 0.95)],
        "lateness max": quickly[-1],
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _listed(app: EspalierApp) -> int:
    return len(app.screen.index.rows) if isinstance(app.screen, TreesScreen) else 0


def _total(app: EspalierApp) -> int:
    return (app.screen.index.total or 0) if isinstance(app.screen, TreesScreen) else 0


def stores(folder: Path, sizes: list[int]) -> list[Path]:
    """A store for each size, made unless it is there."""
    paths = []
    for trees in sizes:
        path = folder / f"trees-{trees}.db"
        if not path.exists():
            part = path.with_suffix(".part")
            asyncio.run(fill(part, trees, seed=trees))
            part.rename(path)
        paths.append(path)
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the sizes: whether it works, not what it costs"
    )
    parser.add_argument("--stores", type=Path, help="keep the stores in this folder")
    given = parser.parse_args()
    sizes = [TENTH, TENTH // 10] if given.quick else [FULL, TENTH]
    with tempfile.TemporaryDirectory() as folder:
        big, small = stores(given.stores or Path(folder), sizes)
        asyncio.run(measure(small))  # what is loaded late is loaded now
        of_small, of_big = asyncio.run(measure(small)), asyncio.run(measure(big))
    say(f"{'':<18}{sizes[1]:>10} trees{sizes[0]:>10} trees")
    for what, value in of_big.items():
        unit = (1, "MB") if what == "megabytes" else (1000, "ms")
        say(f"{what:<18}{of_small[what] * unit[0]:>13.1f} {unit[1]}{value * unit[0]:>13.1f} {unit[1]}")
    bars = [
        Bar(f"{what}: a store ten times as large, as a ratio", of_big[what] / of_small[what], at_most=most)
        for what, most in (("trees", 2.0), ("next tree", 1.5), ("open a tree", 1.5), ("search", 2.0))
    ]
    return finish("app", bars, {"small": of_small, "big": of_big})


if __name__ == "__main__":
    sys.exit(main())
