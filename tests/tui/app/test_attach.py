"""The app and engines as processes that come and go: killed, hung up, looked at twice, their store moved or too new."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from simulation.deltas import socket_path
from simulation.engine import Engine, close_engine
from tests.support.command_line import ROOT
from tests.support.play import begun, configuration, engine_for
from tests.support.screens import Driven
from tests.support.terminal import LEAVES, Terminal, app
from tests.tui.app.conftest import Opening
from trees.store import Store
from trees.verify import verify
from tui.app.screens.monitor import MonitorScreen
from tui.app.screens.trees import TreesScreen

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


@contextmanager
def engine_process(store: Path, run_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """An engine in a process of its own, at work."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "tui.main", "resume", run_id, "--store", str(store)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def turns_of(store: Path, run_id: str) -> int:
    with Store.read(store) as read:
        return int(read.rows("SELECT total(turns) FROM trees WHERE run_id = ?", (run_id,))[0][0])


def digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def played_on(store: Path, run_id: str) -> None:
    """Wait until more turns are stored than there were."""
    before, ends = turns_of(store, run_id), time.monotonic() + 60
    while turns_of(store, run_id) <= before:
        assert time.monotonic() < ends, "nobody plays it"
        time.sleep(0.02)


def attached(shown: Terminal) -> None:
    """Wait until the app on a terminal watches the run."""
    shown.wait_for(b"small")
    shown.press(b"3")
    shown.wait_for(b"inducer")


async def monitor(driven: Driven, word: str) -> MonitorScreen:
    screen = driven.screen
    assert isinstance(screen, MonitorScreen)
    await driven.until(lambda: screen.watching.read and screen.watching.read.line.word == word, f"the run is {word}")
    return screen


async def test_the_app_and_the_engine_are_killed_and_nothing_is_lost(store_path: Path) -> None:
    run = await begun(store_path, configuration(turns=400, **SLOW))
    with engine_process(store_path, run.id) as engine:
        with app(store_path.parent) as shown:
            await asyncio.to_thread(attached, shown)
            shown.child.send_signal(signal.SIGKILL)
            shown.child.wait(60)
        await asyncio.to_thread(played_on, store_path, run.id)
        with app(store_path.parent) as shown:
            await asyncio.to_thread(attached, shown)
            shown.forget()
            engine.kill()
            engine.wait()
            shown.wait_for(b"crashed")
            shown.wait_for(b"R resumes")
            kept = turns_of(store_path, run.id)
            shown.forget()
            shown.press(b"R")
            shown.wait_for(b"running")
            await asyncio.to_thread(played_on, store_path, run.id)
            shown.press(b"S")
            shown.wait_for(b"Stop run")
            shown.press(b"\x1b[D\r")
            shown.wait_for(b"stopped")
    with Store.read(store_path) as store:
        assert verify(store).clean
    assert turns_of(store_path, run.id) > kept


async def test_a_closed_terminal_ends_the_app_and_not_the_run(store_path: Path) -> None:
    run = await begun(store_path, configuration(turns=400, **SLOW))
    with engine_process(store_path, run.id), app(store_path.parent) as shown:
        await asyncio.to_thread(attached, shown)
        shown.hang_up()
        assert await asyncio.to_thread(shown.child.wait, 60) is not None
        await asyncio.to_thread(played_on, store_path, run.id)


@pytest.mark.usefixtures("run_id")
def test_told_by_a_signal_that_the_terminal_goes_it_gives_it_back(store_path: Path) -> None:
    with app(store_path.parent) as shown:
        shown.wait_for(b"small")
        shown.child.send_signal(signal.SIGHUP)
        shown.wait_for(LEAVES)
        assert shown.child.wait(60) == 0


async def test_two_apps_on_one_run_see_what_either_does(opening: Opening, store_path: Path) -> None:
    async with (
        at_work(store_path) as engine,
        opening(160, 50, mode="monitor", live=True) as one,
        opening(160, 50, mode="monitor", live=True) as other,
    ):
        first, second = await monitor(one, "running"), await monitor(other, "running")
        await one.press("space")
        await monitor(one, "paused")
        await monitor(other, "paused")
        await other.until(lambda: "space goes on" in other.text(), "what to do is said")
        await other.until(lambda: "pause" in str(second.query_one("#event-told").render()), "who paused it is told")
        await other.press("space")
        await monitor(one, "running")
        assert engine.gate.paused is None
        assert first.watching.run_id == second.watching.run_id


