"""Live tokens for whoever watches: newline-delimited JSON on a Unix socket, bounded, never stored.

What is written of an answer between two flushes is one line. A watcher that reads too slowly loses deltas, not the
run. Nobody watching costs nothing: the call path is given a sink only while somebody is connected.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from agents.calls import Asking, DeltaSink
from trees.ids import text_digest

QUEUED = 1000
"""Deltas kept for a slow watcher; further ones are dropped."""
FLUSH_S = 0.05
"""How long deltas are gathered before they are passed on, in seconds."""
LEAVING_S = 1.0
"""Longest wait for a watcher to take the last deltas when the engine leaves, in seconds."""

Key = tuple[str, str, str, str, int]
"""Tree, node, role, purpose, and the index of the answer."""


class Gathered:
    """What one watcher has not been told yet."""

    def __init__(self) -> None:
        self._pieces: dict[Key, list[str]] = {}
        self._count = 0

    def add(self, key: Key, text: str) -> None:
        if self._count < QUEUED:
            self._count += 1
            self._pieces.setdefault(key, []).append(text)

    def take(self) -> bytes:
        """All of it as lines; empty if there is nothing."""
        taken, self._pieces, self._count = self._pieces, {}, 0
        return b"".join(_line(key, "".join(pieces)) for key, pieces in taken.items())


class DeltaServer:
    """The engine's side."""

    def __init__(self, path: Path, listen: Callable[[DeltaSink | None], None]) -> None:
        self._path = path
        self._listen = listen
        self._watchers: dict[asyncio.Task[None], Gathered] = {}
        self._leaving = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        os.chmod(self._path, 0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._leaving.set()
        if self._watchers:
            await asyncio.wait(list(self._watchers), timeout=LEAVING_S)
        self._path.unlink(missing_ok=True)

    def send(self, asking: Asking, index: int, text: str) -> None:
        """Pass a delta on to everybody who watches."""
        key = (asking.tree_id, asking.node_id, asking.role, asking.purpose, index)
        for gathered in self._watchers.values():
            gathered.add(key, text)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, gathered = asyncio.current_task(), Gathered()
        assert task is not None
        self._watchers[task] = gathered
        self._listen(self.send)
        ends = {asyncio.ensure_future(reader.read()), asyncio.ensure_future(self._leaving.wait())}
        try:
            while not any(end.done() for end in ends):
                await asyncio.wait(ends, timeout=FLUSH_S, return_when=asyncio.FIRST_COMPLETED)
                if lines := gathered.take():
                    writer.write(lines)
                    await writer.drain()
        except ConnectionError:
            return
        finally:
            for end in ends:
                end.cancel()
            writer.close()
            del self._watchers[task]
            if not self._watchers:
                self._listen(None)


def _line(key: Key, text: str) -> bytes:
    tree, node, role, purpose, answer = key
    delta = {"tree": tree, "node": node, "role": role, "purpose": purpose, "answer": answer, "text": text}
    return json.dumps(delta).encode("ascii") + b"\n"


def socket_path(store: Path, job_id: str) -> Path:
    """Where an engine's deltas can be read: short, since socket paths may not be long, and private to the user."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"espalier-{os.getuid()}"
    return folder / f"{text_digest(str(store.resolve()))[:8]}-{job_id[:8]}.sock"
