"""The pool of personas: `personas grow`, `report`, `pair` and `split`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import SetupError
from tui.console import say, say_json
from tui.options import FILE, config_option, examples, json_option, store_option
from tui.stores import existing
from tui.thresholds import few_found, filter_told, guard_told, shown

if TYPE_CHECKING:
    from simulation.growing_plan import Growing
    from simulation.persona_axes import Axes
    from trees.personas import Kind
    from trees.pool import Threshold
    from trees.store import Store

INTERRUPTED = 130
MEASURED = "measured"
"""Said in place of a threshold."""
embedder_option = click.option(
    "--embedder",
    metavar="NAME",
    help="minilm (the default), lexical (words only, no torch), a configured model that embeds, a folder, or "
    "hf://owner/repo.",
)
change_option = click.option(
    "--change-embedder", is_flag=True, help="Measure the pool anew with another embedder than before."
)


def _word(kind: str) -> str:
    return "profiles" if kind == "profile" else "personalities"


def _cosine(_context: click.Context, _option: click.Parameter, value: str | None) -> float | str | None:
    """A similarity, or the word that has it measured."""
    try:
        return value if value in (None, MEASURED) else float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither a similarity such as 0.8 nor {MEASURED!r}") from error


def threshold_options(what: str) -> Callable[[Any], Any]:
    """The two thresholds that a person may set by hand, and what they are for."""

    def added(command: Any) -> Any:
        for kind in ("personality", "profile"):
            told = what.format(_word(kind))
            command = click.option(f"--{kind}-threshold", callback=_cosine, metavar="COSINE", help=told)(command)
        return command

    return added


@click.command(
    epilog=examples(
        "espalier personas grow --profiles 300 --personalities 80",
        "espalier personas grow --profiles 300 --generator plan",
        "espalier personas grow --profiles 50 --config run.toml --model large --minutes 30",
    )
)
@click.option("--profiles", type=click.IntRange(0), default=0, help="Profiles the pool shall have in all.")
@click.option("--personalities", type=click.IntRange(0), default=0, help="Personalities it shall have in all.")
@click.option(
    "--generator", type=click.Choice(["model", "plan"]), default="model", show_default=True, help="Who invents them."
)
@click.option("--model", "names", multiple=True, metavar="NAME", help="A model of --config; several take turns.")
@click.option("--check-model", metavar="NAME", help="A model of --config that takes a second look at each.")
@click.option("--plan", "plan_path", type=FILE, help="A plan for diversity: which values of which axes, how many.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Another draw.")
@click.option("--per-call", type=click.IntRange(1, 50), default=4, show_default=True, help="Items asked in a call.")
@click.option("--examples", "shown", type=click.IntRange(1, 50), default=5, show_default=True, help="Items shown.")
@click.option("--calls-at-once", type=click.IntRange(1, 64), default=4, show_default=True, help="Calls a generation.")
@click.option(
    "--window", type=click.IntRange(10), default=100, show_default=True, help="Candidates of the accept rate."
)
@click.option(
    "--saturation",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="Stop when a smaller share of them is kept.",
)
@click.option("--max-calls", type=click.IntRange(0), default=0, help="Stop after this many calls; 0 is no limit.")
@click.option("--minutes", type=click.FloatRange(0), default=0, help="Stop after this long; 0 is no limit.")
@threshold_options(
    "Similarity from which two {0} say the same, for this growing; left out, it is measured on labelled pairs. "
    "What is held out keeps a guard of its own."
)
@embedder_option
@change_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; ask no model for text.")
@config_option
@json_option
@store_option
def grow(**given: Any) -> None:
    """Let the pool grow to a size: ask for new items, read them one by one, keep those that are new and sound.

    The same command again goes on where it stood. Ctrl-C stops it; answers that came are not asked again.
    """
    state = asyncio.run(_grow(given))
    if state == "interrupted":
        raise SystemExit(INTERRUPTED)
    if state in ("failed", "stopped"):
        raise SystemExit(1)


async def _grow(given: Mapping[str, Any]) -> str:
    from simulation.cast import close_models
    from simulation.growing_plan import begin_growing, check_growing, left_out
    from simulation.splits import keep_settled
    from trees.store import Store

    with Store.open(given["store_path"]) as store:
        planned, settled = await _planned(store, given)
        try:
            check_growing(planned)
            for note in left_out(planned):
                say(note, stderr=True)
            _say_few_found(settled)
            if given["dry_run"]:
                return _say_plan(store, planned, given["as_json"])
            await keep_settled(store, planned.embedder, settled)
            row = begin_growing(store, planned)
            say(f"growing {row.id[:8]}: {_what(planned)}", stderr=True)
            return await _run(store, row, planned, given["as_json"])
        finally:
            await planned.embedder.close()
            await close_models(planned.models)


async def _planned(store: Store, given: Mapping[str, Any]) -> tuple[Growing, Mapping[Kind, Threshold]]:
    """Everything that was asked for, with models and embedder open; the pool's own thresholds. Raises SetupError."""
    from simulation.cast import close_models
    from simulation.config import LimitsConfig, SamplingConfig
    from simulation.growing_plan import TOKENS_AN_ITEM, Growing, GrowingConfig, Sizes, load_growing_prompts
    from simulation.pool import by_hand, open_pool_embedder, settle_thresholds

    entries, folder = _entries(given)
    axes = _read_axes(given["plan_path"])
    embedder = await open_pool_embedder(store, given["embedder"], entries, change=given["change_embedder"])
    models: dict[str, Any] = {}
    try:
        settled = await settle_thresholds(store, embedder, _anew(given))
        thresholds = by_hand(settled, {kind: value for kind, value in _given(given).items() if value is not None})
        models = await _open(store.path, entries, _names(given, entries))
        planned = Growing(
            config=GrowingConfig(
                generator=given["generator"],
                per_call=given["per_call"],
                examples=given["shown"],
                calls=given["calls_at_once"],
                window=given["window"],
                saturation=given["saturation"],
                sampling=SamplingConfig(max_tokens=TOKENS_AN_ITEM * given["per_call"], temperature=1.0, min_p=0.05),
            ),
            seed=given["seed"],
            sizes=Sizes(profile=given["profiles"], personality=given["personalities"]),
            limits=LimitsConfig(calls=given["max_calls"], minutes=given["minutes"]),
            embedder=embedder,
            thresholds=thresholds,
            models=models,
            entries=entries,
            generators=_generators(given, entries),
            checker=given["check_model"],
            steered=given["plan_path"] is not None,
            axes=axes,
            prompts=load_growing_prompts(folder),
        )
    except BaseException:
        await embedder.close()
        await close_models(models)
        raise
    return planned, settled


