"""`bench`: models under test on held-out people. Measure, show, compare, export."""

from __future__ import annotations

import asyncio
import csv
import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import NotFound, SetupError
from tui.console import say, say_json
from tui.options import FILE, examples, json_option, set_option, store_option

if TYPE_CHECKING:
    from simulation.benchmark import Result
    from simulation.benchmark_config import BenchmarkConfig
    from trees.store import Store
    from tui.launch import Ending

INTERRUPTED = 130
WATCH_S = 2.0

judge_option = click.option("--judge", metavar="NAME", help="The judge whose scores are meant; the first if left out.")
bench_option = click.option(
    "--bench", "prefix", metavar="ID", help="The benchmark, by id or name; the latest if left out."
)


@click.group(epilog=examples("espalier bench init bench.toml", "espalier bench run bench.toml", "espalier bench show"))
def bench() -> None:
    """Measure models on people they have never seen: scores by turn, slopes, intervals, comparisons."""


@bench.command(epilog=examples("espalier bench init bench.toml"))
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(file: Path, force: bool) -> None:
    """Write a commented benchmark to FILE, valid as it stands."""
    from simulation.benchmark_config import sample

    if file.exists() and not force:
        raise SetupError(f"{file} exists already", hint="Name another file, or write over it with --force.")
    try:
        file.write_text(sample(), encoding="utf-8")
    except OSError as error:
        raise SetupError(f"cannot write {file}: {error.strerror}") from error
    say(f"wrote {file}\nnext: espalier bench run {file} --dry-run, then espalier bench run {file}")


@bench.command(
    epilog=examples(
        "espalier bench run bench.toml --dry-run",
        "espalier bench run bench.toml",
        "espalier bench run bench.toml --model base --model tuned",
        "espalier bench run bench.toml --model base --adapter 1a2b3c4d",
        "espalier bench run bench.toml --model base --repeat 1",
    )
)
@click.argument("config", type=FILE)
@click.option("--model", "names", multiple=True, metavar="NAME", help="Measure this one only; may be repeated.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="ADAPTER",
    help="Measure what is tested with this adapter on it too, as NAME+ADAPTER; may be repeated.",
)
@click.option(
    "--repeat",
    type=click.IntRange(0, 99),
    default=0,
    metavar="N",
    help="Measure each so many times more, as `NAME again`: what figures move by when nothing differs.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Another seed than the file's: another measurement.")
@set_option("Any field of the file, as turns=5.")
@click.option("--retry-failed", is_flag=True, help="Ask again for replies that failed.")
@click.option("--dry-run", is_flag=True, help="Open the models and estimate the work; ask no model for text.")
@json_option
@store_option
def run(
    config: Path,
    names: tuple[str, ...],
    adapters: tuple[str, ...],
    repeat: int,
    seed: int | None,
    given: dict[str, Any],
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
    store_path: Path,
) -> None:
    """Measure the models of CONFIG, one after the other.

    The same command again goes on where it stopped and skips what is finished; a model added to the file joins
    the same benchmark. `espalier bench show --watch` in another terminal shows the curves as they grow.

    --adapter takes an adapter of the store (by its id, or by that of its training) or a folder. It is put on the model
    that is tested as it is deployed; where there are several, --model says which.
    """
    from simulation.benchmark_config import load_benchmark

    loaded = load_benchmark(config, seed=seed, given=given)
    chosen = names or tuple(loaded.tested)
    for name in chosen:
        if name not in loaded.tested:
            raise SetupError(f"{config} tests no {name!r}", hint=f"It tests {', '.join(loaded.tested)}.")
    loaded, added = _with_adapters(loaded, names, adapters, store_path)
    chosen = tuple(dict.fromkeys((*chosen, *added)))
    for name, number in product(chosen, range(1, repeat + 1)):
        again = f"{name} again" if number == 1 else f"{name} again {number}"
        loaded, again = loaded.testing(again, loaded.table_again(name, number))
        chosen = tuple(dict.fromkeys((*chosen, again)))
    folder = config.resolve().parent
    if dry_run:
        asyncio.run(_dry_run(loaded, chosen, folder, store_path, as_json=as_json))
        return
    worst, benchmark_id = 0, ""
    for name in chosen:
        benchmark_id, ending = asyncio.run(_measure(loaded, name, folder, store_path, retry_failed, as_json))
        if ending is not None and ending.interrupted and ending.state != "finished":
            say("interrupted; go on with the same command", stderr=True)
            raise SystemExit(INTERRUPTED)
        if ending is not None and (ending.state != "finished" or ending.failed_trees):
            worst = 1
    _show(benchmark_id, None, store_path, as_json)
    if worst:
        raise SystemExit(worst)


