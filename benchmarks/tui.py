"""What a person waits for in the app, and what the app costs, on a store of the paper's size and on a tenth of it.

3,310 trees of 50 messages and one of 2,000, as benchmarks/store.py writes them. Every part runs in a process of its
own, on the small and the large store in turns: waits inside the app without a terminal, its start and end on a real
terminal, how late the event loop is while eight lanes write, what an engine's call costs with the app attached and
without, memory after many trees and after a day of events.

    python benchmarks/tui.py [--quick] [--stores FOLDER]

--stores keeps the two stores in FOLDER and finds them there again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
importlib.import_module("tui")  # the package: in this folder, which comes first later on, `tui` would be this file

import psutil
from common import Bar, finish, say
from overhead import personas
from store import JUDGE, MODEL, fill, write_turn
from textual.pilot import Pilot
from textual.screen import Screen

from simulation.cast import load_prompts, make_cast, open_models
from simulation.config import make_config
from simulation.engine import close_engine, open_engine
from simulation.runs import begin, plan_run
from tests.support.terminal import Terminal, on_terminal
from trees.ids import digest_of, run_id, tree_id
from trees.store import Store
from trees.values import Node
from trees.writer import Writer
from trees.writes import finish_tree, in_one, keep_run, keep_tree, merge_words
from tui.app import filters
from tui.app.app import EspalierApp, Start, spare_pauses
from tui.app.frame import Mode, Table
from tui.app.screens.monitor import MonitorScreen
from tui.app.screens.trees import TreesScreen
from tui.app.watching import reduce

LONG_TURNS = 400
"""Turns of the long tree: 2,000 messages."""
LANES = 8
LONGEST_S = 60.0
BEAT_S = 0.01
"""How often the event loop's lateness is looked at."""
SIZE = (180, 50)
GROWING = ("open a tree", "next tree held down", "search", "filtered and ordered")
"""What must not take longer because the store is larger."""
PEER = """
from textual.app import App
from textual.widgets import Footer, Static
class Empty(App):
    BINDINGS = [("q", "quit", "Quit")]
    def compose(self):
        yield Static("it is there")
        yield Footer()
Empty().run()
"""
"""The peer of the start: an app of Textual with nothing in it."""


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    trees: int
    rounds: int
    starts: int
    pairs: int
    pair_trees: int
    opened: int
    watched_s: float
    day_s: int


FULL = Sizes(trees=3310, rounds=3, starts=5, pairs=9, pair_trees=60, opened=200, watched_s=15.0, day_s=86_400)
QUICK = Sizes(trees=331, rounds=1, starts=2, pairs=2, pair_trees=12, opened=30, watched_s=3.0, day_s=3_600)


# Stores


def stores(folder: Path, trees: int) -> tuple[Path, Path]:
    """The large store and the small one, made unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for size in (trees, trees // 10):
        path = folder / f"trees-{size}.db"
        if not path.exists():
            part = path.with_suffix(".part")
            say(f"writing {size} trees")
            asyncio.run(fill(part, size, seed=size))
            asyncio.run(add_long_tree(part))
            part.rename(path)
        paths.append(path)
    return paths[0], paths[1]


async def add_long_tree(path: Path) -> None:
    """A run of one tree that is as long as 40 others."""
    run, draw = run_id({"long": LONG_TURNS}, 1, []), random.Random(1)
    tree = tree_id(run, "long")
    with Store.open(path) as store:
        profile, personality = store.rows("SELECT profile_id, personality_id FROM trees LIMIT 1")[0]
        store.apply(
            in_one(
                [
                    keep_run(run, "play", "long", 1, {}, {}),
                    keep_tree(tree, run, 0, profile, personality, title="A long life"),
                ]
            )
        )
    prompt, model, judge = digest_of("prompt", "user", "x"), digest_of("model", MODEL), digest_of("judge", JUDGE)
    writer = Writer(path)
    above: Node | None = None
    for turn in range(1, LONG_TURNS + 1):
        above = await write_turn(writer, draw, run, tree, above, turn, prompt, model, judge)
    await writer.commit(finish_tree(tree))
    await writer.commit(merge_words())
    await writer.close()


# Waits inside the app


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing is being read and nothing is left to paint."""
    await pilot.pause()
    while any(not worker.is_finished and worker.group != "lanes" for worker in pilot.app.workers):
        await pilot.pause(0.001)
    await pilot.pause()


async def until(condition: Callable[[], object]) -> None:
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > LONGEST_S:
            raise TimeoutError(f"it did not come to an end within {LONGEST_S:g} s")
        await asyncio.sleep(0.001)


