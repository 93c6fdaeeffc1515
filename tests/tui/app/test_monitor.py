"""Monitor and Home on a run that is being played: by an engine in this process, and by one in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from simulation.engine import Engine, close_engine
from tests.support.play import begun, configuration, engine_for
from tests.support.screens import Driven
from tests.tui.app.conftest import Opening
from trees.jobs import lock_of, take_lock
from trees.store import Store
from trees.verify import verify
from tui.app.app import EspalierApp
from tui.app.dialogs import Question
from tui.app.screens import monitor as monitor_module
from tui.app.screens.monitor import MonitorScreen
from tui.app.watching import Read, read_run

SLOW = {"models": {"scripted": {"kind": "scripted", "latency_s": 0.05}}}


@asynccontextmanager
async def at_work(path: Path) -> AsyncIterator[Engine]:
    """An engine that plays slowly enough to be steered."""
    engine = await engine_for(path, configuration(turns=60, **SLOW))
    task = asyncio.create_task(engine.run())
    try:
        yield engine
    finally:
        engine.stop("the test is over")
        await task
        await close_engine(engine)


def monitor(driven: Driven) -> MonitorScreen:
    assert isinstance(driven.screen, MonitorScreen)
    return driven.screen


async def shows(driven: Driven, word: str) -> None:
    screen = monitor(driven)
    await driven.until(lambda: screen.watching.read and screen.watching.read.line.word == word, f"the run is {word}")


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
async def test_a_finished_run_in_monitor(
    opening: Opening, snapshot: Callable[[str], None], width: int, height: int
) -> None:
    async with opening(width, height, mode="monitor") as driven:
        screen = monitor(driven)
        await driven.until(lambda: screen.watching.read and screen.watching.judges, "it is read")
        for row in screen.query("#model-table, #event-told").results():
            row.visible = False
        await driven.settle()
        snapshot("\n".join(line for line in driven.text().splitlines() if " s " not in line) + "\n")


async def test_a_run_is_paused_gone_on_with_and_stopped(opening: Opening, store_path: Path) -> None:
    async with at_work(store_path) as engine, opening(160, 50, mode="monitor", live=True) as driven:
        await shows(driven, "running")
        await driven.press("space")
        await shows(driven, "paused")
        assert engine.gate.paused == "soft"
        await driven.press("space")
        await shows(driven, "running")
        await driven.press("P")
        await shows(driven, "paused")
        assert engine.gate.paused == "hard"
        await driven.press("S")
        assert isinstance(driven.app.screen, Question)
        await driven.press("escape")
        assert engine.gate.halted is None
        await driven.press("S", "left", "enter")
        await shows(driven, "stopped")
        assert "R goes on" in driven.text()


async def test_what_models_write_is_heard_and_their_calls_are_retuned(opening: Opening, store_path: Path) -> None:
    async with at_work(store_path) as engine, opening(160, 50, mode="monitor", live=True) as driven:
        screen = monitor(driven)
        await driven.until(lambda: screen.lanes.shown(time.monotonic(), 40), "a model is heard writing")
        await driven.until(lambda: screen.query_one("#model-table").row_count, "the model is measured")
        screen.query_one("#model-table").focus()
        screen.action_permits(1)
        seat = engine._calls.seats["scripted"]
        await driven.until(lambda: seat.permits.most == seat.permits.limit, "the number of calls is fixed")


class Speaker:
    """An engine's socket that says one word again and again to whoever listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners = 0

    async def begin(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._speak, self.path)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.listeners += 1
        said = {"tree": "0" * 32, "role": "user", "purpose": "speak", "answer": 0, "text": "aubergine"}
        gone = asyncio.create_task(reader.read())
        while not gone.done():
            writer.write(json.dumps(said).encode() + b"\n")
            await asyncio.wait([gone], timeout=0.1)
        self.listeners -= 1
        writer.close()


