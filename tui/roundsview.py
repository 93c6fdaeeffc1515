"""Rounds as one timeline, from the store alone: its facts for programs, and on paper for a person.

A line is a step: where it stands in its round, how it stands, how long it took, and the one figure that says what came
of it. Steps that are still to come are lines too, as far as the rounds go.

Invariant: nothing here asks what a process knows; whoever reads the store sees the same timeline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trees.jobs import live_engine
from trees.rounds import RoundsRow, StepRow, steps
from tui.console import duration, say, say_table
from tui.sanitise import one_line

if TYPE_CHECKING:
    from trees.store import Store

StepStanding = Literal["done", "running", "crashed", "stopped", "failed", "to come"]
MARKS: Mapping[StepStanding, str] = {
    "done": "✓",
    "running": "▶",
    "crashed": "✗",
    "stopped": "‖",
    "failed": "✗",
    "to come": "·",
}
NO_FIGURE = ""
_LONGEST_REASON = 70


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A step of a timeline."""

    round: int
    step: str
    standing: StepStanding
    took_s: float | None
    """Seconds, until now for one that is at work; None for one to come."""
    figure: str
    """What came of it, in a few words; the reason if nothing did."""
    made: str | None
    """Id of the run, training or benchmark that shows more."""


def timeline(row: RoundsRow, done: Sequence[StepRow], *, alive: bool, now: float) -> list[TimelineRow]:
    """The steps of rounds, those to come included. `alive`: whether a process is at work on the rounds."""
    begun = {(step.round, step.place): step for step in done}
    lines = []
    for round_ in range(_last_round(row, done) + 1):
        kinds = ["benchmark"] if round_ == 0 else row.configuration["steps"]
        for place, kind in enumerate(kinds):
            step = begun.get((round_, place))
            lines.append(TimelineRow(round_, kind, "to come", None, NO_FIGURE, None) if step is None else
                         _begun(step, alive=alive, now=now))  # fmt: skip
    return lines


def _last_round(row: RoundsRow, done: Sequence[StepRow]) -> int:
    """Rounds that are over have no further one; those under way go on to the last."""
    return max((step.round for step in done), default=0) if row.state == "finished" else int(row.operation["rounds"])


def _begun(step: StepRow, *, alive: bool, now: float) -> TimelineRow:
    standing: StepStanding = step.state
    took_s = step.took_s
    if step.state == "running":
        standing = "running" if alive or step.at_work else "crashed"
        took_s += now - step.began_at if step.attempts == 1 else 0.0
    figure = figure_of(step) if step.state == "done" else one_line(_gist(step.reason or ""), _LONGEST_REASON)
    return TimelineRow(step.round, step.kind, standing, took_s, figure, step.made)


def _gist(reason: str) -> str:
    """The line of a reason that says most: an error's first one, where a command's last lines hold one."""
    lines = [line for line in reason.splitlines() if line.strip()]
    return next(
        (line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0] if lines else ""
    )


def figure_of(step: StepRow) -> str:
    """What came of a step that is done, in a few words."""
    figures = step.figures
    if step.kind == "simulate":
        failed = f", {figures['failed']} failed" if figures["failed"] else ""
        return f"{figures['trees']} trees, {figures['messages']} messages{failed}"
    if step.kind == "judge":
        return f"{figures['turns']} turns, of which {figures['compared']} have replies to compare"
    if step.kind == "lint":
        warnings = f", {len(figures['warnings'])} warnings" if figures["warnings"] else ""
        return f"{figures['targets']} targets, {figures['pairs']} pairs of {figures['people']} people{warnings}"
    if step.kind == "benchmark":
        return _measured(figures)
    margin = (
        "" if figures["margin"] is None else f", margin {figures['margin']:.3g}, accuracy {figures['accuracy']:.2f}"
    )
    loss = "none" if figures["loss"] is None else f"{figures['loss']:.4g}"
    return f"adapter {figures['adapter'][:8]}, {figures['steps']} steps, loss {loss}{margin}"