async def timed(
    pilot: Pilot[None],
    do: Callable[[], Awaitable[object]],
    condition: Callable[[], object] = lambda: True,
    *,
    settling: bool = True,
) -> float:
    """Milliseconds from doing something until the condition holds and is painted. Then the screen settles, untimed."""
    began = time.perf_counter()
    await do()
    await until(condition)
    await painted(pilot)
    taken = 1000 * (time.perf_counter() - began)
    if settling:
        await settle(pilot)
    return taken


async def painted(pilot: Pilot[None]) -> None:
    """Until the screen was refreshed with what it holds now. Pilot's own pause waits for an idle processor besides."""
    screen = pilot.app.screen
    assert isinstance(screen, Mode)
    await screen.painted()


async def press(pilot: Pilot[None], key: str) -> None:
    """A key, as the terminal would send it."""
    from textual import events

    pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))


async def nothing_more() -> None:
    """What goes on by itself is waited for."""


def made(screen: Screen[Any]) -> bool:
    """Whether it is the screen of trees, with all its parts."""
    return isinstance(screen, TreesScreen) and screen.ready


def all_listed(screen: Screen[Any]) -> bool:
    """Whether the first page of trees stands in its table."""
    return (
        isinstance(screen, TreesScreen)
        and screen.index.rows != ()
        and (screen.query_one("#tree-table", Table).row_count == len(screen.index.rows))
    )


@dataclass
class Opened:
    """The Trees screen of an app that is measured."""

    pilot: Pilot[None]
    screen: TreesScreen
    table: Table

    async def move(self, row: int) -> None:
        self.table.move_cursor(row=row)

    def at_the_cursor(self) -> bool:
        """Whether the tree under the cursor is the one that is shown."""
        return self.screen.opened is not None and self.screen.opened.tree.id == self.table.at

    async def hold(self, key: str, times: int) -> None:
        """A key that repeats faster than the app answers."""
        for _ in range(times):
            await press(self.pilot, key)

    async def look_for(self, words: str, order: str = "place") -> None:
        self.screen._ask_for(filters.parse(words), order)

    def listed(self) -> bool:
        return bool(self.screen.index.rows) or self.screen.index.complete


