"""Trainings in a store as the process that does one writes them, without torch: rows, points, alarms, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trees.ids import digest_of
from trees.store import Store
from trees.trainings import (
    TrainingPoint,
    TrainingState,
    keep_point,
    keep_training,
    set_training_state,
    training_id,
)
from trees.writes import in_one, keep_event

BEGAN = 1_800_000_000.0
"""When trainings made here began, in Unix seconds."""
CONFIGURATION: Mapping[str, Any] = {
    "base": digest_of("base"),
    "start": None,
    "seed": 1,
    "lora": {"rank": 16},
    "loss": {"kind": "sigmoid", "beta": 0.1},
    "schedule": {"epochs": 1.0, "steps": 400, "learning_rate": 1e-4},
    "evaluation": {"share": 0.25},
}


def make_training(
    store: Store,
    runs: Sequence[str],
    points: Sequence[TrainingPoint],
    *,
    kind: str = "dpo",
    name: str = "embedded on small",
    state: TrainingState = "finished",
    reason: str | None = None,
    judge: str | None = None,
    seed: int = 1,
    alarms: Sequence[str] = (),
    checkpoints: Sequence[int] = (),
) -> str:
    """A training with its points; returns its id."""
    configuration = {**CONFIGURATION, "objective": kind, "seed": seed}
    data = digest_of("data", list(runs), seed)
    training = training_id(configuration, data)
    selection = {"runs": list(runs), "judge": judge, "min_margin": None, "unit": None, "turns": None, "people": [],
                 "models": [], "pairs": "all", "deploy": None, "files": []}  # fmt: skip
    lineage = {"people": [["a", "b"]], "known": True, "trainings": []}
    store.apply(
        in_one(
            [
                keep_training(training, name, configuration, data, selection, lineage, {"base": "embedded"}),
                keep_event(training, "training.planned", {"pairs": 12}),
                *(keep_point(training, point) for point in points),
                *(keep_event(training, "training.checkpoint", {"step": step}) for step in checkpoints),
                *(
                    keep_event(training, "training.alarm", {"kind": "length", "step": 1, "text": text, "fatal": False})
                    for text in alarms
                ),
                set_training_state(training, state, reason),
            ]
        )
    )
    return training


def falling(steps: int, *, kind: str = "dpo", measured_every: int = 0) -> list[TrainingPoint]:
    """Points of a training that goes well: the loss falls, of pairs the margin grows; a second a step."""
    found = []
    for step in range(1, steps + 1):
        loss = 0.2 + 0.5 * math.exp(-step / 60) + 0.05 * math.sin(step * 12.9898)
        margin = 1.5 * (1 - math.exp(-step / 80)) + 0.2 * math.sin(step * 78.233)
        pairs = {"margin": margin, "accuracy": min(0.5 + step / 300, 0.95), "chosen_reward": margin / 3,
                 "rejected_reward": -margin * 2 / 3} if kind == "dpo" else {}  # fmt: skip
        base = {"epoch": step / 400, "learning_rate": 1e-4 * (1 - step / 400), "gradient": 1 / step + 0.2}
        point = {**base, **pairs, "tokens": 2048, "tokens_per_s": 2048.0, "at": BEGAN + step}
        found.append(TrainingPoint("training", step, loss=loss, **point))
        if measured_every and step % measured_every == 0:
            found.append(TrainingPoint("evaluation", step, loss=loss + 0.05, **{**point, "at": BEGAN + step + 0.5}))
    return found
