"""Live tokens for whoever watches: newline-delimited JSON on a Unix socket, bounded, never stored.

A watcher that reads too slowly loses deltas, not the run. Nobody watching costs nothing: the call path is given a
sink only while somebody is connected.
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


class DeltaServer:
    """The engine's side."""

    def __init__(self, path: Path, listen: Callable[[DeltaSink | None], None]) -> None:
        self._path = path
        self._listen = listen
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        os.chmod(self._path, 0o600)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    def send(self, asking: Asking, index: int, text: str) -> None:
        """Pass a delta on to everybody who watches."""
        delta = {
            "tree": asking.tree_id,
            "node": asking.node_id,
            "role": asking.role,
            "purpose": asking.purpose,
            "answer": index,
            "text": text,
        }
        line = json.dumps(delta).encode("ascii") + b"\n"
        for queue in self._watchers:
            if not queue.full():
                queue.put_nowait(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUED)
        self._watchers.add(queue)
        self._listen(self.send)
        gone = asyncio.ensure_future(reader.read())
        try:
            while not gone.done():
                line = asyncio.ensure_future(queue.get())
                await asyncio.wait({gone, line}, return_when=asyncio.FIRST_COMPLETED)
                if line.done():
                    writer.write(line.result())
                    await writer.drain()
                else:
                    line.cancel()
        except ConnectionError:
            return
        finally:
            gone.cancel()
            writer.close()
            self._watchers.discard(queue)
            if not self._watchers:
                self._listen(None)


def socket_path(store: Path, job_id: str) -> Path:
    """Where an engine's deltas can be read: short, since socket paths may not be long, and private to the user."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"espalier-{os.getuid()}"
    return folder / f"{text_digest(str(store.resolve()))[:8]}-{job_id[:8]}.sock"
