"""Grouped commits: durable when they say so, whole for each caller, and a bad write hurts nobody else."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from trees.errors import StoreError, StoreFull
from trees.store import Store
from trees.writer import Writer
from trees.writes import Write, keep_event

BAD: dict[str, Write] = {
    "constraint": ("INSERT INTO trees (id) VALUES ('t')", ()),
    "syntax": ("INSERT INTO nothing", ()),
    "number beyond 64 bits": (
        "INSERT INTO events (job_id, kind, data, at) VALUES ('j', 'k', ?, 0)",
        (2**70,),
    ),
    "unescaped surrogate": (
        "INSERT INTO events (job_id, kind, data, at) VALUES ('j', ?, '', 0)",
        ("\ud800",),
    ),
    "no SQL value": ("INSERT INTO events (job_id, kind, data, at) VALUES ('j', ?, '', 0)", (object(),)),
}


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    writer = Writer(tmp_path / "store.db")
    yield writer
    await writer.close()


def kinds(path: Path) -> list[str]:
    """The events that another connection sees."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT kind FROM events ORDER BY seq")]


async def test_what_was_committed_is_seen_by_others_at_once(writer: Writer, tmp_path: Path) -> None:
    for number in range(5):
        await writer.commit(keep_event("job", f"event {number}", {}))
        assert kinds(tmp_path / "store.db") == [f"event {n}" for n in range(number + 1)]
    await writer.commit([])


async def test_many_writers_share_few_commits(writer: Writer, tmp_path: Path) -> None:
    await asyncio.gather(*(writer.commit(keep_event("job", str(n), {})) for n in range(200)))
    assert kinds(tmp_path / "store.db") == [str(n) for n in range(200)]
    assert writer.groups < 20


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_write_fails_its_caller_alone_and_whole(writer: Writer, tmp_path: Path, bad: Write) -> None:
    asked = [
        writer.commit(keep_event("job", "before", {})),
        writer.commit([*keep_event("job", "half of a bad one", {}), bad]),
        writer.commit(keep_event("job", "after", {})),
    ]
    before, refused, after = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
    assert isinstance(refused, StoreError)
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    await writer.commit(keep_event("job", "later", {}))
    assert kinds(tmp_path / "store.db") == ["before", "after", "later"]


async def test_a_cancelled_caller_loses_nobody_s_writes(writer: Writer, tmp_path: Path) -> None:
    cancelled = asyncio.create_task(writer.commit(keep_event("job", "cancelled", {})))
    other = asyncio.create_task(writer.commit(keep_event("job", "other", {})))
    await asyncio.sleep(0)
    cancelled.cancel()
    await other
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert kinds(tmp_path / "store.db") == ["cancelled", "other"]


async def test_closing_commits_what_waits(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "store.db")
    waiting = asyncio.create_task(writer.commit(keep_event("job", "last", {})))
    await asyncio.sleep(0)
    await writer.close()
    await waiting
    assert kinds(tmp_path / "store.db") == ["last"]


async def test_a_full_disk_is_told_to_whoever_wrote(writer: Writer, tmp_path: Path) -> None:
    await writer.commit(keep_event("job", "kept", {}))
    connection = writer._store.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull):
        await writer.commit(keep_event("job", "too big", {"text": "x" * 200_000}))
    connection.execute("PRAGMA max_page_count = 1073741823")
    await writer.commit(keep_event("job", "room again", {}))
    assert kinds(tmp_path / "store.db") == ["kept", "room again"]


def hold_the_store(path: str, here: Connection) -> None:
    """In another process: begin a write, say so, and end it when told to."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO events (job_id, kind, data, at) VALUES ('job', 'theirs', '{}', 0)")
        here.send("holding")
        here.recv()
        connection.execute("COMMIT")


async def test_another_process_s_write_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store.open(path).close()
    writer = Writer(path)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    holder = context.Process(target=hold_the_store, args=(str(path), there))
    holder.start()
    assert await asyncio.to_thread(here.recv) == "holding"
    mine = asyncio.create_task(writer.commit(keep_event("job", "mine", {})))
    done, _ = await asyncio.wait([mine], timeout=0.1)
    assert not done
    here.send("go on")
    await mine
    holder.join()
    await writer.close()
    assert kinds(path) == ["theirs", "mine"]
