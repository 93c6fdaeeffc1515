"""Engines as the command line starts them: in this process with its signals, in the background, or by command
rows.

Invariant: whatever ends a command, models that were opened here are closed, and a lock taken here is given
back unless the process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from trees.errors import EspalierError, SetupError
from tui.console import say

if TYPE_CHECKING:
    from agents.models.protocol import Model
    from simulation.config import RunConfig
    from simulation.engine import Engine
    from trees.store import Store
    from trees.values import RunState
    from tui.progress import Below

LONG = ("judge",)
"""What an engine is asked for that may take hours: how it goes is shown."""
POLL_S = 0.1
"""How often the answer to a command is looked for, in seconds."""
_ROOT = Path(__file__).resolve().parents[1]


_GOING_ON = {
    "run": "espalier resume {}",
    "training": "espalier train resume {}",
    "rounds": "espalier rounds FILE; espalier rounds show {} names the file",
}


class NoEngine(EspalierError):
    """Nobody is at work on the run."""


class Refused(EspalierError):
    """The engine would not or could not do what it was asked."""

    exit_code = 1


@dataclass(frozen=True)
class Launch:
    """What an engine is started with."""

    path: Path
    run_id: str
    config: RunConfig | None = None
    models: Mapping[str, Model] | None = None
    retry_failed: bool = False
    quiet: bool = False
    """Whether no progress is shown."""
    below: Below | None = None
    """What is shown below the progress."""


@dataclass
class Ending:
    """How an engine left."""

    state: RunState
    interrupted: bool
    failed_trees: int


async def play(launch: Launch) -> Ending:
    """Be the run's engine until it is finished or told to stop. Raises what the engine could not get over."""
    from trees.store import Store
    from tui.progress import shown

    with stopping() as signals:
        engine = await _open(launch)
        signals.stop = lambda: engine.stop("interrupted")
        try:
            async with shown(launch.path, engine.run_row, quiet=launch.quiet, below=launch.below):
                state = await engine.run(retry_failed=launch.retry_failed)
        finally:
            await _close(engine)
    if engine.failure is not None:
        raise engine.failure
    with Store.read(launch.path) as store:
        sql = "SELECT count(*) FROM trees WHERE run_id = ? AND state = 'failed'"
        failed = store.rows(sql, (launch.run_id,))[0][0]
    return Ending(state, signals.received > 0, failed)


async def ask_and_wait(
    store: Store,
    run_id: str,
    verb: str,
    args: Mapping[str, object],
    *,
    kind: Literal["run", "training", "rounds"] = "run",
) -> dict[str, Any]:
    """Ask the live engine of a job for something and wait for its answer. Raises NoEngine or Refused."""
    from trees.jobs import ask, live_engine

    resume = _GOING_ON[kind].format(run_id[:8])
    if live_engine(store, run_id) is None:
        hint = f"Start one: {resume}"
        raise NoEngine(f"no engine is at work on {kind} {run_id[:8]}, so nobody can {verb} it", hint=hint)
    number = ask(store, run_id, verb, args)
    while live_engine(store, run_id) is not None:
        if (result := _answered(store, number)) is not None:
            return result
        await asyncio.sleep(POLL_S)
    if (result := _answered(store, number)) is not None:
        return result
    hint = "It is over for that engine." if verb in ("stop", "pause", "resume") else f"Ask again, or: {resume}"
    raise NoEngine(f"the engine of {kind} {run_id[:8]} left before it answered {verb!r}", hint=hint)


async def have_done(path: Path, run_id: str, verb: str, args: Mapping[str, object]) -> dict[str, Any]:
    """Have something done to a run: by its live engine, else by one that does only this. Raises Refused."""
    from trees.jobs import ask, live_engine
    from trees.store import Store
    from tui.progress import shown

    with Store.open(path) as store:
        if live_engine(store, run_id) is not None:
            return await ask_and_wait(store, run_id, verb, args)
        if (kind := store.run(run_id).kind) != "play":
            hint = "Only runs that were played have roles that can go on."
            raise SetupError(f"run {run_id[:8]} is a {kind} run: nobody in it can {verb}", hint=hint)
        with stopping() as signals:
            engine = await _open(Launch(path, run_id))
            signals.stop = lambda: engine.stop("interrupted")
            number = ask(store, run_id, verb, args)
            try:
                async with shown(path, engine.run_row, quiet=verb not in LONG):
                    await engine.run(play=False)
            finally:
                await _close(engine)
        if engine.failure is not None:
            raise engine.failure
        result = _answered(store, number)
        if result is None:
            raise Refused(f"run {run_id[:8]}: {verb!r} was not done ({engine.gate.halted or 'the engine left'})")
        return result