@bench.command(epilog=examples("espalier bench show", "espalier bench show --watch", "espalier bench show --json"))
@bench_option
@judge_option
@click.option("--watch", is_flag=True, help="Draw it again and again until every model is measured, or Ctrl-C.")
@json_option
@store_option
def show(prefix: str | None, judge: str | None, watch: bool, as_json: bool, store_path: Path) -> None:
    """Show a benchmark: AL by turn, mean, slope and R2 with intervals, comparisons, and what is missing."""
    if watch:
        _watch(prefix, judge, store_path)
        return
    _show(prefix, judge, store_path, as_json)


@bench.command(epilog=examples("espalier bench compare base tuned", "espalier bench compare base tuned --json"))
@click.argument("a")
@click.argument("b")
@bench_option
@judge_option
@json_option
@store_option
def compare(a: str, b: str, prefix: str | None, judge: str | None, as_json: bool, store_path: Path) -> None:
    """Compare models A and B on the replies that both were scored on: A less B."""
    from trees.store import Store
    from tui.benchview import comparisons, say_comparison

    with Store.read(store_path) as store:
        _, _, found = _results(store, prefix, judge)
    by_name = {result.model: result for result in found}
    for name in (a, b):
        if name not in by_name:
            raise NotFound(f"no model {name!r} in this benchmark", hint=f"There are {', '.join(by_name)}.")
    if a == b:
        raise SetupError(f"{a!r} is the same model twice", hint="Name two models.")
    one = comparisons([by_name[a], by_name[b]])[0]
    if as_json:
        say_json(one)
    else:
        say_comparison(one)


@bench.command(epilog=examples("espalier bench leaks", "espalier bench leaks --json"))
@bench_option
@json_option
@store_option
def leaks(prefix: str | None, as_json: bool, store_path: Path) -> None:
    """Show what replies know: facts nobody has mentioned (leaks), and facts they come back to (uptake), by turn.

    Some leaks are guesses. `expected` is in how many replies a fact of another person would be met, whom nobody spoke
    of; what is above that, with its interval, is none.
    """
    from dataclasses import asdict

    from simulation.uptake import read_run
    from trees.store import Store
    from tui.benchview import say_readings

    with Store.read(store_path) as store:
        benchmark, _, found = _results(store, prefix, None)
        readings = {result.model: read_run(store, result.run_id, benchmark[3]) for result in found}
    if as_json:
        counted = {
            model: {
                "leaks": [[rate.count, rate.of] for rate in reading.leaks],
                "expected": list(reading.expected),
                "above_chance": asdict(reading.above_chance),
                "uptake": [[rate.count, rate.of] for rate in reading.uptake],
            }
            for model, reading in readings.items()
        }
        say_json(counted)
    else:
        say_readings(readings, benchmark[3])


@bench.command(epilog=examples("espalier bench export scores.csv", "espalier bench export scores.json"))
@click.argument("file", type=FILE)
@bench_option
@judge_option
@store_option
def export(file: Path, prefix: str | None, judge: str | None, store_path: Path) -> None:
    """Write every score to FILE: CSV, or JSON with all figures if its name ends in .json."""
    from simulation.benchmark import rows_of
    from trees.store import Store
    from tui.benchview import document

    with Store.read(store_path) as store:
        benchmark, name, found = _results(store, prefix, judge)
        shown = document(store, benchmark, name, found)
    rows = [row for result in found for row in rows_of(result)]
    try:
        if file.suffix == ".json":
            whole = {**shown, "scores": rows}
            file.write_text(json.dumps(whole, sort_keys=True, indent=1), encoding="utf-8")
        else:
            with file.open("w", encoding="utf-8", newline="") as out:
                writer = csv.DictWriter(out, list(rows[0]) if rows else [])
                writer.writeheader()
                writer.writerows(rows)
    except OSError as error:
        raise SetupError(f"cannot write {file}: {error.strerror}") from error
    say(f"wrote {len(rows)} rows to {file}")


def _with_adapters(
    config: BenchmarkConfig, names: tuple[str, ...], adapters: tuple[str, ...], store_path: Path
) -> tuple[BenchmarkConfig, list[str]]:
    """The benchmark with a tested model more for each adapter, and their names. Raises SetupError."""
    if not adapters:
        return config, []
    from agents.models.adapters import adapter_digest
    from agents.models.protocol import ModelFailure
    from train.adapters import StoredAdapters

    bearer, added = config.bearer(names), []
    for adapter in adapters:
        try:
            digest = adapter_digest(adapter, StoredAdapters(store_path))
        except ModelFailure as failure:
            raise SetupError(f"--adapter {adapter}: {failure.message}", hint="See them: espalier train list.") from None
        config, name = config.testing(f"{bearer}+{digest[:8]}", config.table_with(bearer, adapter))
        added.append(name)
    return config, added


