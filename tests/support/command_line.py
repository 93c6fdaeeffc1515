"""What tests of the command line share: the type of the runner, and the program as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from click.testing import Result

ROOT = Path(__file__).resolve().parents[2]


class Espalier(Protocol):
    """Runs a command in this process and asserts its exit code."""

    def __call__(self, *arguments: str, exit_code: int = 0, stdin: str | None = None) -> Result: ...


def as_json(result: Result) -> Any:
    """What a command printed with --json."""
    return json.loads(result.stdout)


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """The program as a process, with its output on pipes."""
    command = [sys.executable, "-P", "-m", "tui.main", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