def _answered(store: Store, number: int) -> dict[str, Any] | None:
    from trees.jobs import command

    asked = command(store, number)
    if asked.state == "refused":
        raise Refused(str((asked.result or {}).get("error", "refused without a reason")))
    return (asked.result or {}) if asked.state == "done" else None


async def _open(launch: Launch) -> Engine:
    from simulation.cast import close_models
    from simulation.engine import open_engine
    from train.adapters import StoredAdapters

    adapters = StoredAdapters(launch.path)
    try:
        return await open_engine(
            launch.path, launch.run_id, config=launch.config, models=launch.models, adapters=adapters
        )
    except BaseException:
        await close_models(launch.models or {})
        raise


async def _close(engine: Engine) -> None:
    from simulation.engine import close_engine

    await close_engine(engine)


# Signals


class Signals:
    """The first SIGINT or SIGTERM lets what is in flight be finished; the second ends the process."""

    def __init__(self, main: asyncio.Task[Any]) -> None:
        self._main = main
        self.stop: Callable[[], None] | None = None
        """Lets no further call start; None while nothing is at work."""
        self.received = 0

    def __call__(self) -> None:
        self.received += 1
        if self.received > 1:
            _give_up()
        if self.stop is None:
            self._main.cancel()
            return
        self.stop()
        say("stopping: what is in flight is finished and kept; again to give up at once", stderr=True)


def _give_up() -> NoReturn:
    """End now. Nothing needs saving: every answer that came is on disk, and a dead engine's lock is taken
    over.
    """
    say("gave up; whatever was in flight will be asked again", stderr=True)
    os._exit(130)


@contextlib.contextmanager
def stopping(stop: Callable[[], None] | None = None) -> Iterator[Signals]:
    """Take signals while the body is at work; without a `stop` they cancel it, until one is set."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signals = Signals(task)
    signals.stop = stop
    # Signals reach the main thread only; elsewhere (an embedding program, a test) the engine is stopped by
    # its rows.
    with contextlib.suppress(RuntimeError, ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signals)
    try:
        yield signals
    except asyncio.CancelledError:
        if signals.received:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


# In the background


def log_path(store: Path, run_id: str) -> Path:
    """Where the engine of a run writes what it has to say when it has no terminal."""
    return store.with_name(f"{store.stem}-{run_id[:8]}.log")


def detach(path: Path, run_id: str, *, config: Path | None, retry_failed: bool) -> int:
    """Start the run's engine as a process of its own; returns its pid once it is at work. Raises NoEngine."""
    words = ["engine", run_id, *(["--retry-failed"] if retry_failed else [])]
    words += ["--config", str(config)] if config else []
    return start_in_background(path, run_id, words)


def start_in_background(path: Path, job_id: str, words: Sequence[str]) -> int:
    """Start a job's engine by these words of the command line; returns its pid once it is at work. Raises NoEngine."""
    from trees.store import Store

    log = log_path(path, job_id)
    with log.open("ab") as output:
        begin = output.tell()
        child = subprocess.Popen(
            child_command(words, path),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=child_environment(),
        )
    with Store.read(path) as store:
        if _wait_for(store, job_id, child):
            return child.pid
    said = log.read_bytes()[begin:].decode("utf-8", "replace").strip().splitlines()[-15:]
    raise NoEngine("the engine ended before it was at work:\n" + "\n".join(said), hint=f"Its log: {log}")


def child_command(words: Sequence[str], path: Path) -> list[str]:
    """This program, with these words, on a store."""
    return [sys.executable, "-P", "-m", "tui.main", *words, "--store", str(path)]


def child_environment() -> dict[str, str]:
    """An environment in which this program is found wherever it is started."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _wait_for(store: Store, run_id: str, child: subprocess.Popen[bytes]) -> bool:
    """Whether the child came so far as to have loaded its models and begun."""
    sql = "SELECT 1 FROM events WHERE job_id = ? AND kind = 'engine.started' AND data ->> 'pid' = ?"
    while child.poll() is None:
        if store.rows(sql, (run_id, child.pid)):
            return True
        time.sleep(POLL_S)
    return child.returncode == 0
