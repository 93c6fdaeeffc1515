"""The ends of what models are writing at this moment, one lane an answer: what every display of live tokens keeps.

Invariant: bounded. A lane holds `TAIL` characters, there are `LANES` at most, and a silent one is taken away.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict

from tui.sanitise import one_line

SILENT_S = 3.0
"""A lane that nothing was written in for so long is taken away."""
LANES = 12
"""Lanes shown at once, at most."""
TAIL = 400
"""Characters of a lane that are kept."""


class Lanes:
    """The ends of what models are writing, one lane an answer, the latest last."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str, str, int], str] = OrderedDict()
        self._heard: dict[tuple[str, str, str, int], float] = {}

    def take(self, line: bytes, now: float) -> None:
        """One delta as the engine sends it; what is no delta is passed over."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            delta = json.loads(line)
            key = (str(delta["tree"]), str(delta["role"]), str(delta["purpose"]), int(delta["answer"]))
            self._texts[key] = (self._texts.pop(key, "") + str(delta["text"]))[-TAIL:]
            self._heard[key] = now

    def shown(self, now: float, width: int) -> list[tuple[str, str]]:
        """Who is speaking, and the end of what they have written so far, in `width` characters."""
        for key in [key for key, heard in self._heard.items() if now - heard > SILENT_S]:
            del self._heard[key], self._texts[key]
        lanes = list(self._texts.items())[-LANES:]
        return [(f"{tree[:8]} {one_line(role, 24)}", _end(text, width)) for (tree, role, _, _), text in lanes]


def _end(text: str, width: int) -> str:
    flat = one_line(text, 4 * TAIL)
    return flat if len(flat) <= width else "... " + flat[-(width - 4) :]
