"""From a configuration file to a run that could be played, and the dry run that says what it would take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.console import count, say, say_json, say_table
from tui.sanitise import one_line
from tui.stores import optional

if TYPE_CHECKING:
    from simulation.estimate import Estimate
    from simulation.runs import Planned
    from trees.store import RunRow, Store


async def planned(path: Path, seed: int | None, given: Mapping[str, Any], store_path: Path) -> Planned:
    """The run of a configuration, with its models open. Raises SetupError; then none is left open."""
    from simulation.cast import close_models, load_prompts, make_cast, open_models
    from simulation.config import load_config
    from simulation.runs import draw_personas, plan_run
    from train.adapters import StoredAdapters

    config = load_config(path, seed=seed, given=given)
    folder = _folder(path)
    prompts = load_prompts(config, folder / "prompts")
    with optional(store_path) as store:
        personas = draw_personas(config.personas, config.seed, folder, store)
    models = await open_models(config, StoredAdapters(store_path))
    try:
        return plan_run(make_cast(config, models, prompts), personas, folder / "prompts")
    except BaseException:
        await close_models(models)
        raise


def _folder(config: Path) -> Path:
    """Where a configuration lies, in a form that holds from any other folder too."""
    return config.resolve().parent


async def show_plan(path: Path, seed: int | None, given: Mapping[str, Any], store_path: Path, *, as_json: bool) -> None:
    """Print what a run would be, and whether it is in the store already. Asks no model for text."""
    from simulation.cast import close_models
    from simulation.estimate import estimate

    plan = await planned(path, seed, given, store_path)
    await close_models(plan.cast.models)
    with optional(store_path) as store:
        stored = _stored(store, plan.id)
    guess = estimate(plan.cast, plan.personas)
    document = _document(plan, guess, stored)
    if as_json:
        say_json(document)
    else:
        _say_plan(plan, document, guess)


def _document(plan: Planned, guess: Estimate, stored: RunRow | None) -> dict[str, Any]:
    config = plan.cast.config
    models = plan.cast.models.items()
    return {
        "run": plan.id,
        "name": config.name,
        "seed": config.seed,
        "stored": None if stored is None else {"state": stored.state, "reason": stored.reason},
        "models": {
            name: {
                "identity": model.identity.as_dict(),
                "id": model.identity.id,
                "capabilities": {field: getattr(model.capabilities, field) for field in model.capabilities.__slots__},
                "roles": [role.name for role in plan.cast.roles.values() if name in role.models],
            }
            for name, model in models
        },
        "personas": [[profile.id, personality.id] for profile, personality in plan.personas],
        "branching": guess.branching,
        "estimate": guess.as_dict(),
    }


def _say_plan(plan: Planned, document: dict[str, Any], guess: Estimate) -> None:
    config = plan.cast.config
    say(f"run {plan.id}\n{config.name!r}, seed {config.seed}: {_standing(document['stored'], plan.id)}\n")
    say_table(("model", "backend", "weights", "can", "context", "roles"), _model_rows(document["models"]))
    say(f"\n{len(plan.personas)} personas, drawn:")
    width = 58
    people = ((p.id[:8], one_line(p.text, width), q.id[:8], one_line(q.text, width)) for p, q in plan.personas)
    say_table(("profile", "", "personality", ""), people)
    say(f"\nbranching: {guess.branching}\n")
    say_table(
        ("role", "calls", "tokens read", "tokens written"),
        [(row.role, _range(row.calls), _range(row.tokens_in), _range(row.tokens_out)) for row in guess.rows],
        right=("calls", "tokens read", "tokens written"),
    )
    say("\nFrom short answers and no repeats to the longest and every repeat. No model was asked for text.")


def _standing(stored: dict[str, Any] | None, run_id: str) -> str:
    if stored is None:
        return "not in the store yet"
    if stored["state"] == "finished":
        return f"in the store, finished; `espalier run` would show it (espalier trees {run_id[:8]})"
    return f"in the store, {stored['state']}; `espalier run` would go on with it"


def _model_rows(models: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, model in models.items():
        identity, can = model["identity"], model["capabilities"]
        weights = f"{one_line(str(identity['model']), 24)} {identity['quantisation']}".removesuffix(" unknown")
        abilities = ", ".join(key for key, value in can.items() if value is True)
        context = can["context"] or "unknown"
        rows.append((name, identity["backend"], weights, abilities, context, ", ".join(model["roles"])))
    return rows


def _range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return count(low) if low == high else f"{count(low)} - {count(high)}"


def _stored(store: Store | None, run_id: str) -> RunRow | None:
    if store is None or not store.rows("SELECT 1 FROM runs WHERE id = ?", (run_id,)):
        return None
    return store.run(run_id)
