"""Working on stored trees: `branch` grows them by hand, `judge` has them judged again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from trees.errors import NotFound, SetupError
from tui.console import is_plain, say, say_json, say_lines
from tui.options import config_option, examples, json_option, set_option, store_option

LOOKAHEAD = "lookahead"
"""The judge that needs no configuration: its kind is its name."""


@click.command(
    epilog=examples(
        "espalier branch 9c0d1e2f --reroll 3",
        'espalier branch 9c0d1e2f --edit "I would rather not say."',
        "espalier branch 9c0d1e2f --extend 2",
    )
)
@click.argument("node")
@click.option(
    "--edit",
    "text",
    metavar="TEXT",
    help="A sibling of NODE that says TEXT; after a user's one replies follow.",
)
@click.option(
    "--reroll",
    "count",
    type=click.IntRange(1, 16),
    metavar="N",
    help="N more siblings of NODE from its model.",
)
@click.option("--extend", "turns", type=click.IntRange(1), metavar="TURNS", help="Play on from the reply NODE.")
@json_option
@store_option
def branch(node: str, text: str | None, count: int | None, turns: int | None, as_json: bool, store_path: Path) -> None:
    """Grow a tree at NODE by hand. The old branch stays; what is new is drawn.

    The run's engine does it if one is at work, else one is started for this alone.
    """
    from trees.store import Store

    given = [
        {"kind": kind, key: value}
        for kind, key, value in (
            ("edit", "text", text),
            ("reroll", "count", count),
            ("extend", "turns", turns),
        )
        if value is not None
    ]
    if len(given) != 1:
        raise click.UsageError("give one of --edit TEXT, --reroll N and --extend TURNS")
    with Store.read(store_path) as store:
        node_id = store.find("nodes", node)
        tree_id = store.tree_of(node_id)
        run_id = store.tree_row(tree_id).run_id
    result = _done(store_path, run_id, "branch", {"node": node_id, **given[0]})
    if as_json:
        say_json(result)
        return
    _draw_new(store_path, tree_id, result["nodes"])


@click.command(
    epilog=examples(
        "espalier judge 1a2b3c4d --judge likelihood --again",
        "espalier judge 1a2b3c4d --judge strict --config judges.toml",
        "espalier judge 1a2b3c4d --judge human",
        "espalier judge trial --judge human.ada   # points for all replies of a benchmark",
        "espalier judge 1a2b3c4d --judge lookahead --set of=rating --set depth=2",
    )
)
@click.argument("run", metavar="RUN")
@click.option(
    "--judge", "name", required=True, metavar="NAME", help="One of the run's judges, or of the file's; `human` is you."
)
@click.option("--again", is_flag=True, help="Judge turns again that this judge has judged already.")
@config_option
@set_option("Any field of a judge that the run does not have, as kind=lookahead or depth=2.")
@json_option
@store_option
def judge(
    run: str,
    name: str,
    again: bool,
    config_path: Path | None,
    given: dict[str, Any],
    as_json: bool,
    store_path: Path,
) -> None:
    """Have a judge judge all turns of RUN that it has not judged yet; earlier judgements stay.

    --config takes the judge from [judges.NAME] of another file with the model that it asks there, so that a larger one
    can judge a run again; --set gives its fields from here. `lookahead` needs neither: it goes by the scores of the
    run's deciding judge, and looks again at turns
    under which more has grown. `human`, or `human.NAME` where several people judge, asks you: replies stand under
    letters in a shuffled order, without who wrote them or what judges said. Of a benchmark (by id or name, or one of
    its runs) each reply is asked about alone, for points from 1 to 5, the models' conversations shuffled. What you say
    is kept at once; the same command goes on with what is left.
    """
    from simulation.votes import is_person
    from trees.store import Store
    from tui.facts import run_facts

    if is_person(name):
        _by_hand(run, name, again, as_json, store_path)
        return
    args: dict[str, Any] = {"name": name, "again": again}
    with Store.read(store_path) as store:
        run_id = store.find("runs", run)
        known = store.run(run_id).identity.get("play", {}).get("judges", {})
    if config_path is not None or given or (name == LOOKAHEAD and name not in known):
        args |= _judge_of(config_path, name, given)
    result = _done(store_path, run_id, "judge", args)
    if as_json:
        say_json(result)
        return
    with Store.read(store_path) as store:
        facts = run_facts(store, store.run(run_id))
    say(f"{name} judged {result['turns']} turns of run {run_id[:8]}")
    if "looked_ahead" in result:
        _say_looked_ahead(result["looked_ahead"], run_id)
    for row in facts["judges"]:
        if row["id"] == result["judge"]:
            say(", ".join(f"{key} {row[key]}" for key in ("win", "tie", "both_bad", "unstable", "abstain", "pairs")))


def _by_hand(word: str, name: str, again: bool, as_json: bool, store_path: Path) -> None:
    """Have the person at the terminal judge a run, or give points in a benchmark, and say what came of it."""
    from dataclasses import asdict

    from simulation.votes import Person
    from tui.judging import judge_by_hand
    from tui.rating import rate_by_hand

    person = Person(name)
    found, runs, benchmark = _judged_by_hand(word, store_path)
    if benchmark is None:
        tally = judge_by_hand(store_path, found, person, again=again, stderr=as_json)
    else:
        tally = rate_by_hand(store_path, found, runs, person, again=again, stderr=as_json)
    if as_json:
        say_json(asdict(tally))
        return
    kept, left = ("votes", "turns") if benchmark is None else ("points", "replies")
    say(f"\n{tally.voted} {kept} kept, {tally.skipped} skipped, {tally.left} {left} left")
    if tally.left:
        say(f"go on: espalier judge {found[:8]} --judge {name}")
    if benchmark is None:
        say(f"how far judges agree with you: espalier status {found[:8]}")
    else:
        say(f"what came of it: espalier bench show --bench {benchmark[:8]} --judge {name}")


def _judged_by_hand(word: str, store_path: Path) -> tuple[str, list[str], str | None]:
    """What a word names: the id of a run or a benchmark, the runs of it, and the benchmark if they are of one.

    Raises NotFound.
    """
    from simulation.benchmark import find_benchmark, runs_measured
    from trees.store import Store

    with Store.read(store_path) as store:
        try:
            run = store.find("runs", word)
        except NotFound as no_run:
            try:
                benchmark = find_benchmark(store, word)[0]
            except NotFound:
                raise no_run from None
            return benchmark, runs_measured(store, benchmark), benchmark
        measures = store.rows("SELECT benchmark_id FROM benchmark_runs WHERE run_id = ?", (run,))
    return run, [run], measures[0][0] if measures else None


@click.command(epilog=examples('espalier note 9c0d1e2f "gives it away too early"', "espalier note 9c0d1e2f --bookmark"))
@click.argument("node")
@click.argument("text", required=False)
@click.option("--bookmark/--no-bookmark", default=None, help="Set or take back a bookmark at NODE.")
@store_option
def note(node: str, text: str | None, bookmark: bool | None, store_path: Path) -> None:
    """Note TEXT at the message NODE; an empty text takes the note back. The app shows both.

    Every note stays in the store as an operation; the latest counts.
    """
    from tui.app.notes import keep
    from tui.stores import existing

    if text is None and bookmark is None:
        raise click.UsageError("give a TEXT, --bookmark or --no-bookmark")
    with existing(store_path) as store:
        node_id = store.find("nodes", node)
        tree = store.tree(store.tree_of(node_id))
        run_id = store.tree_row(tree.id).run_id
        if text is not None:
            keep(store, run_id, tree[node_id], "note", {"text": text})
        if bookmark is not None:
            keep(store, run_id, tree[node_id], "bookmark", {"on": bookmark})
    say(f"kept at node {node_id[:8]}")


def _say_looked_ahead(turns: int, run_id: str) -> None:
    say(f"two replies or more went on in {turns} turns; where fewer did there is nothing to look ahead at")
    if not turns:
        say(
            'Play with branching policy "all" or "beam", so that several replies go on, or extend replies by hand '
            f"(espalier branch NODE --extend 2), then judge run {run_id[:8]} again."
        )


def _judge_of(path: Path | None, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A judge's fields (a file's, or its kind alone, with what is given over them), and the file's models for it."""
    from agents.overrides import overlaid

    if path is None:
        return {"config": overlaid({"kind": LOOKAHEAD} if name == LOOKAHEAD else {}, given)}
    from simulation.config import MODEL_FREE_JUDGES, load_config

    config = load_config(path)
    if name not in config.judges:
        raise SetupError(f"{path} has no judge {name!r}", hint=f"Its judges: {', '.join(config.judges)}.")
    judge = config.judges[name]
    fields = judge.model_dump(mode="json")
    if judge.kind in MODEL_FREE_JUDGES:
        return {"config": overlaid(fields, given)}
    if not judge.names():
        fields["model"] = config.models_of(judge)[0]
    models = {each: config.models[each].model_dump(mode="json") for each in config.models_of(judge)}
    return {"config": overlaid(fields, given), "models": models}


def _done(store_path: Path, run_id: str, verb: str, args: dict[str, Any]) -> dict[str, Any]:
    from tui.launch import have_done

    return asyncio.run(have_done(store_path, run_id, verb, args))


def _draw_new(store_path: Path, tree_id: str, new: list[str]) -> None:
    from trees.store import Store
    from tui.draw import draw_below, legend
    from tui.picture import look_for

    with Store.read(store_path) as store:
        run_id = store.tree_row(tree_id).run_id
        look = look_for(store, run_id, judge=None, plain=is_plain(), ids=True, everything=True)
        tree = store.tree(tree_id)
    say(f"tree {tree_id[:8]}: {len(new)} new {'branch' if len(new) == 1 else 'branches'}")
    for node_id in new:
        say_lines(draw_below(tree, tree[node_id], look))
    say_lines([(), legend(look)])
