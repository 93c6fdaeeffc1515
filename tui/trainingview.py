"""How a training stands, from the store alone: its facts for programs, and on paper for a person."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from train.memory import memory_from
from trees.jobs import events, live_engine
from trees.trainings import TrainingPoint, adapters, points, training
from tui.console import duration, say, say_table
from tui.training import in_a_line, share_done

if TYPE_CHECKING:
    from trees.store import Store

SHOWN = 12
"""Points that are printed; programs get all of them."""


def training_facts(store: Store, training_id: str) -> dict[str, Any]:
    """Everything that the store says of a training."""
    row = training(store, training_id)
    seen = points(store, training_id)
    made = adapters(store, training_id)
    engine = live_engine(store, training_id)
    happened = events(store, row.id, limit=100_000)
    trained = [point for point in seen if point.kind == "training"]
    share = share_done(row, trained[-1].step, trained[-1].epoch) if trained else 0.0
    return {
        "training": row.id,
        "kind": row.kind,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "engine": None if engine is None else {"pid": engine.pid, "host": engine.host},
        "base": row.base,
        "base_name": row.operation["base"],
        "start": row.start_adapter,
        "data": row.data_digest,
        "configuration": row.configuration,
        "selection": row.selection,
        "lineage": row.lineage,
        "share": 1.0 if row.state == "finished" else share,
        "points": [asdict(point) for point in seen],
        "alarms": [event.data for event in happened if event.kind == "training.alarm"],
        "forecast": next((event.data for event in reversed(happened) if event.kind == "training.forecast"), None),
        "adapter": made[0].id if made else None,
        "adapter_path": str(store.path.parent / made[0].path) if made else None,
        "result": None if row.result is None else str(store.path.parent / row.result),
        "seconds": (time.time() if engine is not None else row.updated_at) - row.created_at,
    }


def say_training(facts: dict[str, Any]) -> None:
    """The same for a person."""
    say(f"training {facts['training']}\n{facts['kind']} of {facts['name']}")
    say(f"{facts['state']}{_because(facts['reason'])}, {facts['share']:.0%} done, {_worked(facts)}\n")
    lineage = facts["lineage"]
    people = f"{len(lineage['people'])} people seen, lineage {'known' if lineage['known'] else 'unknown'}"
    say_table(
        ("", ""),
        [
            ("base", f"{facts['base_name']}, weights {facts['base'][:16]}"),
            ("from", "the base" if facts["start"] is None else f"adapter {facts['start']}"),
            ("data", f"{facts['data']}, {people}"),
            ("trainings", ", ".join(f"{step['kind']} {step['id'][:8]}" for step in lineage["trainings"])),
            *_forecast(facts["forecast"]),
        ],
    )
    _say_points([TrainingPoint(**point) for point in facts["points"]])
    for alarm in facts["alarms"]:
        say(f"alarm at step {alarm['step']}: {alarm['text']}")
    if facts["engine"] is None and facts["state"] != "finished":
        say(f"\ngo on with it: espalier train resume {facts['training'][:8]}")
    if facts["adapter"] is not None:
        talk = f"espalier chat {facts['base_name']} --adapter {facts['adapter'][:8]}"
        say(f"\nadapter {facts['adapter']}\ntalk with it: {talk}")
    if facts["result"] is not None:
        say(f"\nall weights were trained: the model lies in {facts['result']}")


def _forecast(forecast: dict[str, Any] | None) -> list[tuple[str, str]]:
    if forecast is None:
        return []
    took = f"{forecast['tokens']} tokens in {forecast['seconds']:.2g} s forward and backward"
    return [("memory", memory_from(forecast["memory"]).words()), ("longest row", took)]


def _because(reason: str | None) -> str:
    return f" ({reason})" if reason else ""


def _worked(facts: dict[str, Any]) -> str:
    engine = facts["engine"]
    at_work = "nobody is at work on it" if engine is None else f"pid {engine['pid']} on {engine['host']} is at work"
    return f"{duration(facts['seconds'])} since it began, {at_work}"


def _say_points(seen: list[TrainingPoint]) -> None:
    trained = [point for point in seen if point.kind == "training"]
    measured = [point for point in seen if point.kind == "evaluation"]
    for what, these in (("trained", trained), ("measured on people who are held back", measured)):
        if these:
            say(f"\n{what}:")
        for point in _spread(these):
            say(f"  {in_a_line(point)}")


def _spread(seen: list[TrainingPoint]) -> list[TrainingPoint]:
    """First, last, and some between at even distances."""
    if len(seen) <= SHOWN:
        return seen
    return [seen[round(at * (len(seen) - 1) / (SHOWN - 1))] for at in range(SHOWN)]