def _generators(given: Mapping[str, Any], entries: Mapping[str, Any]) -> tuple[str, ...]:
    """Who invents: the models named, or the configuration's first but the checker; nobody where the tables do."""
    if given["generator"] == "plan":
        return ()
    others = [name for name in entries if name != given["check_model"]]
    return tuple(dict.fromkeys(given["names"])) or tuple([*others, *entries][:1])


def _names(given: Mapping[str, Any], entries: Mapping[str, Any]) -> tuple[str, ...]:
    """The models to open: those that invent, and the one that looks again."""
    return (*_generators(given, entries), *filter(None, [given["check_model"]]))


def _entries(given: Mapping[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """The models that may be used and where prompts lie; without a configuration the embedded one."""
    from agents.models.llama import LlamaConfig
    from simulation.config import load_config

    path: Path | None = given["config_path"]
    if path is not None:
        return dict(load_config(path).models), path.resolve().parent / "prompts"
    named = [*given["names"], *filter(None, [given["check_model"]])]
    if named and set(named) != {"embedded"}:
        hint = "Name the file that describes it: --config run.toml."
        raise SetupError(f"there is no model {named[0]!r} without a configuration", hint=hint)
    return {"embedded": LlamaConfig(kind="llama")}, None


def _read_axes(plan: Path | None) -> Axes:
    """The shipped axes, with a plan laid over them. Raises SetupError."""
    from simulation.persona_axes import load_axes

    try:
        return load_axes(None if plan is None else plan.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the plan {plan} cannot be read: {error}") from error
    except SetupError as error:
        raise SetupError(f"{plan}: {error.message}", hint=error.hint) from error


async def _open(path: Path, entries: Mapping[str, Any], named: tuple[str, ...]) -> dict[str, Any]:
    """The models named, loaded. Raises SetupError."""
    from agents.models.open import open_model
    from agents.models.protocol import ModelFailure
    from simulation.cast import close_models
    from train.adapters import StoredAdapters

    opened: dict[str, Any] = {}
    try:
        for name in dict.fromkeys(named):
            if name not in entries:
                raise SetupError(f"there is no model {name!r}", hint=f"The configuration has {', '.join(entries)}.")
            opened[name] = open_model(name, entries[name], StoredAdapters(path))
            await opened[name].open()
    except ModelFailure as failure:
        await close_models(opened)
        raise SetupError(f"the model {name!r} cannot be used: {failure.message}") from failure
    except BaseException:
        await close_models(opened)
        raise
    return opened


def _given(given: Mapping[str, Any]) -> dict[Kind, float | None]:
    """The thresholds asked for; None where one is to be measured again."""
    asked: dict[Kind, Any] = {"profile": given["profile_threshold"], "personality": given["personality_threshold"]}
    return {kind: None if value == MEASURED else value for kind, value in asked.items() if value is not None}


def _anew(given: Mapping[str, Any]) -> set[Kind]:
    return {kind for kind, value in _given(given).items() if value is None}


async def _run(store: Store, row: Any, planned: Growing, as_json: bool) -> str:
    from simulation.growing import Grower
    from trees.pool import growing
    from tui.growing_view import Progress
    from tui.launch import stopping

    with Progress(store.path, row.id, planned.sizes) as progress:
        grower = Grower(store, row, planned, progress.told)
        with stopping(lambda: grower.gate.halt("interrupted")) as signals:
            state = await grower.run()
    done = growing(store, row.id)
    assert done is not None
    if as_json:
        say_json(_outcome(store, done))
    else:
        _say_outcome(store, done)
    return "interrupted" if signals.received and state == "stopped" else state


def _outcome(store: Store, row: Any) -> dict[str, Any]:
    from trees.pool import KINDS, pool, rejections

    return {
        "growing": row.id,
        "state": row.state,
        "reason": row.reason,
        "pool": {kind: len(pool(store, kind, "train")) for kind in KINDS},
        "candidates": rejections(store, row.id),
    }


def _say_outcome(store: Store, row: Any) -> None:
    from tui.growing_view import in_words

    outcome = _outcome(store, row)
    for kind, counts in outcome["candidates"].items():
        if counts:
            say(f"{_word(kind)}: {in_words(counts)}")
    there = outcome["pool"]
    say(f"{row.state}: {row.reason or ''}".rstrip(": "))
    say(f"the pool holds {there['profile']} profiles and {there['personality']} personalities to train with")
    if row.state == "stopped":
        say("go on with the same command", stderr=True)
    else:
        say("look at it: espalier personas report --html pool.html")


def _say_plan(store: Store, planned: Growing, as_json: bool) -> str:
    from trees.pool import KINDS, pool

    there = {kind: len(pool(store, kind, "train")) for kind in KINDS}
    document = {
        "pool": there,
        "asked": planned.sizes.model_dump(),
        "thresholds": {k: shown(t) for k, t in planned.thresholds.items()},
        "embedder": planned.embedder.name,
        "models": list(planned.models),
        "config": planned.config.model_dump(mode="json"),
    }
    if as_json:
        say_json(document)
        return "finished"
    say(f"would grow: {_what(planned)}")
    for kind in KINDS:
        _say_threshold(planned.thresholds[kind])
    per_generation = planned.config.calls * planned.config.per_call
    say(f"each generation asks for {per_generation} items in {planned.config.calls} calls")
    return "finished"


def _say_threshold(threshold: Threshold) -> None:
    word, measured = _word(threshold.kind), threshold.measured
    say(f"{word} say the same from {threshold.threshold:.3f} on{filter_told(measured, threshold.threshold)}")
    if threshold.guard is not None:
        say(f"held-out {word} are guarded from {threshold.guard:.3f} on{guard_told(measured, threshold.guard)}")


def _say_few_found(thresholds: Mapping[Kind, Threshold]) -> None:
    for kind, one in thresholds.items():
        if (told := few_found(kind, one.measured, one.guarding)) is not None:
            say(told, stderr=True)


def _what(planned: Growing) -> str:
    sizes = planned.sizes
    who = "the axis tables" if planned.config.generator == "plan" else ", ".join(planned.generators)
    pools = f"up to {sizes.profile} profiles and {sizes.personality} personalities"
    return f"{pools} by {who}, compared by {planned.embedder.name}"


@click.command(
    epilog=examples(
        "espalier personas report",
        "espalier personas report --html pool.html",
        "espalier personas report --beside released.db --html both.html",
    )
)
@click.option(
    "--html", "html_path", type=FILE, metavar="OUT", help="Write one page with pictures that needs no network."
)
@click.option("--beside", type=FILE, metavar="STORE", help="Another store, whose pool is shown side by side.")
@click.option("--plan", "plan_path", type=FILE, help="The plan that filled axes are held against.")
@embedder_option
@config_option
@json_option
@store_option
def report(
    html_path: Path | None,
    beside: Path | None,
    plan_path: Path | None,
    embedder: str | None,
    config_path: Path | None,
    as_json: bool,
    store_path: Path,
) -> None:
    """Show how large, how diverse and how well covered the pool is."""
    from tui.persona_page import page, say_report

    stores = [store_path, *([beside] if beside else [])]
    reports = asyncio.run(_describe(stores, embedder, plan_path, config_path))
    if html_path is not None:
        html_path.write_text(page(reports), encoding="utf-8")
        say(f"wrote {html_path}", stderr=True)
    if as_json:
        say_json(reports)
    elif html_path is None:
        say_report(reports)


async def _describe(
    paths: list[Path], embedder: str | None, plan_path: Path | None, config_path: Path | None
) -> list[dict[str, Any]]:
    from simulation.config import load_config
    from simulation.persona_report import describe
    from simulation.pool import open_pool_embedder, settle_thresholds
    from trees.pool import KINDS, pool

    axes = _read_axes(plan_path)
    entries = dict(load_config(config_path).models) if config_path else {}
    reports = []
    for path in paths:
        with existing(path) as store:
            if not pool(store):
                raise SetupError(f"{path} holds no personas", hint="Let them grow: espalier personas grow.")
            opened = await open_pool_embedder(store, embedder, entries)
            try:
                thresholds = await settle_thresholds(store, opened)  # told, not kept: a report changes no pool
                kinds = [k for k in KINDS if pool(store, k)]
                asked = plan_path is not None
                facts = [await describe(store, opened, thresholds[k], k, axes, steered=asked) for k in kinds]
            finally:
                await opened.close()
        reports.append({"store": str(path), "kinds": {fact["kind"]: fact for fact in facts}})
    return reports


@click.command(epilog=examples("espalier personas pair --count 3310", "espalier personas pair --count 100 --seed 7"))
@click.option("--count", type=click.IntRange(1), required=True, help="How many personas.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Another draw.")
@click.option(
    "--split", type=click.Choice(["train", "held_out"]), default="train", show_default=True, help="From which halves."
)
@json_option
@store_option
def pair(count: int, seed: int, split: Any, as_json: bool, store_path: Path) -> None:
    """Draw personas, a profile and a personality each, without repeats, and record the draw.

    Both pools are used as evenly as the count allows, and a longer draw begins with the shorter one.
    """
    from trees.personas import draw_pairs
    from trees.pool import keep_draw, pool

    with existing(store_path) as store:
        profiles = [item.id for item in pool(store, "profile", split)]
        personalities = [item.id for item in pool(store, "personality", split)]
        try:
            drawn = draw_pairs(profiles, personalities, count, seed)
        except (ValueError, ZeroDivisionError) as error:
            raise SetupError(str(error), hint="Ask for fewer, or let the pool grow.") from error
        draw_id, writes = keep_draw(seed, split, drawn)
        store.apply(writes)
    if as_json:
        say_json({"draw": draw_id, "seed": seed, "split": split, "pairs": drawn})
        return
    pools = f"{len(profiles)} profiles and {len(personalities)} personalities"
    say(f"draw {draw_id[:8]}: {count} personas of {pools}, {split}")
    say(f"play them: personas.draw = {draw_id[:8]!r} in a configuration")


@click.command(
    epilog=examples("espalier personas split --held-out 20x5", "espalier personas split --held-out 20x5 --near move")
)
@click.option("--held-out", "asked", required=True, metavar="PxQ", help="Profiles x personalities held out, in all.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="Another draw.")
@click.option(
    "--near",
    type=click.Choice(["block", "move"]),
    default="block",
    show_default=True,
    help="What says the same as a held-out item: keep it from training, or hold it out too.",
)
@threshold_options(
    "Similarity from which {0} count as the same as a held-out one, from now on; `measured` has it chosen again."
)
@embedder_option
@change_option
@config_option
@json_option
@store_option
def split(**given: Any) -> None:
    """Hold some profiles and personalities out of all training, with whatever says the same as one of them.

    Stored runs are checked again: trees that touch a held-out half leave training.
    """
    asked = _asked(given["asked"])
    done = asyncio.run(_split(given, asked))
    if given["as_json"]:
        say_json(done)
        return
    say(f"split {done['id'][:8]}: {_both(done['held_out'])} held out, {_both(done['newly'])} of them now")
    say(f"{len(done['blocked'])} others say the same as one of them and are kept from training")
    say(f"left to train with: {_both(done['train'])}; {done['trees']} stored trees leave training")
    for kind, guard in done["guard"].items():
        say(f"held-out {_word(kind)} are guarded from {guard['guard']:.3f} on{guard['told']}")


def _asked(text: str) -> dict[Kind, int]:
    profiles, _, personalities = text.lower().partition("x")
    if not (profiles.isdigit() and personalities.isdigit()):
        raise click.UsageError(f"--held-out is {text!r}, not PROFILESxPERSONALITIES such as 20x5")
    return {"profile": int(profiles), "personality": int(personalities)}


async def _split(given: Mapping[str, Any], asked: Mapping[Kind, int]) -> dict[str, Any]:
    from dataclasses import asdict

    from simulation.config import load_config
    from simulation.pool import open_pool_embedder, settle_thresholds
    from simulation.splits import split_pool
    from trees.pool import thresholds

    entries = dict(load_config(given["config_path"]).models) if given["config_path"] else {}
    with existing(given["store_path"]) as store:
        embedder = await open_pool_embedder(store, given["embedder"], entries, change=given["change_embedder"])
        try:
            settled = await settle_thresholds(store, embedder, _anew(given))
            done = await split_pool(store, embedder, settled, asked, given["seed"], given["near"], _given(given))
        finally:
            await embedder.close()
        used = thresholds(store)
    _say_few_found(used)
    told = {kind: guard_told(one.measured, one.guarding) for kind, one in used.items()}
    return {**asdict(done), "guard": {kind: {**shown(one), "told": told[kind]} for kind, one in used.items()}}


def _both(counts: Mapping[Any, int]) -> str:
    return f"{counts['profile']} profiles and {counts['personality']} personalities"