async def test_an_engine_that_cannot_be_heard_is_still_watched(opening: Opening, store_path: Path) -> None:
    async with at_work(store_path) as engine:
        socket = socket_path(store_path, engine.run_row.id)
        while not socket.exists():  # noqa: ASYNC110 - the engine makes it when it begins
            await asyncio.sleep(0.01)
        socket.unlink()
        async with opening(160, 50, mode="monitor", live=True) as driven:
            screen = await monitor(driven, "running")
            await driven.until(lambda: "cannot be heard from here" in driven.text(), "it is said")
            assert "live (polling)" in driven.text()
            before = screen.watching.read.line.turns if screen.watching.read else 0
            await driven.until(lambda: screen.watching.read and screen.watching.read.line.turns > before, "it goes on")


@pytest.mark.usefixtures("run_id")
async def test_a_store_moved_away_is_said_to_be_gone_and_is_shown_again_when_it_is_back(
    opening: Opening, store_path: Path, tmp_path: Path
) -> None:
    async with opening(mode="home") as driven:
        await driven.until(lambda: driven.app.runs, "the run is listed")
        elsewhere = tmp_path / "elsewhere.db"
        os.rename(store_path, elsewhere)
        await driven.until(lambda: "there is no store at" in driven.text(), "it is said to be gone")
        assert "! the store cannot be read" in driven.text()
        await driven.press("4")
        await driven.until(lambda: "there is no store at" in driven.text(), "Trees says so too")
        os.rename(elsewhere, store_path)
        await driven.press("1")
        await driven.until(lambda: "runs 1" in driven.text(), "it is shown again")
        await driven.press("4")
        screen = driven.screen
        assert isinstance(screen, TreesScreen)
        await driven.until(lambda: screen.index.total == 2, "its trees are listed")
        assert "there is no store at" not in driven.text()


@pytest.mark.usefixtures("run_id")
async def test_another_store_in_its_place_is_shown(opening: Opening, store_path: Path, tmp_path: Path) -> None:
    async with opening(mode="home") as driven:
        await driven.until(lambda: driven.app.runs, "the run is listed")
        other = tmp_path / "other.db"
        Store.open(other).close()
        os.replace(other, store_path)
        for side in ("-wal", "-shm"):
            store_path.with_name(store_path.name + side).unlink(missing_ok=True)
        await driven.until(lambda: "Nothing has been played" in driven.text(), "the other one is empty")


@pytest.mark.usefixtures("run_id")
async def test_a_store_of_a_newer_version_is_refused_in_words_and_left_alone(
    opening: Opening, store_path: Path
) -> None:
    with Store.open(store_path) as store:
        store.connection.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)",
                                 ("espalier", "9999_later", "2040-01-01"))  # fmt: skip
        store.connection.commit()
    before = digest_of_file(store_path)
    async with opening(mode="home", live=True) as driven:
        for key in "1234":
            await driven.press(key)
            await driven.until(lambda: "! the store cannot be read" in driven.text(), "the pill says so")
        await driven.press("1")
        assert "was written by a newer version" in driven.text()
        assert "Upgrade espalier-lm" in driven.text()
    assert digest_of_file(store_path) == before


async def test_a_file_that_is_no_store_is_refused_in_words(opening: Opening, store_path: Path, tmp_path: Path) -> None:
    shutil.copy(__file__, store_path)
    # Wide enough for the longest name of a temporary folder to stand in one line.
    async with opening(240, 40, mode="home", live=True) as driven:
        await driven.until(lambda: "! the store cannot be read" in driven.text(), "the pill says so")
        assert store_path.name in driven.text()


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize("whose", ["the screen's", "the app's"])
async def test_an_answer_that_comes_while_the_screen_is_taken_down_is_passed_over(opening: Opening, whose: str) -> None:
    async with opening(mode="trees") as driven:
        screen = driven.screen
        assert isinstance(screen, TreesScreen)
        await driven.until(lambda: screen.index.total == 2, "its trees are listed")

        async def reread() -> None:
            while screen.query("#tree-table"):  # noqa: ASYNC110 - nothing is told when a widget has gone
                await asyncio.sleep(0)
            screen._show_list()

        if whose == "the app's":
            driven.app.set_to_work(reread)
        else:
            screen.ask("page", reread, screen.pane("index"))
        await asyncio.sleep(0)
    # Leaving raises what brought the app down, if anything did.
    assert not screen.query("#tree-table")
