"""Live figures of each model, as rows: what it read, reused and wrote in the last seconds, and who waited for it.

The call path counts answers and failures; a backend that counts its own tokens and steps is asked for those. A row
holds differences over its interval and, for what is a state (running, waiting, permits), the state at its end.

Invariant: the rows of one engine cover each of its intervals once; a model at which nothing happened has no row.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from agents.calls import Seat
from agents.models.protocol import ModelFailure, Usage
from trees.writes import Write, keep_figures

INTERVAL_S = 2.0


@runtime_checkable
class Counting(Protocol):
    """A backend that counts what it does."""

    async def figures(self) -> Mapping[str, float]:
        """Counters since its start and gauges of now, under the names of `agents.models.llama_scheduler`."""


@dataclass(slots=True)
class Tally:
    """What the call path saw of a model in one interval."""

    answered: int = 0
    failed: int = 0
    read: int = 0
    reused: int = 0
    out: int = 0
    first_token_s: list[float] = field(default_factory=list)


class Meter:
    """Counts for one engine; `rows` takes an interval's figures and begins the next."""

    def __init__(self, run_id: str, seats: Mapping[str, Seat]) -> None:
        self._run_id = run_id
        self._seats = seats
        self._tallies = {name: Tally() for name in seats}
        self._counted: dict[str, Mapping[str, float]] = {}
        self._since = time.monotonic()

    def answered(self, model: str, usage: Usage) -> None:
        tally = self._tallies[model]
        tally.answered += 1
        tally.read += (usage.prompt_tokens or 0) - (usage.cached_tokens or 0)
        tally.reused += usage.cached_tokens or 0
        tally.out += usage.output_tokens or 0
        if usage.first_token_s is not None:
            tally.first_token_s.append(usage.first_token_s)

    def failed(self, model: str) -> None:
        self._tallies[model].failed += 1

    @property
    def due(self) -> bool:
        return time.monotonic() - self._since >= INTERVAL_S

    async def rows(self) -> list[Write]:
        """The writes that keep the interval which ends now."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        tallies, self._tallies = self._tallies, {name: Tally() for name in self._seats}
        writes: list[Write] = []
        for name, tally in tallies.items():
            seat = self._seats[name]
            counted = await self._count(name)
            if tally.answered or tally.failed or seat.permits.held:
                writes += keep_figures(self._run_id, name, seconds, _values(tally, seat, counted))
        return writes

    async def _count(self, name: str) -> Mapping[str, float]:
        """What the backend did since it was last asked; empty where it does not count or has just been restarted."""
        model = self._seats[name].model
        if not isinstance(model, Counting):
            return {}
        try:
            now = await model.figures()
        except ModelFailure:
            return {}
        before = self._counted.get(name, {})
        self._counted[name] = now
        if now["steps"] < before.get("steps", 0):
            return {}
        return {key: value - before.get(key, 0) if key in COUNTERS else value for key, value in now.items()}


COUNTERS = frozenset({"prompt_read", "prompt_reused", "tokens_out", "steps", "rides"})


def _values(tally: Tally, seat: Seat, counted: Mapping[str, float]) -> dict[str, Any]:
    firsts = sorted(tally.first_token_s)
    steps = counted.get("steps", 0)
    return {
        "answered": tally.answered,
        "failed": tally.failed,
        "prompt_read": int(counted.get("prompt_read", tally.read)),
        "prompt_reused": int(counted.get("prompt_reused", tally.reused)),
        "tokens_out": int(counted.get("tokens_out", tally.out)),
        "batch_fill": counted["rides"] / steps if steps else None,
        "running": int(counted.get("running", seat.permits.held)),
        "waiting": int(counted.get("waiting", 0)) + seat.permits.waiting,
        "permits": seat.permits.limit,
        "cells_used": counted.get("cells_used"),
        "first_token_s": statistics.median(firsts) if firsts else None,
        "first_token_p95_s": firsts[int(0.95 * (len(firsts) - 1))] if firsts else None,
    }
