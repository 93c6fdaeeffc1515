"""Playing small runs in tests: from a dictionary to a finished store, with the real engine and scripted models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.models.protocol import Model
from simulation.cast import Cast, close_models, load_prompts, make_cast, open_models
from simulation.config import RunConfig, make_config
from simulation.engine import Engine, close_engine, open_engine
from simulation.runs import begin, draw_personas, plan_run
from trees.store import RunRow, Store
from trees.tree import ConversationTree

SMALL: dict[str, Any] = {
    "name": "small",
    "turns": 3,
    "models": {"scripted": {"kind": "scripted"}},
    "personas": {"count": 2},
    "responders": {"plain": {}, "warm": {"hint": True}, "brief": {"hint": True, "sampling": {"max_tokens": 20}}},
}


def configuration(**changes: Any) -> RunConfig:
    """The small configuration with sections replaced."""
    return make_config({**copy.deepcopy(SMALL), **changes}, "the test")


async def cast_of(config: RunConfig, folder: Path | None = None, models: Mapping[str, Model] | None = None) -> Cast:
    opened = dict(models) if models is not None else await open_models(config)
    return make_cast(config, opened, load_prompts(config, folder))


async def begun(
    path: Path, config: RunConfig, *, folder: Path | None = None, models: Mapping[str, Model] | None = None
) -> RunRow:
    """A run in the store, with nothing played. Models that were opened for it are closed again."""
    cast = await cast_of(config, folder, models)
    try:
        with Store.open(path) as store:
            return begin(store, plan_run(cast, draw_personas(config.personas, config.seed, folder, store), folder))
    finally:
        if models is None:
            await close_models(cast.models)


async def engine_for(path: Path, config: RunConfig, *, models: Mapping[str, Model] | None = None) -> Engine:
    """The engine of a run of this configuration, begun if it is new."""
    run = await begun(path, config, models=models)
    return await open_engine(path, run.id, models=models)


async def play(path: Path, config: RunConfig, *, models: Mapping[str, Model] | None = None, **how: Any) -> str:
    """Play a run to where it ends by itself; returns its id."""
    engine = await engine_for(path, config, models=models)
    try:
        await engine.run(**how)
        if engine.failure is not None:
            raise engine.failure
    finally:
        await close_engine(engine)
    return engine.run_row.id


def trees_of(path: Path, run_id: str) -> list[ConversationTree]:
    with Store.read(path) as store:
        return [store.tree(row.id) for row in store.trees(run_id)]
