"""A draft that is being tried: what has been said so far under it and under what is saved, place by place.

Values and lines alone; nothing here knows a widget.

Invariant: `heard` makes the state from events in the order in which they came, and an event that it does not know
changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len

from tui.draw import Line, Span, wrapped
from tui.sanitise import one_line

_OUTCOMES = {"draft": ("draft better", "green"), "saved": ("saved better", "red")}
"""What is said of an outcome, and its style; others are said by their name."""
NARROW = 60
"""Below so many columns the two texts stand under each other."""


@dataclass(frozen=True, slots=True)
class Try:
    """One place."""

    title: str = ""
    saved: str = ""
    draft: str = ""
    failed: str = ""
    outcome: str = ""


Tries = Mapping[int, Try]


def heard(tries: Tries, event: Mapping[str, Any]) -> Tries:
    """The state after one event of `tui.trying`."""
    if not isinstance(event.get("place"), int):
        return tries
    number = event["place"]
    before = tries.get(number, Try())
    side, text = event.get("side"), str(event.get("text", ""))
    if "title" in event:
        after = replace(before, title=str(event["title"]))
    elif "outcome" in event:
        after = replace(before, outcome=str(event["outcome"]))
    elif "failed" in event:
        after = replace(before, failed=f"{side}: {event['failed']}")
    elif side == "saved":
        after = replace(before, saved=before.saved + text)
    elif side == "draft":
        after = replace(before, draft=before.draft + text)
    else:
        return tries
    return {**tries, number: after}


def lines_of_tries(tries: Tries, width: int, *, plain: bool) -> Iterator[Line]:
    """The table of outcomes, then each place with the two texts beside each other."""
    counts = Counter(each.outcome for each in tries.values() if each.outcome)
    if counts:
        won, lost = counts.pop("draft", 0), counts.pop("saved", 0)
        others = "".join(f"  {name} {count}" for name, count in sorted(counts.items()))
        yield (Span(f"draft better {won}", "green"), Span(f"  saved better {lost}", "red"), Span(others))
        yield ()
    for number in sorted(tries):
        yield from _place(tries[number], max(width, 20), "|" if plain else "│")
        yield ()


def _place(tried: Try, width: int, between: str) -> Iterator[Line]:
    outcome, style = _OUTCOMES.get(tried.outcome, (tried.outcome, "yellow"))
    yield (Span(one_line(tried.title, width), "bold"),)
    if tried.outcome:
        yield (Span(outcome, style),)
    if tried.failed:
        yield from ((Span(line, "red"),) for line in wrapped(tried.failed, width))
    if width < NARROW:
        for name, text in (("saved", tried.saved), ("draft", tried.draft)):
            yield (Span(name, "dim"),)
            yield from ((Span(line),) for line in wrapped(text, width))
        return
    column = (width - 3) // 2
    left, right = ["saved", *wrapped(tried.saved, column)], ["draft", *wrapped(tried.draft, column)]
    for at in range(max(len(left), len(right))):
        style = "dim" if at == 0 else ""
        one = left[at] if at < len(left) else ""
        other = right[at] if at < len(right) else ""
        yield (Span(one + " " * (column - cell_len(one)), style), Span(f" {between} ", "dim"), Span(other, style))
