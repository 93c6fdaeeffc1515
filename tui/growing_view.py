"""How a growing pool is shown while it grows: the size against what was asked, the accept rate, why items fell out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.console import console, duration, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from simulation.growing_plan import Sizes
    from trees.pool import Generation

WORDS: Mapping[str, str] = {
    "kept": "kept",
    "duplicate": "word for word in the pool",
    "repeated": "proposed before",
    "near_duplicate": "say the same as another",
    "held_out": "held out, word for word",
    "near_held_out": "say the same as a held-out one",
    "model_check": "failed the model's check",
    "not_needed": "beyond the size",
    "no_json": "not readable",
    "cut": "cut off",
    "empty": "empty answers",
    "unchecked": "got no answer of the checker",
    "wrong_shape": "of another shape",
}


class Progress:
    """Tells of each generation: a moving display on a terminal, a line each elsewhere."""

    def __init__(self, path: Path, growing_id: str, sizes: Sizes) -> None:
        self._path = path
        self._growing = growing_id
        self._sizes = sizes
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        err = console(stderr=True)
        if err.is_terminal and not err.is_dumb_terminal:
            from rich.live import Live

            self._live = Live(console=err, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def told(self, done: Generation) -> None:
        """A generation is committed."""
        size, counts = self._facts(done)
        line = self._line(done, size, counts)
        if self._live is None:
            say(line, stderr=True)
        else:
            self._live.update(self._panel(done, size, line), refresh=True)

    def _facts(self, done: Generation) -> tuple[int, dict[str, int]]:
        from trees.pool import pool, rejections
        from trees.store import Store

        with Store.read(self._path) as store:
            return len(pool(store, done.kind, "train")), rejections(store, self._growing)[done.kind]

    def _line(self, done: Generation, size: int, counts: Mapping[str, int]) -> str:
        wanted = getattr(self._sizes, done.kind)
        word = "profiles" if done.kind == "profile" else "personalities"
        seconds = duration(time.monotonic() - self._began)
        failed = f", {done.failed} of {done.asked} calls failed" if done.failed else ""
        return f"{seconds}: {word} {size}/{wanted}; {in_words(counts)}{failed}"

    def _panel(self, done: Generation, size: int, line: str) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=max(getattr(self._sizes, done.kind), 1), completed=size, width=60)
        told = Text(line, overflow="fold")
        return Group(bar, told, Text("Ctrl-C stops: what came is kept, and the same command goes on.", style="dim"))


def in_words(counts: Mapping[str, int]) -> str:
    """Candidates by what became of them: how many, the share kept, and the reasons, the most frequent first."""
    from simulation.generation import NO_VERDICT

    total = sum(count for reason, count in counts.items() if reason not in NO_VERDICT)
    kept = counts.get("kept", 0)
    fallen = [f"{count} {WORDS.get(reason, reason.replace('_', ' '))}" for reason, count in counts.items()]
    reasons = ", ".join(text for text, reason in zip(fallen, counts, strict=True) if reason != "kept")
    share = f" ({kept / total:.0%})" if total else ""
    return f"{kept} of {total} candidates kept{share}" + (f"; {reasons}" if reasons else "")
