"""Work that the app has the command line do: children of their own session, so that they outlive the app.

What they print goes to files that belong to nobody else, never to pipes: a child whose starter has gone goes on.

Invariant: the app writes nothing to a run but command rows; whatever plays is started here as `espalier ...`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

OnLine = Callable[[str], None]
ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.05
"""How often it is looked whether a child has ended, in seconds."""


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


async def command_line(arguments: Sequence[str], on_line: OnLine | None = None) -> Ended:
    """Run `espalier` with these arguments to its end. Giving up waiting does not end the child.

    `on_line` takes each line that it prints for programs, as it comes.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        child = _begin(arguments, said, told)
        heard = 0
        while (code := child.poll()) is None:
            await asyncio.sleep(POLL_S)
            heard = _hear(said, heard, on_line)
        _hear(said, heard, on_line)
        said.seek(0)
        told.seek(0)
        return Ended(code, said.read().decode("utf-8", "replace"), told.read().decode("utf-8", "replace"))


def _hear(said: IO[bytes], heard: int, on_line: OnLine | None) -> int:
    """Hand on the whole lines after so many bytes; returns how many bytes are heard by then."""
    if on_line is None:
        return heard
    # The child writes where the file's one position is, so that must stay where it is.
    new = os.pread(said.fileno(), os.fstat(said.fileno()).st_size - heard, heard)
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", "replace").splitlines():
        on_line(line)
    return heard + len(whole)


def _begin(arguments: Sequence[str], said: IO[bytes], told: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the child. Not as one of asyncio's own, which are killed with the loop that began them."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tui.main", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=told,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