async def _measure(
    config: BenchmarkConfig, name: str, folder: Path, store_path: Path, retry_failed: bool, as_json: bool
) -> tuple[str, Ending | None]:
    """Measure one model; None if that is done already."""
    from simulation.benchmark import cases_of, kinship, plan, start
    from simulation.cast import close_models, open_models
    from train.adapters import StoredAdapters
    from trees.store import Store
    from tui.benchview import curves_so_far
    from tui.launch import Launch, play
    from tui.stores import optional

    with optional(store_path) as there:
        people = cases_of(config.cases, folder, there)
    models = await open_models(config.run_of(name), StoredAdapters(store_path))
    handed_over = False
    try:
        measured = plan(config, name, models, people, folder / "prompts")
        with Store.open(store_path) as store:
            started = await start(store, measured)
        row = started.run
        if not started.paraphrases:
            say(
                f"{name}: compared with who may be trained on by words alone; `espalier personas split` measures the "
                "pool, and paraphrases are found then",
                stderr=True,
            )
        if started.seen.not_compared:
            say(
                f"{name}: {started.seen.not_compared} of the people it was trained on are not in this store, so nobody "
                "could be compared with what they say; `espalier personas import` brings them in",
                stderr=True,
            )
        for warning in kinship(measured.planned.cast.identity(), measured.planned.cast.operation(None)["models"]):
            say(f"warning: {warning}", stderr=True)
        if row.state == "finished" and not retry_failed:
            return measured.benchmark_id, None
        say(f"{name}: {len(people)} cases of {config.turns} turns, run {row.id[:8]}", stderr=True)
        handed_over = True
        below = partial(
            curves_so_far,
            benchmark_id=measured.benchmark_id,
            judge=measured.planned.cast.config.deciding_judge,
            turns=config.turns,
            measured=name,
        )
        launch = Launch(store_path, row.id, measured.planned.cast.config, models, retry_failed, as_json, below)
        return measured.benchmark_id, await play(launch)
    finally:
        if not handed_over:
            await close_models(models)


async def _dry_run(
    config: BenchmarkConfig, names: tuple[str, ...], folder: Path, store_path: Path, *, as_json: bool
) -> None:
    from simulation.benchmark import cases_of, kinship, lineage_of, plan, tests_among, too_few
    from simulation.cast import close_models, open_models
    from simulation.estimate import estimate
    from simulation.lineage import refuse_known
    from train.adapters import StoredAdapters
    from tui.stores import optional

    plans: list[dict[str, Any]] = []
    with optional(store_path) as store:
        people = cases_of(config.cases, folder, store)
        for name in names:
            models = await open_models(config.run_of(name), StoredAdapters(store_path))
            try:
                measured = plan(config, name, models, people, folder / "prompts")
                cast = measured.planned.cast
                seen = lineage_of(store, cast)
                if store is not None:
                    refuse_known(store, people, seen, name)
                whole = estimate(cast, people).rows[-1].as_dict()
                told = {
                    "model": name,
                    "how": measured.how,
                    "lineage": seen.words,
                    "warnings": kinship(cast.identity(), cast.operation(None)["models"]),
                }
                plans.append({**told, **whole})
            finally:
                await close_models(models)
    few = too_few(len(people), tests_among(len(plans), config.turns)) if len(plans) > 1 else None
    notes = [few] if few is not None else []
    if as_json:
        say_json({"cases": len(people), "turns": config.turns, "models": plans, "notes": notes})
        return
    say(f"{len(people)} cases of {config.turns} turns for each of {len(plans)} models:")
    for one in plans:
        low, high = one["calls"]
        least, most = one["tokens_in"]
        what = f"{one['model']} ({one['how']}, lineage {one['lineage']})"
        say(f"  {what}: {low} to {high} calls, {least} to {most} tokens read")
        for warning in one["warnings"]:
            say(f"    warning: {warning}")
    for note in notes:
        say(f"note: {note}")
    if config.situations:
        say(f"situations, dealt to the cases in turn: {', '.join(situation.name for situation in config.situations)}")
    say("No model was asked for text.")


def _results(
    store: Store, prefix: str | None, judge: str | None
) -> tuple[tuple[str, str, str, int], str, list[Result]]:
    from simulation.benchmark import find_benchmark, results

    benchmark = find_benchmark(store, prefix)
    name = judge or benchmark[2]
    return benchmark, name, results(store, benchmark[0], name, benchmark[3])


def _document(prefix: str | None, judge: str | None, store_path: Path) -> dict[str, Any]:
    from trees.store import Store
    from tui.benchview import document

    with Store.read(store_path) as store:
        benchmark, name, found = _results(store, prefix, judge)
        return document(store, benchmark, name, found)


def _show(prefix: str | None, judge: str | None, store_path: Path, as_json: bool) -> None:
    from tui.benchview import say_benchmark

    shown = _document(prefix, judge, store_path)
    say_json(shown) if as_json else say_benchmark(shown)


def _watch(prefix: str | None, judge: str | None, store_path: Path) -> None:
    import time

    from tui.benchview import say_benchmark

    while True:
        shown = _document(prefix, judge, store_path)
        click.clear()
        say_benchmark(shown)
        if all(model["state"] in ("finished", "failed") for model in shown["models"]):
            return
        time.sleep(WATCH_S)
