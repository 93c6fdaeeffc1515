"""The parent's end of a worker process: requests by id over pipes, cancelling, and a clear word when it dies.

Invariant: every call made ends, by its answer, its failure, or the death of the process ("died"); a call that
is cancelled here is cancelled there; after `stop` the process is gone and reaped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.models.llama_worker import LENGTH
from agents.models.protocol import ModelFailure, OnDelta

GRACE_S = 5.0
"""How long a worker may take to end by itself once it is told to."""
KEPT_LINES = 40
QUOTED_LINES = 8
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class _Call:
    future: asyncio.Future[Any]
    on_delta: OnDelta | None


class WorkerProcess:
    """One child, from its start to its end. Made by `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._calls: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._closing = False
        self._ended: ModelFailure | None = None
        self._watch = asyncio.create_task(self._follow(), name=f"llama worker {process.pid}")

    @classmethod
    async def spawn(cls) -> WorkerProcess:
        """Start a worker on the code this process runs, whatever the working directory holds."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "agents.models.llama_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._ended is None and not self._closing

    @property
    def last_words(self) -> str:
        """The end of what it wrote to stderr, for error messages."""
        return "\n".join(list(self._lines)[-QUOTED_LINES:])

    async def ask(self, op: str, body: Mapping[str, Any], on_delta: OnDelta | None = None) -> Any:
        """One request. Raises ModelFailure, of kind "died" if the process ends before it has answered."""
        if self._ended is not None:
            raise self._ended
        number = next(self._ids)
        call = _Call(asyncio.get_running_loop().create_future(), on_delta)
        self._calls[number] = call
        try:
            self._send({**body, "id": number, "op": op})
            await self._drain()
            return await call.future
        except asyncio.CancelledError:
            self._send({"id": number, "op": "cancel"})
            raise
        finally:
            self._calls.pop(number, None)

    async def stop(self) -> None:
        """End the process and wait until it is gone. Cancelled meanwhile, it kills at once."""
        self._closing = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(GRACE_S):
                await asyncio.shield(self._watch)
        except TimeoutError:
            self._lines.append(f"it did not end within {GRACE_S:g} seconds and was killed")
        finally:
            self._kill()
        await self._watch

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    def _send(self, frame: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        if self._ended is not None or self._process.stdin.is_closing():
            return
        body = json.dumps(frame, separators=(",", ":")).encode("ascii")
        self._process.stdin.write(LENGTH.pack(len(body)) + body)

    async def _drain(self) -> None:
        assert self._process.stdin is not None
        try:
            await self._process.stdin.drain()
        except ConnectionError:
            # The process is dead or dying: whoever waits is told by the watcher, with the reason.
            return

    # The watcher

    async def _follow(self) -> None:
        stderr = asyncio.create_task(self._read_stderr())
        try:
            await self._read_frames()
        except BaseException:
            self._kill()
            raise
        finally:
            status = await self._process.wait()
            await stderr
            self._ended = self._obituary(status)
            for call in self._calls.values():
                if not call.future.done():
                    call.future.set_exception(self._ended)

    async def _read_frames(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                (length,) = LENGTH.unpack(await self._process.stdout.readexactly(LENGTH.size))
                body = await self._process.stdout.readexactly(length)
            except asyncio.IncompleteReadError:
                return
            self._take(json.loads(body))

    def _take(self, frame: Mapping[str, Any]) -> None:
        call = self._calls.get(frame["id"])
        if call is None or call.future.done():
            return
        if "ok" in frame:
            call.future.set_result(frame["ok"])
        elif "error" in frame:
            call.future.set_exception(ModelFailure(frame["error"]["kind"], frame["error"]["message"]))
        elif call.on_delta is not None:
            self._pass_on(call.on_delta, frame, call.future)

    def _pass_on(self, on_delta: OnDelta, frame: Mapping[str, Any], future: asyncio.Future[Any]) -> None:
        index, text = frame["delta"]
        try:
            on_delta(index, text)
        except Exception as error:  # noqa: BLE001 - a listener's fault is its own caller's, not every caller's
            self._send({"id": frame["id"], "op": "cancel"})
            future.set_exception(error)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        while chunk := await self._process.stderr.read(65536):
            *lines, rest = (rest + chunk[-65536:]).split(b"\n")
            self._lines.extend(printable(line) for line in lines if line.strip())
            rest = rest[-4096:]
        if rest.strip():
            self._lines.append(printable(rest))

    def _obituary(self, status: int) -> ModelFailure:
        if self._closing:
            return ModelFailure("died", "the model was closed")
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return ModelFailure("died", f"the llama worker (pid {self.pid}) {how}\n{self.last_words}".rstrip())


def _environment() -> dict[str, str]:
    """This process's own, with the worker's code on its path; what a person has set stays."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    defaults = {
        # Threads that spin long at OpenMP's barriers make two busy workers on the same cores many times slower; ones
        # that sleep at once halve the speed of a worker that has them to itself. A short spin gives both.
        "GOMP_SPINCOUNT": "5000",
        # An assertion's message is to be the last line, not a debugger's trace.
        "GGML_NO_BACKTRACE": "1",
    }
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def printable(line: bytes) -> str:
    """A line of a child's output as text that may go to a terminal."""
    text = line.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text)[:500]
