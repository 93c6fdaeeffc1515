"""What stands before every call and every level: pause, stop and budgets.

Pause is soft (no new level begins; the ones under way are finished) or hard (no new call begins; the calls in flight
are finished). Stop and a used-up budget halt: whoever asks is told `Halted`, and nothing counts as failed. All of it
acts between calls, so what was begun is always answered and kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agents.calls import Halted
from agents.models.protocol import Model, Usage
from agents.models.settings import ModelSettings
from simulation.config import LimitsConfig
from trees.errors import StoreError


@dataclass(slots=True)
class Spent:
    """What a run has used up so far."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens read and written."""

    input: float
    output: float

    def of(self, read: int, written: int) -> float:
        """What so many tokens cost."""
        return (read * self.input + written * self.output) / 1e6


def prices_of(entries: Mapping[str, ModelSettings]) -> dict[str, Price]:
    """The prices that are known, by the model's name in the configuration."""
    return {
        name: Price(entry.input_price or 0.0, entry.output_price or 0.0)
        for name, entry in entries.items()
        if entry.input_price is not None or entry.output_price is not None
    }


def spent_on(
    calls: Iterable[tuple[str, int, float, float]], models: Mapping[str, Model], prices: Mapping[str, Price]
) -> Spent:
    """What calls have used up, told as (model id, number, tokens read, tokens written), at today's prices."""
    by_id = {models[name].identity.id: price for name, price in prices.items() if name in models}
    spent = Spent()
    for model_id, number, read, written in calls:
        spent.calls += number
        spent.tokens_in += int(read)
        spent.tokens_out += int(written)
        if price := by_id.get(model_id):
            spent.money += price.of(int(read), int(written))
    return spent


class Gate:
    """One engine's gate. `spent` begins with what the run had used up before."""

    def __init__(self, limits: LimitsConfig, prices: Mapping[str, Price], spent: Spent | None = None) -> None:
        self.limits = limits
        self.used = spent or Spent()
        self.halted: str | None = None
        """Why no call may start any more; None while they may."""
        self.failure: StoreError | None = None
        """What made the store unusable; None if nothing did."""
        self._prices = prices
        self._began = time.monotonic()
        self._calls_open = asyncio.Event()
        self._levels_open = asyncio.Event()
        self._halting = asyncio.Event()
        self.resume()

    @property
    def paused(self) -> str | None:
        """`soft`, `hard` or None."""
        if not self._calls_open.is_set():
            return "hard"
        return None if self._levels_open.is_set() else "soft"

    def pause(self, *, hard: bool) -> None:
        if self.halted is not None:
            return  # whoever waited for the end would wait for ever
        self._levels_open.clear()
        if hard:
            self._calls_open.clear()

    def resume(self) -> None:
        self._levels_open.set()
        self._calls_open.set()

    def halt(self, reason: str) -> None:
        """Let no further call start; those who wait are told too."""
        self.halted = self.halted or reason
        self._halting.set()
        self._levels_open.set()
        self._calls_open.set()

    async def enter(self) -> None:
        """Before a call. Raises Halted."""
        if not self._calls_open.is_set():
            await self._calls_open.wait()
        self._check()

    async def halting(self) -> None:
        """Wait until no call may start any more. Raises Halted then."""
        await self._halting.wait()
        self._check()

    async def hold(self) -> None:
        """Before a level. Raises Halted."""
        if not self._levels_open.is_set():
            await self._levels_open.wait()
        self._check()

    def spent(self, model: str, usage: Usage, seconds: float) -> None:
        """Account for an answered call."""
        read, written = usage.prompt_tokens or 0, usage.output_tokens or 0
        self.used.calls += 1
        self.used.tokens_in += read
        self.used.tokens_out += written
        if price := self._prices.get(model):
            self.used.money += price.of(read, written)

    def broke(self, error: StoreError) -> None:
        """The store cannot be written: halt, and remember why."""
        self.failure = self.failure or error
        self.halt(error.message)

    def _check(self) -> None:
        if self.halted is None and (used_up := self._used_up()):
            self.halt(used_up)
        if self.halted is not None:
            raise Halted(self.halted)

    def _used_up(self) -> str | None:
        limits, used = self.limits, self.used
        if limits.calls and used.calls >= limits.calls:
            return f"the budget of {limits.calls} calls is used up"
        if limits.tokens and used.tokens_in + used.tokens_out >= limits.tokens:
            return f"the budget of {limits.tokens} tokens is used up"
        if limits.minutes and time.monotonic() - self._began >= limits.minutes * 60:
            return f"the budget of {limits.minutes:g} minutes is used up"
        if limits.money and used.money >= limits.money:
            return f"the budget of {limits.money:g} (money) is used up"
        return None
