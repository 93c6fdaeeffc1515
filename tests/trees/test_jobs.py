"""Jobs: one live engine each, and rows by which others speak to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trees.errors import Locked
from trees.jobs import (
    LATE_S,
    Lock,
    answer,
    ask,
    command,
    commands,
    events,
    heartbeat,
    live_engine,
    lock_of,
    process_started,
    release,
    take,
    take_lock,
    whoami,
)
from trees.store import Store
from trees.writes import keep_event


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as store:
        yield store


@contextmanager
def another_process() -> Iterator[int]:
    """The pid of a process that lives as long as the block."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def hold(store: Store, pid: int, started: float, *, host: str | None = None, beat: float | None = None) -> None:
    """A lock row of another process."""
    now = time.time()
    row = ("job", "run", host or socket.gethostname(), pid, started, now, now if beat is None else beat, None)
    store.apply([("INSERT INTO locks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)])


def holder(store: Store) -> Lock:
    lock = lock_of(store, "job")
    assert lock is not None
    return lock


def test_a_lock_names_this_very_process(store: Store) -> None:
    assert lock_of(store, "job") is None
    lock = take_lock(store, "job", "run", "/somewhere.sock")
    assert lock == holder(store)
    assert (lock.pid, lock.host, lock.process_started) == (
        os.getpid(),
        socket.gethostname(),
        process_started(os.getpid()),
    )
    assert live_engine(store, "job") == lock


def test_a_second_live_engine_is_refused_with_the_pid(store: Store) -> None:
    with another_process() as pid:
        hold(store, pid, process_started(pid) or 0.0)
        with pytest.raises(Locked, match=f"pid {pid} on {socket.gethostname()}") as refused:
            take_lock(store, "job", "run")
        assert refused.value.exit_code == 4
        assert holder(store).pid == pid
        take_lock(store, "another job", "run")


def test_a_dead_engine_s_lock_is_taken_over(store: Store) -> None:
    with another_process() as pid:
        started = process_started(pid)
    assert started is not None
    hold(store, pid, started)
    assert live_engine(store, "job") is None
    assert take_lock(store, "job", "run").pid == os.getpid()
    assert holder(store).pid == os.getpid()


def test_a_reused_pid_is_not_mistaken_for_the_engine(store: Store) -> None:
    with another_process() as pid:
        hold(store, pid, (process_started(pid) or 0.0) - 1)
        assert take_lock(store, "job", "run").pid == os.getpid()


def test_a_dead_engine_that_had_our_pid_is_taken_over(store: Store) -> None:
    hold(store, os.getpid(), (process_started(os.getpid()) or 0.0) - 1)
    assert take_lock(store, "job", "run") == holder(store)


def test_another_host_is_judged_by_its_heartbeat(store: Store) -> None:
    hold(store, 1, 0.0, host="elsewhere")
    with pytest.raises(Locked, match="on elsewhere"):
        take_lock(store, "job", "run")
    store.apply([("UPDATE locks SET heartbeat_at = heartbeat_at - ?", (LATE_S + 1,))])
    assert take_lock(store, "job", "run").host == socket.gethostname()


def test_heartbeat_and_release_touch_only_the_own_lock(store: Store) -> None:
    lock = take_lock(store, "job", "run")
    store.apply([("UPDATE locks SET heartbeat_at = 0", ())])
    store.apply(heartbeat(lock))
    assert holder(store).heartbeat_at > 0
    with another_process() as pid:
        store.apply([("DELETE FROM locks", ())])
        hold(store, pid, process_started(pid) or 0.0)
        store.apply([*heartbeat(lock), *release(lock)])
        assert holder(store).pid == pid
    store.apply(release(holder(store)))
    assert lock_of(store, "job") is None


def test_processes_are_told_apart_by_their_start() -> None:
    assert process_started(os.getpid()) is not None
    with another_process() as pid:
        assert process_started(pid) != process_started(os.getpid())
    assert process_started(pid) is None


def test_commands_go_round(store: Store) -> None:
    first = ask(store, "job", "pause", {"hard": True})
    second = ask(store, "job", "permits", {"model": "m\ud800", "limit": 2})
    ask(store, "another job", "stop", {})
    assert [(c.id, c.verb, c.args, c.asked_by) for c in commands(store, "job")] == [
        (first, "pause", {"hard": True}, whoami()),
        (second, "permits", {"model": "m\ud800", "limit": 2}, whoami()),
    ]
    store.apply(take(first))
    assert [c.id for c in commands(store, "job", state="taken")] == [first]
    store.apply([*answer(first, {"paused": "hard"}), *answer(second, {"error": "no"}, refused=True)])
    assert commands(store, "job") == []
    assert [(command(store, n).state, command(store, n).result) for n in (first, second)] == [
        ("done", {"paused": "hard"}),
        ("refused", {"error": "no"}),
    ]
    with pytest.raises(IndexError):
        command(store, 99)


def test_events_are_read_in_order_from_where_one_stopped(store: Store) -> None:
    for number in range(5):
        store.apply(keep_event("job", "tick", {"number": number}))
    store.apply(keep_event("another job", "tick", {}))
    first = events(store, "job", limit=2)
    assert [e.data["number"] for e in first] == [0, 1]
    assert [e.data["number"] for e in events(store, "job", after=first[-1].seq)] == [2, 3, 4]
