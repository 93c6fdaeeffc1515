"""Trainings as the command line does them: in this process with its signals and its progress, or in the background.

Invariant: the first Ctrl-C has a checkpoint made and leaves; whatever else ends the process, the same command goes on
from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from train import processes
from train.memory import in_bytes
from train.points import Point
from tui.console import console, count, duration, say

if TYPE_CHECKING:
    from rich.live import Live

    from train.points import Alarm, Forecast
    from train.training import Ending, Job
    from trees.trainings import TrainingPoint, TrainingRow

LINE_EVERY_S = 10.0
"""Between two lines where there is no terminal."""
INTERRUPTED = 130
ECHO_S = 2.0
"""In which a launcher passes a signal on."""
F = TypeVar("F", bound=Callable[..., Any])


def train_here(path: Path, training_id: str, *, quiet: bool = False) -> tuple[Ending, bool]:
    """Do a training in this process; returns how it ended, and whether it was interrupted."""
    from train.training import Job
    from tui.stores import guard

    asyncio.run(guard(path))
    progress = Progress(quiet=quiet)
    job = Job(path, training_id, progress)
    progress.began(job.row)
    processes.from_leader(training_id)
    try:
        with _signals(job) as received, progress:
            ending = job.run()
    except BaseException:
        processes.abandon()
        raise
    return ending, bool(received)


def with_others(command: F) -> F:
    """A command of which one process does it all and the others their part of each training that it names."""

    @functools.wraps(command)
    def done(**options: Any) -> Any:
        if not processes.leads():
            return _follow(options["store_path"])
        try:
            return command(**options)
        finally:
            processes.from_leader(None)

    return cast(F, done)


def _follow(path: Path) -> None:
    from train.training import follow

    # What a terminal or a launcher sends to all is for the leader, who has a checkpoint made that all take part in.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    wanted: str | None = None
    while (training := processes.from_leader(wanted)) is not None:
        follow(path, training)


@contextlib.contextmanager
def _signals(job: Job) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM has a checkpoint made, the second ends the process; yields those received.

    A launcher of several processes passes on what the terminal has sent to all of them already: that is one wish.
    """
    received: list[int] = []
    since = 0.0

    def obey(number: int, _: Any) -> None:
        nonlocal since
        if received and processes.count() > 1 and time.monotonic() - since < ECHO_S:
            return
        since = time.monotonic()
        received.append(number)
        if len(received) > 1:
            say("gave up; the training goes on from its last checkpoint", stderr=True)
            os._exit(INTERRUPTED)
        job.pause("interrupted")
        say("stopping after this step, with a checkpoint; again to give up at once", stderr=True)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, obey) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """What a training tells, on stderr: a moving display on a terminal, a line now and then elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live: Live | None = None
        self._row: TrainingRow | None = None
        self._since = time.monotonic()
        self._told = 0.0
        self._first: float | None = None
        """Share of the training that was done before this process."""

    def began(self, row: TrainingRow) -> None:
        self._row = row

    def __enter__(self) -> Progress:
        err = console(stderr=True)
        if not self._quiet and err.is_terminal and not err.is_dumb_terminal:
            from rich.live import Live
            from rich.text import Text

            self._live = Live(Text("loading ..."), console=err, auto_refresh=False, transient=True)
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def point(self, point: Point) -> None:
        if self._quiet or self._row is None or point.kind != "training":
            return
        share, now = share_done(self._row, point.step, point.epoch), time.monotonic()
        if self._first is None:
            self._first, self._since = share, now
        line = f"{in_a_line(point)}{self._left(share, now)}"
        if self._live is not None:
            self._live.update(_panel(self._row, share, line), refresh=True)
        elif now - self._told >= LINE_EVERY_S:
            self._told = now
            say(line, stderr=True)

    def forecast(self, forecast: Forecast) -> None:
        if not self._quiet:
            say(in_words(forecast), stderr=True)

    def alarm(self, alarm: Alarm) -> None:
        say(f"alarm at step {alarm.step}: {alarm.text}", stderr=True)

    def checkpoint(self, step: int, folder: Path) -> None:
        return

    def _left(self, share: float, now: float) -> str:
        done = share - (self._first or 0.0)
        if done <= 0:
            return ""
        return f"  {duration((now - self._since) / done * max(0.0, 1 - share))} left"


def in_words(forecast: Forecast) -> str:
    """What a training takes, before its first step."""
    memory, left = forecast.memory.words(), duration(forecast.left_s)
    return (
        f"memory {memory}\n"
        f"the longest row, {count(forecast.tokens)} tokens, took {forecast.seconds:.2g} s forward and backward, and "
        f"{in_bytes(forecast.peak_bytes)} at most\nabout {left} for {forecast.steps} steps"
    )


def share_done(row: TrainingRow, step: int, epoch: float) -> float:
    """How much of a training is done, from 0 to 1."""
    schedule = row.configuration["schedule"]
    by_steps = step / schedule["steps"] if schedule["steps"] else 0.0
    return min(1.0, by_steps or epoch / schedule["epochs"])


def in_a_line(point: Point | TrainingPoint) -> str:
    """A point as one line of text."""
    seen = point.preferences if isinstance(point, Point) else point
    parts = [f"step {point.step}", f"loss {_number(point.loss)}"]
    if seen is not None and seen.margin is not None:
        parts += [f"margin {_number(seen.margin)}", f"accuracy {_number(seen.accuracy)}"]
    return "  ".join([*parts, f"{count(point.tokens_per_s)} tokens/s"])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _panel(row: TrainingRow, share: float, line: str) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    from tui.sanitise import one_line

    heading = Text.assemble((f"{row.id[:8]} ", "bold"), f"{row.kind} ", one_line(row.name, 50))
    bar = ProgressBar(total=1.0, completed=share, width=60)
    return Group(heading, bar, Text(line), Text("Ctrl-C makes a checkpoint and leaves.", style="dim"))
