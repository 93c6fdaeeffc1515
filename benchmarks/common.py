"""What every benchmark prints: progress on stderr, and one JSON object as the last line of stdout.

`{"benchmark", "machine", "versions", "figures": {...}, "bars": [{"name", "value", "at_least" | "at_most", "holds"}]}`
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

PACKAGES = ("autogen-core", "networkx", "sqlite-utils", "pydantic", "aiohttp", "llama-cpp-python")


@dataclass(frozen=True)
class Bar:
    """A figure that has to be reached."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def as_dict(self) -> dict[str, Any]:
        limits = {"at_least": self.at_least, "at_most": self.at_most}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        return {"name": self.name, "value": round(self.value, 4), **given, "holds": self.holds}


def say(text: str) -> None:
    """Progress, for a person."""
    print(text, file=sys.stderr, flush=True)


def finish(benchmark: str, figures: dict[str, Any], bars: list[Bar]) -> int:
    """Print the bars for a person and everything for a program; the exit status is 1 if a bar is missed."""
    for bar in bars:
        limit = f"at least {bar.at_least:g}" if bar.at_least is not None else f"at most {bar.at_most:g}"
        say(f"{'holds ' if bar.holds else 'MISSED'}  {bar.name}: {bar.value:.4g} ({limit})")
    result = {
        "benchmark": benchmark,
        "machine": _machine(),
        "versions": _versions(),
        "figures": figures,
        "bars": [bar.as_dict() for bar in bars],
    }
    print(json.dumps(result))
    return 0 if all(bar.holds for bar in bars) else 1


def _machine() -> dict[str, Any]:
    return {"system": platform.platform(), "cores": os.cpu_count(), "processor": _processor()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
