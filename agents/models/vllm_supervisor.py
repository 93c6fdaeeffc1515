"""The process between this program and a server that it starts: `python vllm_supervisor.py COMMAND...`.

A model server is several processes, and killing one of them leaves the others with the GPU. This process starts the
command in a group of its own, writes the command's process id to stdout, and waits for one of two ends: the command's,
or that of stdin, which closes with its parent, whatever ended that. It needs the standard library alone and is run as
a file, so nothing of the project is on the server's path.

Invariant: when this process has ended by itself, nothing of what the command started runs any more; on Linux also
what has left the group, because what is orphaned becomes a child of this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

GRACE_S = 5.0
"""How long the command may take to end by itself once it is told to."""
SWEPT = "swept"
"""The last line on stdout; without it this process was killed and has left its work undone."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None) if _LINUX else None


def main() -> int:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    server = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        # Should this process be killed, its parent still has the group to kill; the command at least goes at once.
        preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - no thread runs yet
    )
    print(server.pid, flush=True)
    Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    status = server.wait()
    _sweep(server.pid)
    print(SWEPT, flush=True)
    return status if status >= 0 else 128 - status


def _end_with_stdin(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    server.terminate()
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


def _sweep(group: int) -> None:
    """Kill what is left of the group, then whatever was orphaned, until there is nothing to wait for."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    while True:
        for child in _children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    if not _LINUX:
        return []
    own = str(os.getpid())
    return [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent(stat) == own]


def _parent(stat: Path) -> str | None:
    try:
        # The second field is a name in brackets that may hold anything.
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
    except OSError:
        return None


def _prctl(option: int, value: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(option, value)


if __name__ == "__main__":
    sys.exit(main())
