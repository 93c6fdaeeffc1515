"""The app in browsers of this machine: textual-serve's server with a page that asks nothing of any other machine.

Whoever reaches the app's socket types as the person who started it, so the socket is for pages of this server alone: a
page from elsewhere that is open in the same browser is turned away by its origin.

Invariant: it listens on the loopback interface, and what it sends makes a browser ask nothing beyond it.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

from tui.app.children import ROOT

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGES = Path(__file__).parent / "served"


class LocalServer(Server):  # type: ignore[misc]
    """One app of its own for every tab."""

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """The terminal of a tab. Raises HTTPForbidden for pages that are not this server's."""
        origin = urlsplit(request.headers.get("Origin", ""))
        if origin.hostname not in LOOPBACK or origin.netloc != request.host:
            raise web.HTTPForbidden(text="this socket is for the pages of this server")
        answer: web.WebSocketResponse = await super().handle_websocket(request)
        return answer


def serve(store: Path, port: int) -> None:
    """Serve the app on a store until it is interrupted. Raises OSError if the port is taken."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = shlex.join([sys.executable, "-P", "-m", "tui.main", "app", "--store", str(store)])
    # The shell gives its place to the app, which leaves when the server that it belongs to has ended.
    alone = f"exec env PYTHONPATH={shlex.quote(paths)} {command}"
    server = LocalServer(alone, host="127.0.0.1", port=port, title="espalier", templates_path=PAGES)
    server.serve()