def _measured(figures: Mapping[str, Any]) -> str:
    mean = f"mean {_bracketed(figures['mean'])}"
    if "outcome" not in figures:
        return mean
    words = {"gain": "above", "loss": "below", "same": "not distinguishable from"}[figures["outcome"]]
    return f"{mean}: {words} {figures['against']}, {_bracketed(figures['difference'], sign=True)}"


def _bracketed(figure: Mapping[str, Any], *, sign: bool = False) -> str:
    from tui.benchview import bracketed

    return bracketed(dict(figure), sign=sign)


def rounds_facts(store: Store, row: RoundsRow) -> dict[str, Any]:
    """Everything that the store says of rounds."""
    done = steps(store, row.id)
    engine = live_engine(store, row.id)
    lines = timeline(row, done, alive=engine is not None, now=time.time())
    measured = [step for step in done if step.kind == "benchmark" and step.state == "done"]
    gains = [step for step in measured if step.figures.get("outcome") == "gain"]
    last = gains[-1] if gains else None
    return {
        **rounds_line(store, row),
        "reason": row.reason,
        "configuration": row.configuration,
        "operation": row.operation,
        "best": None if last is None else {"round": last.round, **last.figures},
        "benchmark": measured[-1].made if measured else None,
        "timeline": [_as_dict(line) for line in lines],
        "steps": [_step(step) for step in done],
    }


def rounds_line(store: Store, row: RoundsRow) -> dict[str, Any]:
    """Rounds in lists."""
    engine = live_engine(store, row.id)
    crashed = row.state == "running" and engine is None
    return {
        "rounds": row.id,
        "name": row.name,
        "state": "crashed" if crashed else row.state,
        "engine": None if engine is None else {"pid": engine.pid, "host": engine.host},
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _as_dict(line: TimelineRow) -> dict[str, Any]:
    return {field: getattr(line, field) for field in TimelineRow.__slots__}


def _step(step: StepRow) -> dict[str, Any]:
    fields = ("round", "kind", "state", "reason", "made", "figures", "attempts", "took_s", "began_at", "ended_at")
    return {**{field: getattr(step, field) for field in fields}, "words": list(step.words)}


def say_rounds(facts: Mapping[str, Any]) -> None:
    """A timeline for a person, and what to do next."""
    short = facts["rounds"][:8]
    because = f": {facts['reason'].splitlines()[0]}" if facts["reason"] else ""
    say(f"rounds {short} {facts['name']!r}, {facts['state']}{because}\n")
    rows = [
        (
            line["round"],
            f"{MARKS[line['standing']]} {line['step']}",
            line["standing"],
            "" if line["took_s"] is None else duration(line["took_s"]),
            (line["made"] or "")[:8],
            line["figure"],
        )
        for line in facts["timeline"]
    ]
    say_table(("round", "step", "", "took", "made", "came to"), rows, right=("round", "took"))
    _say_next(facts)


def _say_next(facts: Mapping[str, Any]) -> None:
    short, failed = facts["rounds"][:8], [step for step in facts["steps"] if step["state"] == "failed"]
    for step in failed:
        say(f"\nround {step['round']}, {step['kind']} failed:\n{step['reason']}")
        say(f"the command that failed: {_command(step['words'])}")
    if facts["engine"] is not None:
        say(f"\npid {facts['engine']['pid']} is at work on it; stop it: espalier rounds stop {short}")
    elif facts["state"] != "finished":
        say(f"\n{'mend that, then ' if failed else ''}go on: espalier rounds {facts['operation']['file']}")
    if facts["best"] is not None:
        adapter = facts["best"]["adapter"][:8]
        say(f"\nbest: {facts['best']['model']}, adapter {facts['best']['adapter']}")
        say(f"keep it: espalier train export {adapter} OUT, or play it: adapter = {adapter!r} in a model's entry")
    elif facts["state"] == "finished":
        say("\nno round is above what was there before")
    if facts["benchmark"] is not None:
        say(f"the curves: espalier bench show --bench {facts['benchmark'][:8]}")


def _command(words: Sequence[str]) -> str:
    from tui.rounds import shown_words

    return shown_words(words)
