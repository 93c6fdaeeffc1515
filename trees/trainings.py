"""Trainings in the store: what was trained on what, how it goes, and which adapters came of it.

A training is a frozen configuration over frozen data: its id is their digest, where base and start of the
configuration stand by the content of their weights. Its points are written while it goes on; one that is gone on with
from a checkpoint writes the points after that again. The weights lie in files beside the store.

Invariant: the engine that holds a training's lock is the only one that writes its rows; a training is found again by
what it is, never by when it was started.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trees.errors import NotFound
from trees.ids import canonical_json, digest_of
from trees.store import Store
from trees.text import escape, unescape
from trees.writes import Write

TrainingKind = Literal["sft", "dpo"]
TrainingState = Literal["new", "running", "paused", "stopped", "finished", "failed"]
PointKind = Literal["training", "evaluation"]
STATES: tuple[TrainingState, ...] = get_args(TrainingState)


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """A stretch of optimiser steps, or a measurement on what was held back."""

    kind: PointKind
    step: int
    epoch: float
    loss: float | None
    """None if it was no number."""
    margin: float | None = None
    accuracy: float | None = None
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    learning_rate: float | None = None
    gradient: float | None = None
    tokens: int = 0
    tokens_per_s: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A training as the store describes it."""

    id: str
    kind: TrainingKind
    name: str
    configuration: dict[str, Any]
    data_digest: str
    base: str
    start_adapter: str | None
    selection: dict[str, Any]
    lineage: dict[str, Any]
    operation: dict[str, Any]
    state: TrainingState
    reason: str | None
    result: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """An adapter that a training made."""

    id: str
    training_id: str
    base: str
    start_adapter: str | None
    path: str
    """Its folder, as seen from the store's own."""
    rank: int
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    added_at: float


def training_id(configuration: Mapping[str, Any], data_digest: str) -> str:
    """Of a training by what it is; base, start and seed are part of the configuration."""
    return digest_of("training", dict(configuration), data_digest)


# Writes


def keep_training(
    training: str,
    name: str,
    configuration: Mapping[str, Any],
    data_digest: str,
    selection: Mapping[str, Any],
    lineage: Mapping[str, Any],
    operation: Mapping[str, Any],
) -> list[Write]:
    columns = (
        "id, kind, name, configuration, data_digest, base, start_adapter, selection, lineage, operation, state, "
        "created_at, updated_at"
    )
    now = time.time()
    values = (
        training,
        configuration["objective"],
        escape(name),
        canonical_json(dict(configuration)),
        data_digest,
        configuration["base"],
        configuration["start"],
        canonical_json(dict(selection)),
        canonical_json(dict(lineage)),
        canonical_json(dict(operation)),
        "new",
        now,
        now,
    )
    marks = ", ".join("?" * len(values))
    return [(f"INSERT INTO trainings ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING", values)]


def set_training_state(training: str, state: TrainingState, reason: str | None = None) -> list[Write]:
    sql = "UPDATE trainings SET state = ?, reason = ?, updated_at = ? WHERE id = ?"
    return [(sql, (state, escape(reason) if reason else None, time.time(), training))]


def set_training_operation(training: str, operation: Mapping[str, Any]) -> list[Write]:
    """Replace the half of a training that may change at any time."""
    sql = "UPDATE trainings SET operation = ?, updated_at = ? WHERE id = ?"
    return [(sql, (canonical_json(dict(operation)), time.time(), training))]


def set_training_result(training: str, folder: str) -> list[Write]:
    """Say where a model lies all of whose weights were trained."""
    return [("UPDATE trainings SET result = ? WHERE id = ?", (escape(folder), training))]


def keep_point(training: str, point: TrainingPoint) -> list[Write]:
    """A point; one of the same step, from before a crash, is replaced."""
    values = (
        training,
        point.kind,
        point.step,
        point.epoch,
        *(
            None if value is None or not math.isfinite(value) else value
            for value in (
                point.loss,
                point.margin,
                point.accuracy,
                point.chosen_reward,
                point.rejected_reward,
                point.learning_rate,
                point.gradient,
            )
        ),
        point.tokens,
        point.tokens_per_s,
        point.at or time.time(),
    )
    marks = ", ".join("?" * len(values))
    return [(f"INSERT OR REPLACE INTO training_points VALUES ({marks})", values)]


def forget_points(training: str, after: int) -> list[Write]:
    """Drop the points after a step: a training that goes on from there writes them again."""
    return [("DELETE FROM training_points WHERE training_id = ? AND step > ?", (training, after))]


def keep_adapter(adapter: AdapterRow) -> list[Write]:
    values = (
        adapter.id,
        adapter.training_id,
        adapter.base,
        adapter.start_adapter,
        escape(adapter.path),
        adapter.rank,
        canonical_json(adapter.lineage),
        canonical_json(adapter.metrics),
        adapter.added_at or time.time(),
    )
    marks = ", ".join("?" * len(values))
    return [(f"INSERT INTO adapters VALUES ({marks}) ON CONFLICT DO NOTHING", values)]


