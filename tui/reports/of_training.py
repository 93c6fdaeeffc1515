"""The report on a training: its curves, what it learnt from and what was left out, where its weights come from, alarms.

`facts` asks the store and the files beside it, `report` puts the answers into sections.

Invariant: the data is selected anew from the store to be counted; where that is no longer what was trained on, it
says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trees.errors import EspalierError
from trees.store import Store
from trees.trainings import TrainingRow
from tui.console import duration
from tui.reports.blocks import Block, Code, Facts, Folded, Picture, Report, Section, Table, Words
from tui.reports.plots import Curve, Lines, Point, mean_of_stretches
from tui.trainingview import training_facts

_POINTS_MARKED = 60
"""Above so many points a curve has no marks of its own."""


def facts(store: Store, row: TrainingRow) -> dict[str, Any]:
    """Everything that is reported of a training."""
    stands = training_facts(store, row.id)
    folder = stands["adapter_path"] or stands["result"]
    return {**stands, "selected": _selected(store, row), "card": _card(folder)}


def _selected(store: Store, row: TrainingRow) -> dict[str, Any]:
    """What the training's selection finds in the store now: kept, and left out by reason."""
    from train.data import select, stored_selection
    from train.training_plan import config_of

    try:
        config = config_of(row)
        selection, files = stored_selection(row.selection)
        wanted = replace(selection, evaluation=config.evaluation.share, seed=config.seed)
        data = select(store, wanted, files).only(config.objective)
    except EspalierError as error:
        return {"error": str(error)}
    return {
        "error": None,
        "same": data.digest == row.data_digest,
        "judge": data.judge,
        "unit": data.unit,
        "targets": data.targets,
        "pairs": data.pairs,
        "trees": len(data.trees),
        "people": len(data.people),
        "measured_trees": len(data.side("evaluation")),
        "dropped": {what: dict(reasons) for what, reasons in data.dropped.items()},
        "notes": list(data.notes),
    }


