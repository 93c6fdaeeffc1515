"""Rounds as the command line does them: a step at a time, each a process of its own, with what it says passed on.

A step's process has its own session, so that Ctrl-C reaches it once and in good order. What it says on stderr goes
into a log beside the store and, indented, to this process's stderr; what it prints on stdout are the facts that say
what came of the step.

Invariant: a step is noted as begun before its process starts and as done after it has ended, so whatever ends this
process, the same command goes on with that step. A step is a command that goes on where it stopped; if its process
outlived this one, it is waited for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trees.errors import EspalierError, SetupError
from trees.jobs import HEARTBEAT_S, Lock, answer, commands, heartbeat, release, take_lock
from trees.rounds import begin_step, end_step, set_rounds_state, set_step_made, set_step_process, steps
from trees.trainings import points
from trees.writes import in_one, keep_event
from tui.console import count, say
from tui.facts import progress_facts
from tui.launch import child_command, child_environment, log_path
from tui.training import in_a_line

if TYPE_CHECKING:
    from simulation.rounds import Came, Step
    from simulation.rounds_config import Rounds
    from trees.rounds import RoundsState, StepRow
    from trees.store import Store

POLL_S = 0.1
"""How often a step's process, its words and commands to the rounds are looked at, in seconds."""
LINE_EVERY_S = 10.0
"""Between two lines that say how far a step is."""
LAST_LINES = 12
"""How much of what a failed command said is kept with its step."""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Said:
    """How a step's command ended."""

    code: int
    stdout: str
    last: tuple[str, ...]
    """The last lines on stderr."""


@dataclass(frozen=True, slots=True)
class RoundsEnding:
    """How this process left the rounds."""

    state: RoundsState
    reason: str
    interrupted: bool


class Watch:
    """What this process does while a step is at work: it keeps the lock, obeys, and notes what the step makes."""

    def __init__(self, store: Store, rounds: str, lock: Lock) -> None:
        self._store = store
        self._rounds = rounds
        self._lock = lock
        self._beaten = 0.0
        self._job: str | None = None
        """Of which the step's process is the engine."""
        self.asked_to_stop = 0
        """How often somebody wanted an end: by a signal, or by `rounds stop`."""
        self.step: Step | None = None

    def begun(self, pid: int) -> None:
        """Note the process that is at work on the step."""
        assert self.step is not None
        self._job = None
        self._store.apply(set_step_process(self._rounds, self.step.round, self.step.place, pid))

    def look(self, pid: int | None = None) -> None:
        """Renew the lock, take commands, and note which job the process `pid` is the engine of."""
        now = time.monotonic()
        if now - self._beaten >= HEARTBEAT_S:
            self._store.apply(heartbeat(self._lock))
            self._beaten = now
        for command in commands(self._store, self._rounds):
            self._take(command.id, command.verb)
        if pid is not None:
            self._note_job(pid)

    def _take(self, number: int, verb: str) -> None:
        if verb == "stop":
            self.asked_to_stop += 1
            self._store.apply(answer(number, {"stopping": True}))
        else:
            self._store.apply(answer(number, {"error": f"rounds know no command {verb!r}"}, refused=True))

    def _note_job(self, pid: int) -> None:
        sql = "SELECT job_id FROM locks WHERE pid = ? AND kind IN ('run', 'training')"
        rows = self._store.rows(sql, (pid,))
        if not rows or rows[0][0] == self._job or self.step is None:
            return
        self._job = str(rows[0][0])
        if self.step.kind != "benchmark":
            # What measures several models is several runs, and the benchmark is known when they are done.
            self._store.apply(set_step_made(self._rounds, self.step.round, self.step.place, self._job))

    def progress(self) -> str | None:
        """How far the step's process is with what takes long, from the store; None for what tells it by itself."""
        if self.step is None or self._job is None:
            return None
        if self.step.kind in ("sft", "dpo"):
            seen = points(self._store, self._job)
            return in_a_line(seen[-1]) if seen else None
        if self.step.kind == "benchmark":
            facts = progress_facts(self._store, self._store.run(self._job))
            turns, calls = facts["turns"], facts["calls"]
            return f"{turns['stored']} of {turns['planned']} turns, {count(calls['answered'])} calls answered"
        return None


