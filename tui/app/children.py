"""Work that the app has the command line do: children of their own session, so that they outlive the app.

What they print goes to files that belong to nobody else, never to pipes: a child whose starter has gone goes on.

Invariant: the app writes nothing to a run but command rows; whatever plays is started here as `espalier ...`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    """What it printed for programs."""
    told: str
    """What it told a person; the last lines say why it failed."""

    @property
    def document(self) -> Any:
        """What it printed with --json. Raises ValueError if it printed none."""
        return json.loads(self.said)

    @property
    def reason(self) -> str:
        """Why it failed, in its own last words."""
        lines = [line for line in (self.told or self.said).strip().splitlines() if line.strip()]
        return "\n".join(lines[-4:]).removeprefix("error: ") or f"it ended with exit code {self.code}"


async def command_line(arguments: Sequence[str]) -> Ended:
    """Run `espalier` with these arguments to its end. Giving up waiting does not end the child."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "tui.main",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=told,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        code = await child.wait()
        said.seek(0)
        told.seek(0)
        return Ended(code, said.read().decode("utf-8", "replace"), told.read().decode("utf-8", "replace"))
