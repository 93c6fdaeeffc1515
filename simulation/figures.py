"""What each model is doing, as rows: measured every two seconds while calls are in flight, and once at the end.

A row holds what the call path saw (answers, failures, who waits for a permit) and what the backend says of itself
(tokens read and reused, steps, its queue), each for the stretch since the row before; where a backend says nothing, the
tokens are the sums of the calls' usage. How often a limit of permits changed is told as events, which become rarer as
the run goes on.

Invariant: nothing reads these rows to decide anything, and no tree depends on them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence

from agents.calls import Seat
from agents.models.protocol import Figures, Model, ModelFailure
from agents.tally import Tally
from trees.values import ModelFigures
from trees.writer import Writer
from trees.writes import Write, keep_event, keep_figures

EVERY_S = 2.0
"""Between two rows of one model, in seconds."""
ANSWER_S = 1.0
"""Longest wait for what a backend says of itself, in seconds."""
EVENTS_APART = 0.01
"""Between two events of one model passes this share of the engine's time: hundreds in a day, not thousands."""


class Measuring:
    """Measures the models of one engine."""

    def __init__(self, run_id: str, seats: Mapping[str, Seat], writer: Writer) -> None:
        self._run_id = run_id
        self._writer = writer
        self._began = time.monotonic()
        self._models = [_Measured(name, seat, self._began) for name, seat in seats.items()]

    async def follow(self) -> None:
        """Write rows until cancelled. Raises StoreError."""
        for measured in self._models:
            await measured.begin()
        while True:
            await asyncio.sleep(EVERY_S)
            await self.note()

    async def note(self, *, last: bool = False) -> None:
        """Write what happened since the last time. Raises StoreError."""
        # All are asked before any tally is taken: whoever is cancelled while waiting has taken nothing.
        told = [await figures_of(measured.model) for measured in self._models]
        writes: list[Write] = []
        for measured, figures in zip(self._models, told, strict=True):
            if (row := measured.row(figures)) is not None:
                writes += keep_figures(self._run_id, row)
            if (change := measured.change(self._began, last=last)) is not None:
                writes += keep_event(self._run_id, "permits.changed", change)
        await self._writer.commit(writes)


class _Measured:
    """One model, with what was known when it was last looked at."""

    def __init__(self, name: str, seat: Seat, now: float) -> None:
        self._name = name
        self._seat = seat
        self._looked_at = now
        self._figures: Figures | None = None
        self._told_at = now
        self._told_limit = seat.permits.limit

    @property
    def model(self) -> Model:
        return self._seat.model

    async def begin(self) -> None:
        """What the backend did before this engine is not this engine's."""
        self._figures = await figures_of(self.model)

    def row(self, figures: Figures | None) -> ModelFigures | None:
        """What happened since the last time; None if nothing did."""
        now, before, permits = time.monotonic(), self._figures, self._seat.permits
        tally, self._seat.tally = self._seat.tally, Tally()
        interval_s, self._looked_at, self._figures = now - self._looked_at, now, figures
        if tally.empty and not permits.held and not permits.waiting:
            return None
        told = figures.since(before) if figures is not None else None
        return ModelFigures(
            model=self._name,
            at=time.time(),
            interval_s=max(interval_s, 1e-6),
            answered=tally.answered,
            failed=tally.failed,
            retries=tally.retries,
            permits=permits.limit,
            held=permits.held,
            queued=permits.waiting,
            first_token_median_s=_typical(tally.first_token_s, told),
            first_token_p95_s=quantile(tally.first_token_s, 0.95),
            prompt_read=told.prompt_read if told else tally.prompt_tokens - tally.cached_tokens,
            prompt_reused=told.prompt_reused if told else tally.cached_tokens,
            tokens_out=told.tokens_out if told else tally.output_tokens,
            steps=told.steps if told else None,
            batch_fill=told.batch_fill if told else None,
            running=told.running if told else None,
            waiting=told.waiting if told else None,
            cells_used=told.cells_used if told else None,
            cells=told.cells if told else None,
        )

    def change(self, began: float, *, last: bool) -> dict[str, object] | None:
        """How the limit of permits changed by itself since that was last told; None if there is nothing to tell yet."""
        permits, now = self._seat.permits, time.monotonic()
        if not permits.changes or not (last or now - self._told_at >= EVENTS_APART * (now - began)):
            return None
        told = {"model": self._name, "was": self._told_limit, "limit": permits.limit, "changes": dict(permits.changes)}
        permits.changes.clear()
        self._told_at, self._told_limit = now, permits.limit
        return told


def _typical(told_by_answers: Sequence[float], told: Figures | None) -> float | None:
    """The median time to the first token; the mean where only the backend tells of it, in sum."""
    if told_by_answers or told is None or not told.first_tokens:
        return quantile(told_by_answers, 0.5)
    return told.first_token_s / told.first_tokens


async def figures_of(model: Model) -> Figures | None:
    """What a backend says of itself; None if it says nothing, or not at once."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await model.figures()
    except (ModelFailure, TimeoutError):
        return None


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of them does not exceed; None of nothing."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else None
