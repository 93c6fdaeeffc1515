"""The parent's end of a model server that it started: its command, its health, its last words, its end.

Between the two stands `agents.models.vllm_supervisor`, so that no process of the server outlives this one.

Invariant: the key travels in the environment, never on a command line; after `stop` every process is gone and
reaped; a server that ends is noticed, and says why.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from agents.models import vllm_supervisor
from agents.models.llama_process import printable
from agents.models.openai_http import Http
from agents.models.protocol import ModelFailure

HOST = "127.0.0.1"
POLL_S = 0.1
NOTICE_S = 2.0
"""How long after a broken connection the death of the server may take to be noticed."""
KEPT_BYTES = 16384
"""Of the log's end, how much is looked at."""
QUOTED_LINES = 12
GRACE_S = vllm_supervisor.GRACE_S + 5.0


class ServerProcess:
    """One server, from its start to its end. Made by `spawn`."""

    def __init__(self, supervisor: asyncio.subprocess.Process, group: int, log: BinaryIO) -> None:
        self._supervisor = supervisor
        self.pid = group
        """The server's own process id, and that of its group."""
        self._log = log
        self._stopping = False
        self._watch = asyncio.create_task(self._follow(), name=f"model server {group}")

    @classmethod
    async def spawn(cls, command: Sequence[str], environment: Mapping[str, str]) -> ServerProcess:
        """Start a command under a supervisor. Raises ModelFailure("setup") if it cannot even begin."""
        # A file, since a pipe would stay open as long as anything that outlived the server.
        log: BinaryIO = TemporaryFile()  # noqa: SIM115 - closed with the last of those who write to it
        supervisor = await asyncio.create_subprocess_exec(
            *(sys.executable, "-E", "-P", vllm_supervisor.__file__),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=dict(environment),
            # Ctrl-C reaches the whole process group of a terminal; ending this one is the program's business.
            start_new_session=True,
        )
        assert supervisor.stdout is not None
        try:
            said = await supervisor.stdout.readline()
        except BaseException:
            # The end of stdin is all that it needs to end what it started.
            assert supervisor.stdin is not None
            supervisor.stdin.close()
            raise
        if not said.strip():
            await supervisor.wait()
            said_why = "".join(_last_lines(log, 1))
            raise ModelFailure("setup", f"the command {command[0]!r} cannot be started: {said_why}")
        return cls(supervisor, int(said), log)

    @property
    def alive(self) -> bool:
        return not self._watch.done() and not self._stopping

    @property
    def last_words(self) -> str:
        """The end of its log, for error messages."""
        return "\n".join(_last_lines(self._log, QUOTED_LINES))

    async def healthy(self, http: Http, timeout_s: float) -> None:
        """Wait until it answers. Raises ModelFailure("setup") if it ends before, or takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._answers(http):
                    await asyncio.wait([self._watch], timeout=POLL_S)
        except TimeoutError as error:
            raise ModelFailure(
                "setup", f"it was not ready within {timeout_s:g} s: raise `start_timeout_s`, or read its log"
            ) from error

    async def _answers(self, http: Http) -> bool:
        if not self.alive:
            raise ModelFailure("setup", f"it {self._how_it_ended()} before it was ready")
        try:
            async with http.response(http.endpoints[0], "GET", "/health"):
                return True
        except ModelFailure:
            return False

    async def ended_soon(self) -> bool:
        """Whether it has ended, or does within the next moments."""
        await asyncio.wait([self._watch], timeout=NOTICE_S)
        return not self.alive

    def obituary(self) -> ModelFailure:
        """The failure of the calls that it took with it."""
        if self._stopping:
            return ModelFailure("died", "the model was closed")
        said = f"the vLLM server (pid {self.pid}) {self._how_it_ended()}\n{self.last_words}"
        return ModelFailure("died", said.rstrip())

    async def stop(self) -> None:
        """End every process of it and wait until they are gone. Cancelled meanwhile, it kills at once."""
        self._stopping = True
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.close()
        try:
            async with asyncio.timeout(GRACE_S):
                await asyncio.shield(self._watch)
        except BaseException as error:
            self._kill_group()
            if not isinstance(error, TimeoutError):
                raise
        await self._watch

    def _how_it_ended(self) -> str:
        status = self._supervisor.returncode
        if status is None:
            return "is ending"
        if status < 0 or status > 128:
            return f"was ended by signal {-status if status < 0 else status - 128}"
        return f"ended with status {status}"

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _follow(self) -> None:
        assert self._supervisor.stdout is not None
        # Only the supervisor holds this pipe: its end is the supervisor's.
        said = await self._supervisor.stdout.read()
        if vllm_supervisor.SWEPT.encode() not in said:
            self._kill_group()
        await self._supervisor.wait()


def _last_lines(log: BinaryIO, most: int) -> list[str]:
    size = os.fstat(log.fileno()).st_size
    # Without moving the offset, which is also where the server writes.
    end = os.pread(log.fileno(), KEPT_BYTES, max(0, size - KEPT_BYTES))
    return [printable(line) for line in end.splitlines() if line.strip()][-most:]


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        port: int = listening.getsockname()[1]
        return port


def server_environment(python: str, further: Mapping[str, str], key: str) -> dict[str, str]:
    """The environment of a server: this process's own, the key, and what the configuration adds."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        # Last words are to be about what went wrong, not a list of routes.
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    needed = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        # JIT compilers look for their tools, such as ninja, beside the interpreter.
        "PATH": os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)]),
    }
    return {**defaults, **os.environ, **further, **needed}
