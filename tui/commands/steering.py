"""Steering a run that is being played: `pause`, `stop` and `set`, each a row that the engine answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tui.console import say, say_json
from tui.options import examples, json_option, store_option


def _number_or_auto(ctx: click.Context, param: click.Parameter, value: str) -> float | str:
    return "auto" if value == "auto" else float(click.FLOAT(value, param, ctx))


@click.command(epilog=examples("espalier pause 1a2b3c4d", "espalier pause 1a2b3c4d --hard"))
@click.argument("run")
@click.option("--hard", is_flag=True, help="Hold before the next call, not before the next turn.")
@json_option
@store_option
def pause(run: str, hard: bool, as_json: bool, store_path: Path) -> None:
    """Hold RUN: the turns under way are finished and no further one begins. `espalier resume` goes on."""
    run_id, result = _ask(store_path, run, "pause", {"hard": hard})
    held = "before its next call" if hard else "when the turns under way are done"
    _tell(as_json, result, f"run {run_id[:8]} is paused: it holds {held}\ngo on: espalier resume {run_id[:8]}")


@click.command(epilog=examples("espalier stop 1a2b3c4d"))
@click.argument("run")
@json_option
@store_option
def stop(run: str, as_json: bool, store_path: Path) -> None:
    """Have the engine of RUN leave: the calls in flight are finished and kept. `espalier resume` goes on
    later.
    """
    run_id, result = _ask(store_path, run, "stop", {})
    _tell(as_json, result, f"run {run_id[:8]} is stopping\ngo on later: espalier resume {run_id[:8]}")


@click.command(
    "set",
    epilog=examples(
        "espalier set 1a2b3c4d permits small 4",
        "espalier set 1a2b3c4d permits small auto",
        "espalier set 1a2b3c4d limits trees_in_flight 16",
        "espalier set 1a2b3c4d limits tokens 2000000",
    ),
)
@click.argument("run")
@click.argument("what", type=click.Choice(["permits", "limits"]))
@click.argument("name")
@click.argument("value", callback=_number_or_auto)
@json_option
@store_option
def set_(run: str, what: str, name: str, value: float | str, as_json: bool, store_path: Path) -> None:
    """Change what may change while RUN is played.

    permits MODEL N: calls that may be with a model at once, or "auto". limits KEY VALUE: trees_in_flight (a number or
    "auto"), calls, tokens, minutes or money; 0 is no limit.
    """
    args = _permits(name, value) if what == "permits" else _limits(name, value)
    run_id, result = _ask(store_path, run, what, args)
    told = ", ".join(f"{key} {_plain(result[key])}" for key in sorted(result))
    _tell(as_json, result, f"run {run_id[:8]}: {told}")


def _permits(model: str, value: float | str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"model": model, "limit": value}
    if value != int(value) or value < 1:
        raise click.BadParameter(f"{value:g} is not a number of calls; give 1 or more", param_hint="VALUE")
    return {"model": model, "limit": int(value)}


def _limits(key: str, value: float | str) -> dict[str, Any]:
    """One limit, checked here so that what the engine is asked for is always valid."""
    from pydantic import ValidationError

    from simulation.config import LimitsConfig, explain

    number = int(value) if isinstance(value, float) and value == int(value) else value
    try:
        LimitsConfig.model_validate({key: number})
    except ValidationError as error:
        known = ", ".join(LimitsConfig.model_fields)
        raise click.UsageError(f"{explain(error).strip()}\nLimits: {known}.") from error
    return {key: number}


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _ask(store_path: Path, prefix: str, verb: str, args: Mapping[str, object]) -> tuple[str, dict[str, Any]]:
    from tui.launch import ask_and_wait
    from tui.stores import existing

    with existing(store_path) as store:
        run_id = store.find("runs", prefix)
        return run_id, asyncio.run(ask_and_wait(store, run_id, verb, args))


def _tell(as_json: bool, result: Mapping[str, Any], words: str) -> None:
    if as_json:
        say_json(dict(result))
    else:
        say(words)