def _card(folder: str | None) -> str | None:
    """The card beside the weights, if they are still there."""
    if folder is None:
        return None
    try:
        return (Path(folder) / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


# Plots: the app shows them too


def plots_of(found: Mapping[str, Any]) -> list[Lines]:
    """The curves of a training that there are points for."""
    plots = [
        _plot(found, "loss", "Loss", "loss", (("loss", ""),)),
        _plot(found, "margin", "Margin", "chosen less rejected reward, nats times beta", (("margin", ""),), level=0.0),
        _plot(found, "accuracy", "Accuracy", "share of pairs that are right", (("accuracy", ""),), share=True),
        _plot(
            found,
            "rewards",
            "Rewards",
            "nats times beta",
            (("chosen_reward", "chosen"), ("rejected_reward", "rejected")),
            level=0.0,
        ),
    ]
    return [plot for plot in plots if plot.curves]


def pace_plots(found: Mapping[str, Any]) -> list[Lines]:
    """Learning rate, gradient and speed."""
    plots = [
        _plot(found, "learning-rate", "Learning rate", "", (("learning_rate", ""),)),
        _plot(found, "gradient", "Gradient", "norm", (("gradient", ""),)),
        _plot(found, "speed", "Speed", "tokens a second", (("tokens_per_s", ""),)),
    ]
    return [plot for plot in plots if plot.curves]


def _plot(
    found: Mapping[str, Any],
    name: str,
    title: str,
    y: str,
    fields: Sequence[tuple[str, str]],
    *,
    share: bool = False,
    level: float | None = None,
) -> Lines:
    curves = []
    for field, what in fields:
        for kind in ("training", "evaluation"):
            points = _series(found["points"], kind, lambda point, field=field: point[field])  # type: ignore[misc]
            if points:
                named = f"{what} {'trained' if kind == 'training' else 'held back'}".strip()
                curves.append(Curve(named, points, marked=len(points) <= _POINTS_MARKED))
    events = tuple((float(alarm["step"]), alarm["text"]) for alarm in found["alarms"])
    return Lines(name, title, "step", y, tuple(curves), whole_x=True, share=share, level=level, events=events)


def _series(
    points: Sequence[Mapping[str, Any]], kind: str, value: Callable[[Mapping[str, Any]], float | None]
) -> tuple[Point, ...]:
    known = [(point["step"], value(point)) for point in points if point["kind"] == kind]
    return mean_of_stretches([Point(float(step), y) for step, y in known if y is not None])


# Sections


def report(found: Mapping[str, Any]) -> Report:
    """The facts in sections."""
    reason = f" ({found['reason']})" if found["reason"] else ""
    about = f"{found['kind']} of {found['name']}; {found['state']}{reason}, {found['share']:.0%} done"
    sections = (
        Section("Curves", tuple(_curves(found))),
        Section("Alarms", tuple(_alarms(found))),
        Section("Data", tuple(_data(found))),
        Section("Where the weights come from", tuple(_lineage(found))),
        Section("Configuration", tuple(_configuration(found))),
    )
    return Report(f"Training {found['training'][:8]}", about, sections)


def _curves(found: Mapping[str, Any]) -> Iterator[Block]:
    plots = plots_of(found)
    if not plots:
        yield Words("No step has been taken yet.", "quiet")
    for plot in plots:
        yield Picture(plot, "Held back: measured on people who are not trained on." if plot.name == "loss" else "")
    if pace := pace_plots(found):
        yield Folded("Learning rate, gradient and speed", tuple(Picture(plot) for plot in pace))


def _alarms(found: Mapping[str, Any]) -> Iterator[Block]:
    for alarm in found["alarms"]:
        yield Words(f"At step {alarm['step']}: {alarm['text']}", "warn")
    if not found["alarms"]:
        yield Words("None was raised.", "quiet")


def _data(found: Mapping[str, Any]) -> Iterator[Block]:
    selected = found["selected"]
    if selected["error"] is not None:
        yield Words(f"The store no longer gives this data: {selected['error']}", "warn")
        return
    if not selected["same"]:
        yield Words("The store has changed since: what follows is what the selection finds now.", "warn")
    unit = f", in {selected['unit']}" if selected["unit"] else ""
    yield Facts(
        (
            ("kept", f"{selected['targets']} targets and {selected['pairs']} pairs"),
            ("in", f"{selected['trees']} trees of {selected['people']} people; {selected['measured_trees']} held back"),
            ("judge", f"{selected['judge'] or 'none'}{unit}"),
            ("digest", found["data"]),
        )
    )
    dropped = [
        (what, reason.replace("_", " "), str(number))
        for what, reasons in selected["dropped"].items()
        for reason, number in sorted(reasons.items(), key=lambda each: -each[1])
    ]
    if dropped:
        yield Table(("left out", "why", "number"), tuple(dropped), ("number",))
    for note in selected["notes"]:
        yield Words(note, "quiet")


def _lineage(found: Mapping[str, Any]) -> Iterator[Block]:
    lineage = found["lineage"]
    known = "known from the base on" if lineage["known"] else "unknown: something in it came from outside"
    yield Facts(
        (
            ("base", f"{found['base_name']}, weights {found['base']}"),
            ("begun from", "the base" if found["start"] is None else f"adapter {found['start']}"),
            ("lineage", known),
            ("people seen", str(len(lineage["people"]))),
            ("time", duration(found["seconds"])),
            ("adapter", found["adapter"] or "none yet"),
        )
    )
    rows = [
        (step["id"], step["kind"], step["data"], ", ".join(run[:8] for run in step["runs"]))
        for step in lineage["trainings"]
    ]
    yield Table(("training", "kind", "data", "runs"), tuple(rows))


def _configuration(found: Mapping[str, Any]) -> Iterator[Block]:
    yield Folded("Configuration", (Code(json.dumps(found["configuration"], indent=1, sort_keys=True)),))
    yield Folded("Selection", (Code(json.dumps(found["selection"], indent=1, sort_keys=True)),))
    if found["card"] is not None:
        yield Folded("The adapter's card", (Code(found["card"]),))