async def test_lanes_are_heard_once_the_engine_listens_and_of_the_run_that_is_watched_alone(
    opening: Opening, store_path: Path, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await begun(store_path, configuration(turns=2))
    speaker = Speaker(tmp_path / "s")
    tried: list[str] = []

    def heard_from(store: Store, run: str, now: float) -> Read:
        tried.append(run)
        return replace(read_run(store, run, now), socket=str(speaker.path) if run == run_id else None)

    monkeypatch.setattr(monitor_module, "read_run", heard_from)
    async with opening(160, 50, mode="monitor") as driven:
        screen = monitor(driven)
        driven.app.run_id = run_id
        screen.refresh_view()
        await driven.until(lambda: run_id in tried and screen.watching.read, "it was looked for the engine's socket")
        assert not screen.heard
        async with await speaker.begin():
            await driven.until(lambda: "aubergine" in driven.text(), "it is heard though it was tried too early")
            driven.app.run_id = other.id
            screen.refresh_view()
            await driven.until(lambda: not speaker.listeners, "nobody listens to the run that was left")
            await driven.until(lambda: screen.watching.read, "the other run is read")
            assert not screen.heard
            screen._draw_lanes()
            await driven.settle()
            assert "aubergine" not in driven.text()


async def test_quitting_with_a_live_run_asks_and_never_ends_it(opening: Opening, store_path: Path, run_id: str) -> None:
    with Store.open(store_path) as store:
        lock = take_lock(store, run_id, "run")
    async with opening(live=True) as driven:
        await driven.until(lambda: any(line.live for line in driven.app.runs), "the run is seen")
        await driven.press("ctrl+q")
        assert "goes on without this window" in driven.text()
        await driven.press("enter")
        assert driven.app._exit is False
        await driven.press("ctrl+q", "left", "enter")
        assert driven.app._exit
    with Store.read(store_path) as store:
        assert lock_of(store, run_id) == lock


async def test_a_killed_engine_is_crashed_and_resumed_with_nothing_lost(opening: Opening, store_path: Path) -> None:
    run = await begun(store_path, configuration(turns=40, **SLOW))
    async with opening(mode="home", live=True) as driven:
        await driven.press("R")
        await driven.until(lambda: driven.app.current_run().live, "an engine of its own is at work")
        with Store.read(store_path) as store:
            lock = lock_of(store, run.id)
        assert lock is not None
        assert lock.pid != os.getpid()
        await driven.until(lambda: driven.app.current_run().turns > 2, "some turns are stored")
        os.kill(lock.pid, signal.SIGKILL)
        await driven.until(lambda: driven.app.current_run().word == "crashed", "the app sees that it died")
        await driven.press("1", "R")
        await driven.until(lambda: driven.app.current_run().word == "done", "the run is played to its end")
    with Store.read(store_path) as store:
        assert verify(store).clean


async def test_what_monitor_saw_last_counts_when_a_run_is_to_be_resumed(
    opening: Opening, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Home's slower list still shows an engine that Monitor has seen die."""
    await begun(store_path, configuration())
    asked: list[tuple[str, ...]] = []

    async def have_done(_: EspalierApp, what: str, *arguments: str) -> None:
        asked.append((what.split()[0], *arguments[:1]))

    monkeypatch.setattr(EspalierApp, "have_done", have_done)
    async with opening(mode="monitor") as driven:
        await driven.until(lambda: "R begins it" in driven.text(), "Monitor says how it stands")
        seen = driven.app.runs[0]
        driven.app.runs = (replace(seen, word="running", pid=os.getpid(), read_at=seen.read_at - 1),)
        await driven.press("R")
        await driven.until(lambda: asked == [("resuming", "resume")], "it is resumed")
        driven.app.runs = (replace(seen, word="running", pid=os.getpid(), read_at=seen.read_at + 1),)
        await driven.press("R")
        await driven.until(lambda: bool(driven.app._notifications), "it is said why not")
    assert len(asked) == 1


async def test_what_was_begun_goes_on_when_the_app_is_left(opening: Opening, store_path: Path) -> None:
    run = await begun(store_path, configuration(**SLOW))
    async with opening(live=True) as driven:
        driven.app.set_to_work(partial(_play_in_a_child, driven.app, run.id))
        await driven.until(lambda: driven.app.current_run().live, "a child plays it")
    with Store.read(store_path) as store:
        async with asyncio.timeout(60):
            while store.run(run.id).state != "finished":  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)


async def _play_in_a_child(app: EspalierApp, run_id: str) -> None:
    await app.have_done("playing", "resume", run_id)