def do_rounds(path: Path, plan: Rounds, *, quiet: bool = False) -> RoundsEnding:
    """Do what is left of rounds in this process, step by step. Raises Locked if another process is at it."""
    from simulation.rounds import planned
    from trees.store import Store

    with Store.open(path) as store:
        store.apply(planned(plan, time.time()))
        lock = take_lock(store, plan.id, "rounds")
        watch = Watch(store, plan.id, lock)
        began = keep_event(plan.id, "engine.started", {"pid": os.getpid()})
        gone = {"error": "the process that this was meant for is gone"}
        unheard = in_one(answer(command.id, gone, refused=True) for command in commands(store, plan.id))
        store.apply([*set_rounds_state(plan.id, "running"), *began, *unheard])
        ending = RoundsEnding("stopped", "it left before its time", interrupted=False)
        try:
            with _signals(watch):
                _wait_for_the_last(store, plan, watch)
                processes = Processes(log_path(path, plan.id), path, quiet=quiet)
                ending = _step_by_step(store, plan, processes, watch, quiet=quiet)
        finally:
            left = keep_event(plan.id, "engine.left", {"state": ending.state, "reason": ending.reason})
            stands = set_rounds_state(plan.id, ending.state, ending.reason)
            store.apply(in_one([stands, left, release(lock)]))
    return ending


def _step_by_step(store: Store, plan: Rounds, processes: Processes, watch: Watch, *, quiet: bool) -> RoundsEnding:
    from simulation.rounds import Over, next_step

    while True:
        step = next_step(plan, steps(store, plan.id))
        if isinstance(step, Over):
            return RoundsEnding("finished", step.reason, interrupted=False)
        if watch.asked_to_stop:
            return RoundsEnding("stopped", f"stopped before round {step.round}, {step.kind}", interrupted=True)
        if not quiet:
            say(f"\nround {step.round}, {step.kind}: {shown_words(step.words)}", stderr=True)
        broken_off = _do(store, plan, step, processes, watch)
        if broken_off is not None:
            return broken_off


def _do(store: Store, plan: Rounds, step: Step, processes: Processes, watch: Watch) -> RoundsEnding | None:
    """Do one step; returns how the rounds end if it is not done."""
    where = (plan.id, step.round, step.place)
    store.apply(begin_step(*where, step.kind, step.words))
    watch.step = step
    began = time.monotonic()
    said = processes(step.words, watch)
    took_s = time.monotonic() - began
    if watch.asked_to_stop and said.code != 0:
        reason = f"stopped in round {step.round}, {step.kind}; what it had done is kept"
        store.apply(end_step(*where, "stopped", took_s=took_s, reason=reason))
        return RoundsEnding("stopped", reason, interrupted=True)
    came, wrong = _came(store, plan, step, said)
    if wrong is not None:
        made, figures = (None, {}) if came is None else (came.made, came.figures)
        store.apply(end_step(*where, "failed", took_s=took_s, made=made, figures=figures, reason=wrong))
        return RoundsEnding("failed", f"round {step.round}, {step.kind}: {wrong}", interrupted=False)
    assert came is not None
    store.apply(end_step(*where, "done", took_s=took_s, made=came.made, figures=came.figures))
    return None


def _came(store: Store, plan: Rounds, step: Step, said: Said) -> tuple[Came | None, str | None]:
    """What came of a step, and why it is not done if it is not."""
    from simulation.rounds import what_came

    try:
        facts = json.loads(said.stdout)
    except ValueError:
        facts = None
    last = "\n".join(said.last) or f"it said nothing (exit code {said.code})"
    if facts is None:
        return None, last
    try:
        came = what_came(store, plan, step, facts, steps(store, plan.id))
    except EspalierError as error:
        return None, last if said.code else str(error)
    if came.wrong is not None:
        return came, "\n".join([came.wrong, *said.last])
    # A command may end with 1 and be done all the same: of trees that failed the store has the cause.
    return came, None