# Reads


def training(store: Store, training_id: str) -> TrainingRow:
    """One training, by its whole id. Raises NotFound."""
    rows = _trainings(store, "WHERE id = ?", (training_id,))
    if not rows:
        raise NotFound(f"no training {training_id} in {store.path}", hint=LISTING)
    return rows[0]


def trainings(store: Store) -> list[TrainingRow]:
    """All trainings, the latest first."""
    return _trainings(store, "ORDER BY created_at DESC, id", ())


def find_training(store: Store, prefix: str | None) -> TrainingRow:
    """The training that an id begins, or whose adapter it begins; the one worked on last if none is named.

    Raises NotFound.
    """
    if prefix is None:
        found = _trainings(store, "ORDER BY updated_at DESC, id LIMIT 1", ())
        if not found:
            raise NotFound(f"no training in {store.path}", hint="Start one: espalier train sft --model embedded.")
        return found[0]
    ids = _beginning(store, "trainings", prefix)
    if not ids:
        ids = sorted({adapter(store, each).training_id for each in _beginning(store, "adapters", prefix)})
    return training(store, _only(store, ids, "training", prefix))


def find_adapter(store: Store, prefix: str) -> AdapterRow:
    """The adapter that an id begins, or that the training of this id made last. Raises NotFound."""
    ids = _beginning(store, "adapters", prefix)
    if not ids and (made := _beginning(store, "trainings", prefix)):
        row = training(store, _only(store, made, "training", prefix))
        found = adapters(store, row.id)
        if not found:
            raise NotFound(
                f"training {row.id[:8]} is {row.state} and has made no adapter yet",
                hint=f"Go on with it: espalier train resume {row.id[:8]}.",
            )
        return found[0]
    return adapter(store, _only(store, ids, "adapter", prefix))


def adapter(store: Store, adapter_id: str) -> AdapterRow:
    """One adapter, by its whole id. Raises NotFound."""
    rows = _adapters(store, "WHERE id = ?", (adapter_id,))
    if not rows:
        raise NotFound(f"no adapter {adapter_id} in {store.path}", hint=LISTING)
    return rows[0]


def adapters(store: Store, training_id: str | None = None) -> list[AdapterRow]:
    """All adapters, or those of one training, the latest first."""
    if training_id is None:
        return _adapters(store, "ORDER BY added_at DESC, id", ())
    return _adapters(store, "WHERE training_id = ? ORDER BY added_at DESC, id", (training_id,))


def points(store: Store, training_id: str, *, after: int = -1) -> list[TrainingPoint]:
    """A training's points after a step, in the order of steps; a measurement comes after the steps it measures."""
    columns = (
        "kind, step, epoch, loss, margin, accuracy, chosen_reward, rejected_reward, learning_rate, gradient, tokens, "
        "tokens_per_s, at"
    )
    sql = f"SELECT {columns} FROM training_points WHERE training_id = ? AND step > ? ORDER BY step, kind DESC"
    return [TrainingPoint(*row) for row in store.rows(sql, (training_id, after))]


LISTING = "List them with `espalier train list`."


def _trainings(store: Store, where: str, values: Sequence[object]) -> list[TrainingRow]:
    columns = (
        "id, kind, name, configuration, data_digest, base, start_adapter, selection, lineage, operation, state, "
        "reason, result, created_at, updated_at"
    )
    return [
        TrainingRow(
            *(r[0], r[1], unescape(r[2]), json.loads(r[3]), *r[4:7]),
            *(json.loads(each) for each in r[7:10]),
            *(r[10], *(None if text is None else unescape(text) for text in r[11:13]), *r[13:]),
        )
        for r in store.rows(f"SELECT {columns} FROM trainings {where}", values)
    ]


def _adapters(store: Store, where: str, values: Sequence[object]) -> list[AdapterRow]:
    columns = "id, training_id, base, start_adapter, path, rank, lineage, metrics, added_at"
    return [
        AdapterRow(*(*r[:4], unescape(r[4]), r[5], json.loads(r[6]), json.loads(r[7]), r[8]))
        for r in store.rows(f"SELECT {columns} FROM adapters {where}", values)
    ]


def _beginning(store: Store, table: str, prefix: str) -> list[str]:
    wanted = prefix.strip().lower()
    sql = f"SELECT id FROM {table} WHERE id >= ? AND id < ? LIMIT 3"
    return [row[0] for row in store.rows(sql, (wanted, wanted + "g"))] if wanted else []


def _only(store: Store, found: Sequence[str], what: str, prefix: str) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"several {what}s begin with {prefix!r}: {', '.join(found)} ...", hint="Give more of the id.")
    raise NotFound(f"no {what} begins with {prefix!r} in {store.path}", hint=LISTING)
