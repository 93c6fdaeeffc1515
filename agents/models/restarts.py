"""How often a child that died is started again before something must be wrong with it.

Invariant: within the window no more restarts are counted than allowed; one more is a failure of the set-up.
"""

from __future__ import annotations

from collections import deque

from agents.models.protocol import ModelFailure

WINDOW_S = 600.0


class Restarts:
    """The restarts of one child. `what` names it in the failure."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._times: deque[float] = deque()

    def count(self, now: float) -> None:
        """Note one more, at a time in seconds on any steady clock. Raises ModelFailure("setup") if it is too many."""
        while self._times and self._times[0] <= now - WINDOW_S:
            self._times.popleft()
        if len(self._times) >= self._most:
            raise ModelFailure(
                "setup",
                f"{self._what} ended again after {len(self._times)} restarts within {WINDOW_S / 60:.0f} minutes: "
                "see the failures before this one, or raise `max_restarts`",
            )
        self._times.append(now)