async def waits(path: Path, repeats: int) -> dict[str, float]:
    """Medians in milliseconds by what was done, in an app without a terminal."""
    draw = random.Random(1)
    with Store.read(path) as store:
        texts = [row[0] for row in store.rows("SELECT text FROM nodes ORDER BY random() LIMIT ?", (repeats,))]
    words = [text.rsplit(" ", 1)[1].rstrip(".") for text in texts]
    app = EspalierApp(Start(path, fresh=True))
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: app.looked)
        await settle(pilot)
        nothing = [await timed(pilot, lambda: press(pilot, "f5")) for _ in range(repeats)]
        shown_after = await timed(pilot, lambda: press(pilot, "4"), lambda: made(app.screen), settling=False)
        listed = await timed(pilot, nothing_more, lambda: all_listed(app.screen))
        screen = app.screen
        assert isinstance(screen, TreesScreen)
        shown = Opened(pilot, screen, screen.query_one("#tree-table", Table))
        rows = range(20, min(180, shown.table.row_count))
        opening = [
            await timed(pilot, lambda row=row: shown.move(row), shown.at_the_cursor)
            for row in draw.sample(rows, min(repeats, len(rows)))
        ]
        long = []
        for _ in range(max(repeats // 3, 2)):
            long.append(await timed(pilot, lambda: shown.move(0), shown.at_the_cursor))
            await timed(pilot, lambda: shown.move(5), shown.at_the_cursor)
        held = min(60, shown.table.row_count - 7)
        holding = []
        for _ in range(3):
            await timed(pilot, lambda: shown.move(5), shown.at_the_cursor)
            there = lambda: shown.table.cursor_row >= 5 + held and shown.at_the_cursor()  # noqa: E731
            holding.append(await timed(pilot, lambda: shown.hold("full_stop", held), there) / held)
        finding = [await timed(pilot, lambda word=word: shown.look_for(word), shown.listed) for word in words]
        ordering = [
            await timed(pilot, lambda order=order: shown.look_for("turns>3", order), shown.listed)
            for order in ("turns", "changed", "messages", "who", "state") * max(repeats // 5, 1)
        ]
        closest = await timed(pilot, lambda: shown.look_for("margin<.2", "closest"), shown.listed)
        await shown.look_for("")
        await settle(pilot)
        late = await lateness(pilot, ["pagedown"] * 20 + ["down"] * 60)
    return {
        "a key that does nothing": statistics.median(nothing),
        "the screen of trees": shown_after,
        "first 200 trees": listed,
        "open a tree": statistics.median(opening),
        "open a tree of 2,000": statistics.median(long),
        "next tree held down": statistics.median(holding),
        "search": statistics.median(finding),
        "filtered and ordered": statistics.median(ordering),
        "closest first": closest,
        "lateness while scrolling": quantile(late, 0.95),
    }


async def lateness(pilot: Pilot[None], keys: list[str]) -> list[float]:
    """How late the event loop was, beat by beat in milliseconds, while these keys were pressed."""
    late: list[float] = []
    beating = asyncio.create_task(beat(late))
    for key in keys:
        await pilot.press(key)
    await settle(pilot)
    beating.cancel()
    return late


async def beat(late: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(BEAT_S)
        late.append(1000 * (time.perf_counter() - before - BEAT_S))


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


# The engine with the app attached


def configuration(latency_s: float) -> dict[str, Any]:
    """A run whose models cost nothing, with as many calls at once as there are lanes."""
    return {
        "name": "played",
        "turns": 6,
        "models": {"instant": {"kind": "scripted", "permits": LANES, "latency_s": latency_s}},
        "responders": {"plain": {}, "warm": {"hint": True}, "brief": {"hint": True}},
        "limits": {"trees_in_flight": LANES},
    }


async def play(path: Path, trees: int, latency_s: float) -> None:
    """Begin a run, say so, play it once told to, and print what a call cost."""
    config = make_config(configuration(latency_s), "the benchmark")
    models = await open_models(config)
    cast = make_cast(config, models, load_prompts(config, None))
    with Store.open(path) as store:
        run = begin(store, plan_run(cast, personas(trees), None))
    engine = await open_engine(path, run.id, models=models)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    wall, cpu = time.perf_counter(), time.process_time()
    await engine.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    calls = engine.gate.used.calls
    await close_engine(engine)
    print(json.dumps({"cpu_ms_per_call": 1000 * cpu / calls, "calls_per_s": calls / wall}))


class Engine:
    """An engine in a process of its own, which waits to be told to play."""

    def __init__(self, path: Path, trees: int, latency_s: float) -> None:
        command = [sys.executable, __file__, "--child", "play", str(path), str(trees), str(latency_s)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()

    def figures(self) -> dict[str, float]:
        said, _ = self._child.communicate()
        found: dict[str, float] = json.loads(said)
        return found

    def end(self) -> None:
        self._child.kill()
        self._child.communicate()


def cost_of_a_call(folder: Path, name: str, trees: int, *, attached: bool) -> float:
    """Milliseconds of the engine's processor time a call, with the app watching or without."""
    path = folder / f"{name}.db"
    engine = Engine(path, trees, 0.0)
    with ExitStack() as around:
        if attached:
            shown = around.enter_context(opened(path))
            shown.wait_for(b"played")
            shown.press(b"3")
            shown.wait_for(b"roles")
        engine.go()
        return engine.figures()["cpu_ms_per_call"]


async def watch(path: Path, seconds: float) -> dict[str, float]:
    """How late the event loop is, and what it costs, while Monitor watches an engine with all lanes at work."""
    app = EspalierApp(Start(path, fresh=True, mode="monitor"))
    late: list[float] = []
    async with app.run_test(size=SIZE):
        await until(lambda: app.looked)
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(lambda: screen.heard and screen.watching.judges)
        cpu, wall = time.process_time(), time.perf_counter()
        beating = asyncio.create_task(beat(late))
        lanes = 0
        while time.perf_counter() - wall < seconds:
            await asyncio.sleep(0.5)
            lanes = max(lanes, len(screen.lanes.shown(time.monotonic(), 80)))
        beating.cancel()
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return {"p95": quantile(late, 0.95), "max": max(late), "share of a core": share, "lanes": lanes}


def watched(folder: Path, seconds: float) -> dict[str, float]:
    """The same, with the engine at work in a process of its own."""
    path = folder / "watched.db"
    engine = Engine(path, 2_000, 0.08)
    try:
        engine.go()
        return in_child("watch", path, seconds)
    finally:
        engine.end()


# Memory


async def remember(path: Path, trees: int) -> dict[str, float]:
    """Megabytes resident when all trees are listed and this many were opened."""
    app = EspalierApp(Start(path, fresh=True, mode="trees"))
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: app.looked)
        screen = app.screen
        assert isinstance(screen, TreesScreen)
        shown = Opened(pilot, screen, screen.query_one("#tree-table", Table))
        await until(lambda: screen.index.total and shown.table.row_count)
        while not screen.index.complete:
            await timed(pilot, lambda: shown.move(shown.table.row_count - 1))
        listed = resident()
        for row in range(trees):
            await timed(pilot, lambda row=row: shown.move(row % shown.table.row_count), shown.at_the_cursor)
        return {"all listed": listed, "opened": resident()}


async def live_through(path: Path, seconds: int) -> dict[str, float]:
    """Megabytes resident by which the app grew over so many seconds of a run's events, replayed at once.

    A reading a second, the store itself read once a minute, four deltas a second in each of eight lanes.
    """
    app = EspalierApp(Start(path, fresh=True, mode="monitor"))
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: app.looked)
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(lambda: screen.watching.read is not None and screen.watching.judges)
        begins = 600
        before = 0.0
        for second in range(begins + seconds):
            if second == begins:
                gc.collect()
                before = resident()
            pass_a_second(screen, second)
            if second % 10 == 0:
                screen._show()
                screen._draw_lanes()
            if second % 60 == 0:
                await screen._read()
                await screen._read_judges()
                await app.look()
                await pilot.pause()
        gc.collect()
        return {"before": before, "after": resident(), "grown": resident() - before}


def pass_a_second(screen: MonitorScreen, second: int) -> None:
    """What a second of a live run brings to Monitor."""
    read = screen.watching.read
    assert read is not None
    event = replace(read.events[-1], seq=second, data={"verb": f"word {second}"})
    line = replace(read.line, turns=second)
    roles = tuple({**row, "tokens_out": second * 40} for row in read.roles)
    screen.watching = reduce(
        screen.watching,
        replace(read, at=float(second), line=line, roles=roles, events=(*read.events[-199:], event)),
    )
    for lane in range(LANES):
        delta = {"tree": f"{second // 20:032x}", "role": f"role {lane}", "purpose": "speak", "answer": 0}
        for part in range(4):
            screen.lanes.take(json.dumps({**delta, "text": f"word {second} {part} "}).encode(), time.monotonic())


def resident() -> float:
    """Megabytes of memory that this process alone needs: pages of the store that a reader maps are the system's own."""
    memory = psutil.Process().memory_info()
    return float(memory.rss - getattr(memory, "shared", 0)) / 2**20


# On a real terminal


def opened(path: Path) -> Any:
    """The app on a terminal."""
    return on_terminal(["-m", "tui.main", "app", "--fresh", "--store", str(path)], path.parent, width=120, height=40)


def on_a_terminal(path: Path, idle_s: float) -> dict[str, float]:
    """Seconds from the process's start to its first paint and to the runs listed, its cost at rest, and its end."""
    began = time.perf_counter()
    with opened(path) as shown:
        painted = shown.wait_for(b"Monitor") - began
        listed = shown.wait_for(b"benchmark") - began
        time.sleep(1.0)
        share = at_rest(shown, idle_s)
        before = time.perf_counter()
        shown.press(b"\x11")
        shown.child.wait(20)
        ended = time.perf_counter() - before
    return {"first paint": painted, "runs listed": listed, "share of a core at rest": share, "end": ended}


def at_rest(shown: Terminal, seconds: float) -> float:
    process = psutil.Process(shown.child.pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / seconds


def start_of_peer(folder: Path) -> float:
    """Seconds from the start of a Textual app with nothing in it to its first paint."""
    began = time.perf_counter()
    with on_terminal(["-c", PEER], folder, width=120, height=40) as shown:
        return shown.wait_for(b"it is there") - began


# The whole


CHILDREN: dict[str, Callable[..., Awaitable[object]]] = {
    "waits": lambda path, repeats: waits(Path(path), int(repeats)),
    "play": lambda path, trees, latency: play(Path(path), int(trees), float(latency)),
    "watch": lambda path, seconds: watch(Path(path), float(seconds)),
    "remember": lambda path, trees: remember(Path(path), int(trees)),
    "day": lambda path, seconds: live_through(Path(path), int(seconds)),
}


def in_child(part: str, *arguments: object) -> dict[str, float]:
    """One part in a process of its own, so that memory and caches are its own."""
    command = [sys.executable, __file__, "--child", part, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def measured(folder: Path, kept: Path, sizes: Sizes) -> tuple[dict[str, Any], list[Bar]]:
    large, small = stores(kept, sizes.trees)
    looks: dict[Path, list[dict[str, float]]] = {small: [], large: []}
    ends: dict[Path, list[dict[str, float]]] = {small: [], large: []}
    peers = []
    for number in range(sizes.rounds):
        for path, found in looks.items():
            found.append(in_child("waits", path, 5 if sizes is QUICK else 15))
        say(f"waits {number + 1}/{sizes.rounds}: {shortly(looks[large][-1])}")
    for number in range(sizes.starts):
        peers.append(start_of_peer(folder))
        for path, found in ends.items():
            found.append(on_a_terminal(path, sizes.watched_s / 3))
        say(f"start {number + 1}/{sizes.starts}: {shortly(ends[large][-1])}; an empty app {peers[-1]:.2f}")
    lanes = watched(folder, sizes.watched_s)
    say(f"eight lanes: {shortly(lanes)}")
    costs: dict[bool, list[float]] = {False: [], True: []}
    for number in range(sizes.pairs):
        for attached in (False, True) if number % 2 else (True, False):
            name = f"pair-{number}-{attached}"
            costs[attached].append(cost_of_a_call(folder, name, sizes.pair_trees, attached=attached))
        say(
            f"pair {number + 1}/{sizes.pairs}: {costs[True][-1]:.3f} ms a call attached, {costs[False][-1]:.3f} without"
        )
    memory = in_child("remember", large, sizes.opened)
    say(f"megabytes: {shortly(memory)}")
    day = in_child("day", folder / "pair-0-True.db", sizes.day_s)
    say(f"megabytes over {sizes.day_s / 3600:g} h of events: {shortly(day)}")
    of_large, of_small, end = medians(looks[large]), medians(looks[small]), medians(ends[large])
    ratios = [with_app / without for with_app, without in zip(costs[True], costs[False], strict=True)]
    figures = {
        "trees": {"large": sizes.trees, "small": sizes.trees // 10},
        "waits_ms": {"large": of_large, "small": of_small},
        "growth": {what: of_large[what] / of_small[what] for what in of_large},
        "terminal_s": {"large": end, "small": medians(ends[small]), "an empty Textual app": statistics.median(peers)},
        "eight_lanes_ms": lanes,
        "engine_ms_a_call": {"attached": costs[True], "without": costs[False], "ratios": ratios},
        "megabytes": memory,
        "megabytes_over_a_day": {**day, "seconds": sizes.day_s},
    }
    bars = [
        *(Bar(f"{what}: growth over ten times the trees", figures["growth"][what], at_most=1.3) for what in GROWING),
        Bar("first paint of Home, s", end["first paint"], at_most=0.8),
        Bar(
            "first 200 trees after the first paint of their screen, s", of_large["first 200 trees"] / 1000, at_most=0.3
        ),
        Bar("open a tree of 50, ms", of_large["open a tree"], at_most=60),
        Bar("open a tree of 2,000, ms", of_large["open a tree of 2,000"], at_most=300),
        Bar("next tree held down, trees a second", 1000 / of_large["next tree held down"], at_least=20),
        Bar("search, ms", of_large["search"], at_most=100),
        Bar("filtered and ordered, ms", of_large["filtered and ordered"], at_most=150),
        Bar("closest first, ms", of_large["closest first"], at_most=150),
        Bar("event loop late while scrolling, p95 ms", of_large["lateness while scrolling"], at_most=60),
        Bar("event loop late while eight lanes write, p95 ms", lanes["p95"], at_most=60),
        Bar("Monitor with eight lanes, share of a core", lanes["share of a core"], at_most=0.4),
        Bar("engine's CPU a call, attached against without", statistics.median(ratios), at_most=1.05),
        Bar(f"MB of its own, all listed and {sizes.opened} opened", memory["opened"], at_most=180),
        Bar(f"MB grown over {sizes.day_s / 3600:g} h of events", day["grown"], at_most=20),
        Bar("left with a key, s", end["end"], at_most=1.0),
        Bar("at rest, share of a core", end["share of a core at rest"], at_most=0.02),
    ]
    return figures, bars


def shortly(found: dict[str, float]) -> str:
    return ", ".join(f"{what} {value:.3g}" for what, value in found.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same keys on smaller stores, within a minute")
    parser.add_argument("--stores", type=Path, help="keep the stores in this folder")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("XDG_RUNTIME_DIR", name)
        if given.child:
            part, *arguments = given.child
            if part != "play":
                spare_pauses()
            found = asyncio.run(CHILDREN[part](*arguments))
            if found is not None:
                print(json.dumps(found))
            return 0
        os.environ["XDG_CONFIG_HOME"] = name
        figures, bars = measured(Path(name), (given.stores or Path(name)).resolve(), QUICK if given.quick else FULL)
    return finish("tui", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
