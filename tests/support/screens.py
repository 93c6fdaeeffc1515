"""Driving the app in tests: keys, named conditions instead of sleeps, and what a screen shows as text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from textual.pilot import Pilot

from tui.app.app import EspalierApp
from tui.app.frame import Mode

ENDLESS = ("lanes", "children")
"""Groups of background work that has no end of its own while a screen is shown."""
TIMEOUT_S = 60.0
"""Longest wait for a condition, in seconds: only a failing test waits so long, however busy the machine is."""


@dataclass(frozen=True)
class Driven:
    """An app that is driven by a test."""

    app: EspalierApp
    pilot: Pilot[None]

    @property
    def screen(self) -> Mode:
        screen = self.app.screen
        assert isinstance(screen, Mode), f"{screen} is no screen of its own"
        return screen

    async def press(self, *keys: str) -> None:
        """Press keys and let what they set off in the background come to its end."""
        await self.pilot.press(*keys)
        await self.settle()

    async def settle(self) -> None:
        """Until nothing is being read and nothing is left to do or paint. Listening to an engine goes on."""
        async with self._within("everything that is being read"):
            for _ in range(2):
                await self.pilot.press()
                while any(not worker.is_finished and worker.group not in ENDLESS for worker in self.app.workers):
                    await self.pilot.pause(0.002)
                await self.pilot.pause(0.002)
        await self._painted()

    async def _painted(self) -> None:
        """Until the screen was refreshed. An app that is being left refreshes no more."""
        refreshed = asyncio.Event()
        if self.app.screen.call_after_refresh(refreshed.set):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await refreshed.wait()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; it has a name for whoever reads the failure."""
        async with self._within(what):
            while not condition():
                await self.pilot.pause(0.01)
        await self.settle()

    @asynccontextmanager
    async def _within(self, what: str) -> AsyncIterator[None]:
        """A wait that does not go on for ever."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield
        except TimeoutError:
            raise AssertionError(f"waited {TIMEOUT_S:g} s for: {what}\n{self.text()}") from None

    def text(self) -> str:
        """What stands on the screen, without trailing spaces."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text.rstrip() for strip in strips) + "\n"