def _wait_for_the_last(store: Store, plan: Rounds, watch: Watch) -> None:
    """Wait for the process of a step that outlived whoever began it."""
    for row in steps(store, plan.id):
        if not row.at_work or row.pid is None:
            continue
        say(f"round {row.round}, {row.kind} is still at work in pid {row.pid}: waiting for it", stderr=True)
        sent = 0
        while _same(store, plan, row).at_work:
            watch.look()
            sent = _pass_on(row.pid, watch, sent)
            time.sleep(POLL_S)


def _same(store: Store, plan: Rounds, row: StepRow) -> StepRow:
    return next(each for each in steps(store, plan.id) if (each.round, each.place) == (row.round, row.place))


def _pass_on(pid: int, watch: Watch, sent: int) -> int:
    """Hand on what this process was asked to a step's process, once for each time; returns how often that was."""
    if sent < watch.asked_to_stop:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGINT)
    return watch.asked_to_stop


def facts_of(words: Sequence[str], store: Path) -> Any:
    """What a command prints, as JSON. Raises SetupError with its last lines."""
    done = subprocess.run(
        child_command(words, store),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-LAST_LINES:]).removeprefix("error: ")
        raise SetupError(last or f"it ended with {done.returncode}", hint=f"That said: {shown_words(words)}")
    return json.loads(done.stdout)


class Processes:
    """Has steps done by processes of this program, one at a time."""

    def __init__(self, log: Path, store: Path, *, quiet: bool) -> None:
        self._log = log
        self._store = store
        self._quiet = quiet

    def __call__(self, words: Sequence[str], watch: Watch) -> Said:
        with tempfile.TemporaryFile() as out, self._log.open("ab") as log, self._log.open("rb") as reader:
            log.write(f"$ {shown_words(words)}\n".encode())
            log.flush()
            reader.seek(0, os.SEEK_END)
            begin = reader.tell()
            child = subprocess.Popen(
                child_command(words, self._store),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                # Progress bars that redraw themselves are noise in a log.
                env={**child_environment(), "TQDM_DISABLE": "1"},
            )
            watch.begun(child.pid)
            sent, told = 0, time.monotonic()
            while not _ended(child):
                watch.look(child.pid)
                sent = _pass_on(child.pid, watch, sent)
                self._tell(reader)
                if time.monotonic() - told >= LINE_EVERY_S:
                    told = time.monotonic()
                    self._tell_progress(watch)
            watch.look(child.pid)
            self._tell(reader)
            out.seek(0)
            reader.seek(begin)
            said = reader.read().decode("utf-8", "replace").splitlines()
            return Said(child.returncode, out.read().decode("utf-8", "replace"), tuple(said[-LAST_LINES:]))

    def _tell(self, reader: IO[bytes]) -> None:
        """Pass on the whole lines that were said since; half a line waits for its end."""
        at = reader.tell()
        text = reader.read()
        whole = text.rfind(b"\n") + 1
        reader.seek(at + whole)
        for line in text[:whole].decode("utf-8", "replace").splitlines():
            if not self._quiet and line.strip():
                say(f"  {line}", stderr=True)

    def _tell_progress(self, watch: Watch) -> None:
        line = None if self._quiet else watch.progress()
        if line is not None:
            say(f"  {line}", stderr=True)


def _ended(child: subprocess.Popen[bytes]) -> bool:
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=POLL_S)
    return child.returncode is not None


@contextmanager
def _signals(watch: Watch) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP ask for an end; a second one has the step's process give up at once."""

    def obey(_: int, __: Any) -> None:
        watch.asked_to_stop += 1
        once = "stopping: what this step has done is kept; again to give up at once"
        with suppress(OSError):
            say(once if watch.asked_to_stop == 1 else "giving up", stderr=True)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, obey) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shown_words(words: Sequence[str]) -> str:
    """A command line that a person could type."""
    import shlex

    return f"espalier {shlex.join(words)}"
