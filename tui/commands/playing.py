"""Playing runs: `init`, `run`, `resume`, and the hidden `engine` that a detached run is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import SetupError
from tui.console import say, say_json
from tui.options import FILE, config_option, examples, json_option, set_option, store_option
from tui.stores import existing

if TYPE_CHECKING:
    from simulation.runs import Planned
    from tui.launch import Ending, Launch

INTERRUPTED = 130


@click.command(epilog=examples("espalier init quickstart.toml", "espalier init paper.toml --preset paper"))
@click.argument("file", type=FILE)
@click.option(
    "--preset",
    type=click.Choice(["corrected", "paper", "paper-code"]),
    default="corrected",
    show_default=True,
    help="Which roles, judge and branching the file begins with.",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(file: Path, preset: str, force: bool) -> None:
    """Write a commented configuration to FILE, valid as it stands."""
    from simulation.quickstart import quickstart

    if file.exists() and not force:
        raise SetupError(f"{file} exists already", hint="Name another file, or write over it with --force.")
    try:
        file.write_text(quickstart(preset), encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write {file}: {error.strerror}") from error
    say(f"wrote {file}\nnext: espalier run {file} --dry-run, then espalier run {file}")


@click.command(
    epilog=examples(
        "espalier run quickstart.toml --dry-run",
        "espalier run quickstart.toml",
        "espalier run quickstart.toml --seed 2 --detach",
    )
)
@click.argument("config", type=FILE)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Another seed than the file's: another run.")
@set_option("Any field of the file, as personas.count=12.")
@click.option("--dry-run", is_flag=True, help="Open the models and estimate the work; ask no model for text.")
@click.option("--detach", is_flag=True, help="Play it in the background; this terminal may be closed.")
@json_option
@store_option
def run(
    config: Path,
    seed: int | None,
    given: dict[str, Any],
    dry_run: bool,
    detach: bool,
    as_json: bool,
    store_path: Path,
) -> None:
    """Play the run that CONFIG describes.

    The same command again goes on with an unfinished run and shows a finished one. Ctrl-C stops it: the calls
    in flight are finished and kept, and `espalier resume` goes on. A second Ctrl-C gives up at once.
    """
    from tui.planning import show_plan

    if dry_run:
        asyncio.run(show_plan(config, seed, given, store_path, as_json=as_json))
        return
    ending = asyncio.run(_run(config, seed, given, store_path, detach=detach, as_json=as_json))
    _leave(ending)


@click.command(
    epilog=examples(
        "espalier resume", "espalier resume 1a2b3c4d --retry-failed", "espalier resume 1a2b --config run.toml"
    )
)
@click.argument("run", required=False)
@click.option("--retry-failed", is_flag=True, help="Ask again what failed, in failed trees and in finished ones.")
@click.option("--detach", is_flag=True, help="Play it in the background; this terminal may be closed.")
@config_option
@json_option
@store_option
def resume(
    run: str | None,
    retry_failed: bool,
    detach: bool,
    config_path: Path | None,
    as_json: bool,
    store_path: Path,
) -> None:
    """Go on with RUN, or with the latest unfinished one; a paused engine goes on at once.

    What is stored decides what is played. --config brings other models' endpoints, permits, prices and
    limits; a file that would change what the run is frozen with is refused, naming the keys.
    """
    ending = asyncio.run(_resume(run, store_path, config_path, retry_failed, detach, as_json))
    _leave(ending)


@click.command(hidden=True, epilog=examples("espalier engine 1a2b3c4d"))
@click.argument("run")
@click.option("--retry-failed", is_flag=True, help="Ask again what failed.")
@config_option
@store_option
def engine(run: str, retry_failed: bool, config_path: Path | None, store_path: Path) -> None:
    """Be the engine of RUN in the background: what --detach starts."""
    ending = asyncio.run(_resume(run, store_path, config_path, retry_failed, detach=False, as_json=False))
    _leave(ending)


async def _run(
    path: Path, seed: int | None, given: dict[str, Any], store_path: Path, *, detach: bool, as_json: bool
) -> Ending | None:
    from simulation.cast import close_models
    from simulation.runs import begin
    from trees.store import Store
    from tui.launch import Launch
    from tui.planning import planned

    plan = await planned(path, seed, given, store_path)
    handed_over = False
    try:
        with Store.open(store_path) as store:
            row = begin(store, plan)
        if row.state == "finished":
            _finished(store_path, row.id, as_json)
            return None
        say(f"run {row.id[:8]}: {_what(plan)}", stderr=True)
        handed_over = not detach
        if not detach:
            launch = Launch(store_path, row.id, plan.cast.config, plan.cast.models)
            return await _play_and_tell(launch, as_json)
    finally:
        if not handed_over:
            await close_models(plan.cast.models)
    # The store has what was given over the file; the file alone would be another run.
    _detach(store_path, row.id, None if given else path, False, as_json)
    return None


async def _resume(
    prefix: str | None,
    store_path: Path,
    config_path: Path | None,
    retry_failed: bool,
    detach: bool,
    as_json: bool,
) -> Ending | None:
    from simulation.config import load_config
    from simulation.runs import latest_run
    from trees.jobs import live_engine
    from tui.launch import Launch, ask_and_wait

    with existing(store_path) as store:
        row = store.run(store.find("runs", prefix)) if prefix else latest_run(store, unfinished=not retry_failed)
        if row.kind != "play":
            raise SetupError(f"run {row.id[:8]} is a {row.kind} run: there is nothing to play on")
        lock = live_engine(store, row.id)
        if lock is not None and not retry_failed and config_path is None:
            await ask_and_wait(store, row.id, "resume", {})
            say(f"run {row.id[:8]} goes on in the engine with pid {lock.pid}")
            return None
    if row.state == "finished" and not retry_failed:
        _finished(store_path, row.id, as_json)
        return None
    if detach:
        _detach(store_path, row.id, config_path, retry_failed, as_json)
        return None
    config = load_config(config_path, seed=row.seed) if config_path else None
    say(f"run {row.id[:8]}: going on with {row.name!r}", stderr=True)
    return await _play_and_tell(Launch(store_path, row.id, config, retry_failed=retry_failed), as_json)


async def _play_and_tell(launch: Launch, as_json: bool) -> Ending:
    from tui.launch import play

    ending = await play(launch)
    _tell(launch.path, launch.run_id, as_json)
    short = launch.run_id[:8]
    if ending.interrupted and ending.state != "finished":
        say(f"interrupted; go on with: espalier resume {short}", stderr=True)
    elif ending.state == "stopped":
        say(f"not finished; go on with: espalier resume {short}", stderr=True)
    elif not as_json:
        say(f"see them: espalier trees {short}")
    return ending


def _leave(ending: Ending | None) -> None:
    """End with the exit code that says how the run stands."""
    if ending is None or (ending.state == "finished" and not ending.failed_trees):
        return
    raise SystemExit(INTERRUPTED if ending.interrupted and ending.state != "finished" else 1)


def _finished(store_path: Path, run_id: str, as_json: bool) -> None:
    """Show a run that is finished already, and say how to have another."""
    _tell(store_path, run_id, as_json)
    if not as_json:
        say(f"this run is finished; see it with: espalier trees {run_id[:8]}")
        say("for another run of the same configuration: --seed with another number")


def _tell(store_path: Path, run_id: str, as_json: bool) -> None:
    from trees.store import Store
    from tui.facts import run_facts
    from tui.statusview import say_facts

    with Store.read(store_path) as store:
        facts = run_facts(store, store.run(run_id))
    if as_json:
        say_json(facts)
    else:
        say_facts(facts)


def _detach(store_path: Path, run_id: str, config: Path | None, retry_failed: bool, as_json: bool) -> None:
    from tui.launch import detach, log_path

    pid = detach(store_path, run_id, config=config, retry_failed=retry_failed)
    log = log_path(store_path, run_id)
    if as_json:
        say_json({"run": run_id, "pid": pid, "log": str(log)})
        return
    short = run_id[:8]
    say(f"run {short} is played in the background by pid {pid}; its log is {log}")
    say(f"see how it goes: espalier status {short} --watch\nstop it: espalier stop {short}")


def _what(plan: Planned) -> str:
    config: Any = plan.cast.config
    return f"{config.name!r}, {len(plan.personas)} trees of {config.turns} turns"
