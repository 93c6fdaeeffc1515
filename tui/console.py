"""Printing: to people through rich, to programs as JSON. Text of models and files passes the sanitiser on the
way.

Invariant: markup is never parsed. `rich` sees `Text` values whose words were made safe by `tui.sanitise`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tui.sanitise import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from tui.draw import Line


def console(*, stderr: bool = False) -> Console:
    """Where to print. Not a terminal: plain text of the width that COLUMNS says, or as wide as it comes."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = 120
    return made


def is_plain(*, stderr: bool = False) -> bool:
    """Whether to draw with ASCII only: asked for, or the terminal or its encoding can do no better."""
    stream = sys.stderr if stderr else sys.stdout
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb" or not encoding.startswith("utf")


def say(text: str, *, stderr: bool = False) -> None:
    """One or more lines for a person, made safe."""
    print(visible(text, longest=None), file=sys.stderr if stderr else sys.stdout, flush=True)


def say_json(value: Any) -> None:
    """A document for programs: ASCII, keys sorted, so that equal values give equal bytes."""
    print(json.dumps(value, sort_keys=True, ensure_ascii=True, indent=1, default=str))


def say_event(value: Any) -> None:
    """One line of JSON at once, for a program that follows what is done."""
    print(json.dumps(value, sort_keys=True, ensure_ascii=True, default=str), flush=True)


def say_lines(lines: Iterable[Line], *, stderr: bool = False) -> None:
    """Drawn lines, as they are: they were wrapped when they were drawn."""
    out = console(stderr=stderr)
    for line in lines:
        out.print(styled(line), soft_wrap=True)


def say_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """A table without frames. Cells are made safe; the columns named in `right` are set to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible("" if cell is None else str(cell))) for cell in row))
    console().print(table)


def styled(line: Line) -> Text:
    """A drawn line as rich prints it."""
    from rich.text import Text

    return Text.assemble(*((span.text, span.style) for span in line))


def count(number: float) -> str:
    """A number of things in few characters: 950, 12.3k, 4.1M."""
    if number < 10_000:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f}k" if number < 1e6 else f"{number / 1e6:.1f}M"


def duration(seconds: float) -> str:
    """A time span in words: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
