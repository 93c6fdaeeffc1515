"""Training: `train sft`, `dpo` and `all`, and `train list`, `show`, `pause`, `resume`, `stop` and `export`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from train import processes
from tui.console import console, count, is_plain, say, say_json, say_lines, say_table
from tui.options import FILE, examples, json_option, set_option, store_option
from tui.training import with_others

if TYPE_CHECKING:
    from train.training import Ending
    from train.training_plan import Plan
    from trees.store import Store
    from trees.trainings import AdapterRow, TrainingRow

F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130
PLOT_ROWS = 14
"""Rows of a drawn curve."""


_OPTIONS = (
    click.argument("config", type=FILE, required=False),
    click.option("--run", "runs", multiple=True, metavar="RUN", help="Only this run; may be given again for more."),
    click.option("--model", "base", metavar="BASE", help="The base: embedded, a GGUF file, a folder, or owner/repo."),
    click.option("--judge", metavar="NAME", help="Whose verdicts; the only judge's if left out."),
    click.option("--min-margin", type=click.FloatRange(0), help="Smallest difference of scores, in the judge's unit."),
    click.option("--adapter", metavar="ID", help="Go on from this adapter, or from what this training made."),
    click.option(
        "--seed",
        "seeds",
        multiple=True,
        type=click.IntRange(0, 2**31 - 1),
        metavar="N",
        help="Of rows, dropout, adapters and who is held back; given again, one training a seed, compared at the end.",
    ),
    set_option("Any field, as lora.rank=8."),
    click.option("--flat", is_flag=True, help="By TRL's own trainers on flattened rows, to compare with."),
    click.option("--dry-run", is_flag=True, help="Say what would be trained, and in how much memory; train nothing."),
    click.option("--detach", is_flag=True, help="Train in the background; this terminal may be closed."),
    json_option,
    store_option,
)


def _trains(command: F) -> F:
    """The options of what trains."""
    command = with_others(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class How:
    """Where the settings and the store are, and what is to be done with a training."""

    config: Path | None
    store: Path
    flat: bool
    dry_run: bool
    detach: bool
    as_json: bool


@click.group(
    epilog=examples(
        "espalier train sft --model embedded --dry-run",
        "espalier train all --model embedded",
        "espalier train show",
        "espalier chat embedded --adapter 1a2b3c4d",
    )
)
def train() -> None:
    """Train adapters on judged trees, and see, steer and export what was trained."""


@train.command(
    epilog=examples(
        "espalier train sft --model embedded --dry-run",
        "espalier train sft training.toml --run 1a2b3c4d",
        "espalier train sft --model Qwen/Qwen2.5-3B-Instruct --set lora.rank=32 --set dtype=bfloat16 --detach",
    )
)
@_trains
def sft(**options: Any) -> None:
    """Train on winning replies. CONFIG is a TOML file of settings; without one the defaults hold.

    The same command again goes on with an unfinished training, from its last checkpoint, and shows a finished one.
    Ctrl-C makes a checkpoint and leaves. What comes out is an adapter, kept beside the store under the digest of its
    content.
    """
    _leave(_train(("sft",), **options))


@train.command(
    epilog=examples(
        "espalier train dpo --model embedded --adapter 1a2b3c4d",
        "espalier train dpo training.toml --judge likelihood --min-margin 0.1",
        "espalier train dpo --model embedded --set loss.beta=0.05 --set schedule.learning_rate=5e-6",
        "espalier train dpo training.toml --set data.weights=margin",
        "espalier train dpo training.toml --seed 1 --seed 2 --seed 3",
    )
)
@_trains
def dpo(**options: Any) -> None:
    """Train on pairs: one reply that was preferred to another. The start (--adapter, or the base) is the reference.

    The same command again goes on with an unfinished training, and shows a finished one.
    """
    _leave(_train(("dpo",), **options))


@train.command(
    "all", epilog=examples("espalier train all --model embedded", "espalier train all training.toml --run 1a2b3c4d")
)
@_trains
def all_(**options: Any) -> None:
    """Train on winning replies, and then on pairs from there: SFT, then DPO on its adapter.

    What holds for one of them alone stands under [sft] and [dpo] in CONFIG.
    """
    _leave(_train(("sft", "dpo"), **options))


def _train(
    kinds: tuple[Literal["sft", "dpo"], ...],
    *,
    runs: tuple[str, ...],
    base: str | None,
    judge: str | None,
    min_margin: float | None,
    adapter: str | None,
    seeds: tuple[int, ...],
    given: Mapping[str, Any],
    store_path: Path,
    **how_given: Any,
) -> int:
    how = How(store=store_path, **how_given)
    words = {"data.runs": list(runs) or None, "base": base, "data.judge": judge, "data.min_margin": min_margin}
    chosen = {**{key: value for key, value in words.items() if value is not None}, **given}
    if adapter is not None:
        chosen["start"] = adapter
    wanted = [{**chosen, "seed": seed} for seed in dict.fromkeys(seeds)] or [chosen]
    if processes.count() > 1 and (how.flat or how.detach):
        alone = "--flat" if how.flat else "--detach"
        raise click.UsageError(f"{alone} is for one process, not for {processes.count()}")
    if how.detach and len(kinds) * len(wanted) > 1:
        raise click.UsageError("one training at a time runs in the background: begin the next when it is done")
    documents: list[dict[str, Any]] = []
    code = 0
    for each in wanted:
        made, code = _in_turn(kinds, each, how)
        documents += made
        if code:
            break
    _say_all(documents, len(wanted), how, one=len(kinds) * len(wanted) == 1)
    return code


def _in_turn(
    kinds: tuple[Literal["sft", "dpo"], ...], given: Mapping[str, Any], how: How
) -> tuple[list[dict[str, Any]], int]:
    """Trainings that each go on from what the one before made; their facts and the exit code."""
    documents: list[dict[str, Any]] = []
    start: dict[str, str] = {}
    for kind in kinds:
        document, code = _one(kind, {**given, **start}, how)
        documents.append(document)
        if code:
            return documents, code
        if how.dry_run and len(kinds) > 1:
            if not how.as_json:
                say("\nthe DPO training will go on from what this one makes")
            break
        start = _from_there(document)
    return documents, 0


def _say_all(documents: list[dict[str, Any]], seeds: int, how: How, *, one: bool) -> None:
    """What was trained, as JSON; of several seeds what they have in common."""
    from tui.seeds import over_seeds, say_over_seeds

    found = over_seeds(documents) if seeds > 1 and not how.dry_run else None
    if not how.as_json:
        if found is not None:
            say_over_seeds(found)
    elif found is not None:
        say_json({"trainings": documents, "over_seeds": found})
    else:
        say_json(documents[0] if one else documents)


def _from_there(document: Mapping[str, Any]) -> dict[str, str]:
    """What has the next training begin with what this one made: its adapter, or a model trained whole."""
    adapter, result = document.get("adapter"), document.get("result")
    if adapter is not None:
        return {"start": adapter}
    return {} if result is None else {"base": result}


def _one(kind: Literal["sft", "dpo"], given: Mapping[str, Any], how: How) -> tuple[dict[str, Any], int]:
    """Do one training, or say what it would be; returns its facts and the exit code."""
    from train.training_file import read_wanted
    from train.training_plan import begin, plan_training
    from trees.store import Store
    from tui.stores import existing, guard
    from tui.training import train_here

    asyncio.run(guard(how.store))
    if how.dry_run:
        with Store.read(how.store) as store:
            wanted = read_wanted(how.config, kind, given, store)
            plan = plan_training(store, wanted.config, wanted.selection, wanted.files, flat=how.flat)
            return _dry_run(store, plan, how.as_json), 0
    with existing(how.store) as store:
        wanted = read_wanted(how.config, kind, given, store)
        row = begin(store, plan_training(store, wanted.config, wanted.selection, wanted.files, flat=how.flat))
    if row.state == "finished":
        return _told(how.store, row.id, how.as_json), 0
    if how.detach:
        return _detached(how.store, row, how.as_json), 0
    say(f"training {row.id[:8]}: {row.kind}, {row.name}", stderr=True)
    ending, interrupted = train_here(how.store, row.id, quiet=how.as_json)
    return _told(how.store, row.id, how.as_json), _code(row, ending, interrupted)


def _code(row: TrainingRow, ending: Ending, interrupted: bool) -> int:
    """The exit code that says how a training stands; what to do next is said on stderr."""
    if ending.state == "finished":
        return 0
    say(f"not finished ({ending.reason}); go on with: espalier train resume {row.id[:8]}", stderr=True)
    return INTERRUPTED if interrupted else 1


def _leave(code: int) -> None:
    if code:
        raise SystemExit(code)


# Dry run


def _dry_run(store: Store, plan: Plan, as_json: bool) -> dict[str, Any]:
    from train.packing import pack
    from train.templates import open_reader
    from train.training_plan import token_data

    data = token_data(plan, open_reader(plan.config.base))
    rows = pack(data.trained, plan.config.objective, plan.config.tokens_per_row)
    schedule = plan.config.schedule
    a_pass = -(-len(rows) // schedule.rows_per_step)
    known = store.rows("SELECT state FROM trainings WHERE id = ?", (plan.id,))
    document = {
        "training": plan.id,
        "name": plan.name,
        "configuration": plan.configuration,
        "state": known[0][0] if known else None,
        "lineage": plan.lineage.as_dict(),
        "data": _data_facts(plan),
        "left_out": dict(data.left_out),
        "rows": len(rows),
        "tokens": sum(len(row) for row in rows),
        "tokens_flat": sum(tree.flattened_count for tree in data.trained),
        "steps": schedule.steps or max(1, ceil(a_pass * schedule.epochs)),
        "memory": _memory(plan, max(map(len, rows))),
    }
    if not as_json:
        _say_dry_run(plan, document)
    return document


def _memory(plan: Plan, tokens: int) -> dict[str, Any] | None:
    """What a step is estimated to take, without loading weights; None where torch is missing or the base is strange."""
    from trees.errors import SetupError

    start = None if plan.start is None else str(plan.start.path)
    try:
        from train.trial import memory_on_paper

        estimate = memory_on_paper(plan.config.model_copy(update={"start": start}), tokens)
    except (ImportError, SetupError):
        return None
    return {**estimate.as_dict(), "words": estimate.words()}


def _data_facts(plan: Plan) -> dict[str, Any]:
    data = plan.data
    return {
        "digest": data.digest,
        "judge": data.judge_id,
        "people": len(data.people),
        "trees": len(data.trees),
        "targets": data.targets,
        "pairs": data.pairs,
        "measured_trees": len(data.side("evaluation")),
        "dropped": {what: dict(counts) for what, counts in data.dropped.items()},
        "notes": list(data.notes),
    }


def _say_dry_run(plan: Plan, document: Mapping[str, Any]) -> None:
    data, known = document["data"], "known" if plan.lineage.known else "unknown"
    say(f"training {plan.id}\n{plan.config.objective} of {plan.name}")
    stands = document["state"]
    say(f"{'not in the store yet' if stands is None else f'in the store, {stands}'}\n")
    amount = f"{data['targets']} targets" if plan.config.objective == "sft" else f"{data['pairs']} pairs"
    rows = [
        ("base", f"{plan.config.base}, weights {plan.lineage.base[:16]}"),
        ("from", "the base" if plan.start is None else f"adapter {plan.start.digest}"),
        ("data", f"{amount} in {data['trees']} trees of {data['people']} people, digest {data['digest'][:16]}"),
        ("judge", data["judge"][:16] or "none"),
        ("measured on", f"{data['measured_trees']} trees of people who are held back"),
        ("lineage", known),
        (
            "a pass",
            f"{count(document['tokens'])} tokens in {document['rows']} rows; {count(document['tokens_flat'])} flat",
        ),
        ("steps", document["steps"]),
        ("memory", "not known" if document["memory"] is None else document["memory"]["words"]),
    ]
    rows += [("left out", f"{number} {reason}") for reason, number in document["left_out"].items()]
    say_table(("", ""), rows)
    for note in data["notes"]:
        say(note)
    say("\nNothing was trained, and no weights were loaded.")


# In the background


@train.command("engine", hidden=True, epilog=examples("espalier train engine 1a2b3c4d"))
@click.argument("training")
@store_option
def engine(training: str, store_path: Path) -> None:
    """Do TRAINING in the background: what --detach starts."""
    from tui.training import train_here

    row = _found(store_path, training)
    ending, interrupted = train_here(store_path, row.id)
    _told(store_path, row.id, as_json=False)
    _leave(_code(row, ending, interrupted))


def _detached(store_path: Path, row: TrainingRow, as_json: bool) -> dict[str, Any]:
    from tui.launch import log_path, start_in_background

    pid = start_in_background(store_path, row.id, ["train", "engine", row.id])
    log = log_path(store_path, row.id)
    if not as_json:
        short = row.id[:8]
        say(f"training {short} is done in the background by pid {pid}; its log is {log}")
        say(f"see how it goes: espalier train show {short}\nstop it: espalier train stop {short}")
    return {"training": row.id, "pid": pid, "log": str(log)}


# Seeing


@train.command("list", epilog=examples("espalier train list", "espalier train list --json"))
@json_option
@store_option
def list_(as_json: bool, store_path: Path) -> None:
    """List trainings, and the adapters they made."""
    from trees.store import Store
    from trees.trainings import adapters, trainings

    with Store.read(store_path) as store:
        rows = [(row, adapters(store, row.id)) for row in trainings(store)]
    if as_json:
        say_json([{**_line(row), "adapters": [made.id for made in found]} for row, found in rows])
        return
    if not rows:
        say(f"no training in {store_path}; begin one: espalier train sft --model embedded --dry-run")
        return
    cells = [(r.id[:8], r.kind, r.state, (r.start_adapter or "base")[:8], _made(found), r.name) for r, found in rows]
    say_table(("training", "kind", "state", "from", "adapter", "of"), cells)


def _made(found: list[AdapterRow]) -> str:
    return found[0].id[:8] if found else ""


def _line(row: TrainingRow) -> dict[str, Any]:
    return {
        "training": row.id,
        "kind": row.kind,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "base": row.base,
        "start": row.start_adapter,
        "data": row.data_digest,
    }


@train.command(
    epilog=examples(
        "espalier train show",
        "espalier train show 1a2b3c4d --json",
        "espalier train show 1a2b3c4d --curves --over 5e6f7a8b",
    )
)
@click.argument("training", required=False)
@click.option("--curves", is_flag=True, help="Draw its curves; with --over, those of others with them.")
@click.option("--over", multiple=True, metavar="TRAINING", help="Another training to draw with it; may be given again.")
@click.option("--log", "log_axis", is_flag=True, help="Curves on a logarithmic axis.")
@json_option
@store_option
def show(
    training: str | None, curves: bool, over: tuple[str, ...], log_axis: bool, as_json: bool, store_path: Path
) -> None:
    """Show how TRAINING stands, or the one worked on last: figures, alarms, lineage, and the adapter it made."""
    row = _found(store_path, training)
    if (curves or over or log_axis) and not as_json:
        _draw_curves(store_path, row.id, over, log_axis)
        return
    document = _told(store_path, row.id, as_json)
    if as_json:
        say_json(document)


def _draw_curves(store_path: Path, training: str, over: tuple[str, ...], log_axis: bool) -> None:
    """The curves that the app draws, as text."""
    import time

    from trees.store import Store
    from trees.trainings import find_training
    from tui.app.curves import drawn
    from tui.app.watching_trainings import Watched, curves_of, figure, read_trainings, reduce

    with Store.read(store_path) as store:
        laid = tuple(find_training(store, each).id for each in over)
        watched = reduce(Watched(over=laid), read_trainings(store, training, laid, time.time()))
    assert watched.looked_at is not None, "it was found"
    plain = is_plain()
    for name in curves_of(watched.looked_at):
        shown = figure(watched, name, log=log_axis, at=None, plain=plain)
        say_lines([*drawn(shown, min(console().width, 100), PLOT_ROWS, plain=plain), ()])


def _found(store_path: Path, prefix: str | None) -> TrainingRow:
    from trees.store import Store
    from trees.trainings import find_training

    with Store.read(store_path) as store:
        return find_training(store, prefix)


def _told(store_path: Path, training_id: str, as_json: bool) -> dict[str, Any]:
    """The facts of a training, printed unless they are wanted as JSON."""
    from trees.store import Store
    from tui.trainingview import say_training, training_facts

    with Store.read(store_path) as store:
        document = training_facts(store, training_id)
    if not as_json:
        say_training(document)
    return document


# Steering


@train.command(epilog=examples("espalier train pause 1a2b3c4d"))
@click.argument("training")
@json_option
@store_option
def pause(training: str, as_json: bool, store_path: Path) -> None:
    """Have TRAINING make a checkpoint after the step under way, and leave. `train resume` goes on."""
    row, result = _ask(store_path, training, "pause")
    _answered(as_json, result, f"training {row.id[:8]} is pausing\ngo on: espalier train resume {row.id[:8]}")


@train.command(epilog=examples("espalier train stop 1a2b3c4d"))
@click.argument("training")
@json_option
@store_option
def stop(training: str, as_json: bool, store_path: Path) -> None:
    """End TRAINING with what it has learnt so far: that becomes its adapter. `train resume` would still go on."""
    row, result = _ask(store_path, training, "stop")
    _answered(as_json, result, f"training {row.id[:8]} is stopping\nsee it: espalier train show {row.id[:8]}")


def _ask(store_path: Path, prefix: str, verb: str) -> tuple[TrainingRow, dict[str, Any]]:
    from trees.trainings import find_training
    from tui.launch import ask_and_wait
    from tui.stores import existing

    with existing(store_path) as store:
        row = find_training(store, prefix)
        return row, asyncio.run(ask_and_wait(store, row.id, verb, {}, kind="training"))


def _answered(as_json: bool, result: Mapping[str, Any], words: str) -> None:
    if as_json:
        say_json(dict(result))
    else:
        say(words)


@train.command(epilog=examples("espalier train resume", "espalier train resume 1a2b3c4d --detach"))
@click.argument("training", required=False)
@click.option("--detach", is_flag=True, help="Train in the background; this terminal may be closed.")
@json_option
@store_option
@with_others
def resume(training: str | None, detach: bool, as_json: bool, store_path: Path) -> None:
    """Go on with TRAINING from its last checkpoint, or with the one worked on last; a pausing one goes on at once."""
    from trees.jobs import live_engine
    from tui.stores import existing
    from tui.training import train_here

    row = _found(store_path, training)
    with existing(store_path) as store:
        lock = live_engine(store, row.id)
    if lock is not None:
        _, result = _ask(store_path, row.id, "resume")
        _answered(as_json, result, f"training {row.id[:8]} goes on in the process with pid {lock.pid}")
        return
    code = 0
    if row.state == "finished":
        document = _told(store_path, row.id, as_json)
    elif detach and processes.count() > 1:
        raise click.UsageError(f"--detach is for one process, not for {processes.count()}")
    elif detach:
        document = _detached(store_path, row, as_json)
    else:
        say(f"training {row.id[:8]}: going on with {row.kind}, {row.name}", stderr=True)
        ending, interrupted = train_here(store_path, row.id, quiet=as_json)
        document, code = _told(store_path, row.id, as_json), _code(row, ending, interrupted)
    if as_json:
        say_json(document)
    _leave(code)


# Exports


@train.command(
    epilog=examples(
        "espalier train export 1a2b3c4d --to peft adapter",
        "espalier train export 1a2b3c4d --to gguf-lora lora.gguf",
        "espalier train export 1a2b3c4d --to gguf tuned.gguf --format q8_0",
    )
)
@click.argument("adapter")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["peft", "merged", "gguf-lora", "gguf"]),
    default="peft",
    show_default=True,
    help="The adapter as it is, merged into its base (a folder), or either as a GGUF file.",
)
@click.option("--model", "base", metavar="BASE", help="Where its base lies, if no longer where it was trained.")
@click.option(
    "--format",
    "number_format",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
    default="f16",
    show_default=True,
    help="Numbers of a merged GGUF.",
)
@json_option
@store_option
def export(
    adapter: str,
    out: Path,
    form: Literal["peft", "merged", "gguf-lora", "gguf"],
    base: str | None,
    number_format: Literal["f32", "f16", "bf16", "q8_0"],
    as_json: bool,
    store_path: Path,
) -> None:
    """Write ADAPTER, or what the training of this id made, to OUT in a form that other programs read."""
    from train.adapters import export_adapter, stored_adapter
    from trees.store import Store
    from trees.trainings import find_adapter, training

    with Store.read(store_path) as store:
        row = find_adapter(store, adapter)
        found = stored_adapter(store, row)
        named = base or str(training(store, row.training_id).operation["base"])
    written = export_adapter(found, form, named, out, number_format)
    if as_json:
        say_json({"adapter": found.digest, "form": form, "out": str(written)})
    else:
        say(f"adapter {found.digest[:8]} is written to {written} ({form})")
