"""`rounds`: play, train and measure in turn; begin, see and stop rounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import SetupError
from tui.console import count, say, say_json, say_table
from tui.options import FILE, examples, json_option, store_option

if TYPE_CHECKING:
    from simulation.rounds_config import Rounds

INTERRUPTED = 130


class RunByDefault(click.Group):
    """A group whose first word may be a file: then `run` is meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        named = args and args[0] in self.commands
        return super().resolve_command(ctx, args if named else ["run", *args])


@click.group(
    cls=RunByDefault,
    epilog=examples(
        "espalier rounds init rounds.toml",
        "espalier rounds rounds.toml --dry-run",
        "espalier rounds rounds.toml",
        "espalier rounds show",
    ),
)
def rounds() -> None:
    """Play, train, measure, and play again with what was learnt. `rounds FILE` is short for `rounds run FILE`."""


@rounds.command(epilog=examples("espalier rounds init rounds.toml"))
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Write over FILE if it is there; the files it names are left as they are.")
def init(file: Path, force: bool) -> None:
    """Write commented rounds to FILE, and beside it those of the three files it names that are not there yet."""
    from simulation.rounds_config import samples

    if file.exists() and not force:
        raise SetupError(f"{file} exists already", hint="Name another file, or write over it with --force.")
    texts = samples()
    files = {file: texts.pop("rounds.toml"), **{file.parent / name: text for name, text in texts.items()}}
    for path, text in files.items():
        if path != file and path.exists():
            say(f"kept {path}")
            continue
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write {path}: {error.strerror}") from error
        say(f"wrote {path}")
    say(f"next: espalier rounds {file} --dry-run, then espalier rounds {file}")


@rounds.command(
    epilog=examples("espalier rounds run rounds.toml --dry-run", "espalier rounds run rounds.toml --detach")
)
@click.argument("file", type=FILE)
@click.option("--dry-run", is_flag=True, help="Open the models and estimate the steps; ask no model for text.")
@click.option("--detach", is_flag=True, help="Do them in the background; this terminal may be closed.")
@json_option
@store_option
def run(file: Path, dry_run: bool, detach: bool, as_json: bool, store_path: Path) -> None:
    """Do the rounds that FILE describes.

    The same command again goes on with the step that was not done, whatever ended it; finished rounds are shown, and
    go on if FILE asks for more of them. Ctrl-C stops the step under way, with everything it has done kept.
    """
    from simulation.rounds_config import load_rounds
    from tui.rounds import do_rounds

    plan = load_rounds(file)
    if dry_run:
        _dry_run(plan, store_path, as_json=as_json)
        return
    if detach:
        _detach(plan, store_path, as_json=as_json)
        return
    ending = do_rounds(store_path, plan, quiet=as_json)
    _told(store_path, plan.id, as_json=as_json)
    if ending.state != "finished":
        raise SystemExit(INTERRUPTED if ending.interrupted else 1)


@rounds.command("list", epilog=examples("espalier rounds list", "espalier rounds list --json"))
@json_option
@store_option
def list_(as_json: bool, store_path: Path) -> None:
    """List rounds, the latest first."""
    from trees.rounds import all_rounds, steps
    from trees.store import Store
    from tui.roundsview import rounds_line

    with Store.read(store_path) as store:
        found = [(rounds_line(store, row), steps(store, row.id)) for row in all_rounds(store)]
    if as_json:
        say_json([line for line, _ in found])
        return
    if not found:
        say(f"no rounds in {store_path}; begin some: espalier rounds init rounds.toml")
        return
    rows = [
        (line["rounds"][:8], line["name"], line["state"], f"{done[-1].round} {done[-1].kind}" if done else "")
        for line, done in found
    ]
    say_table(("rounds", "name", "state", "came to"), rows)


@rounds.command(epilog=examples("espalier rounds show", "espalier rounds show 1a2b3c4d --json"))
@click.argument("rounds_id", metavar="[ROUNDS]", required=False)
@json_option
@store_option
def show(rounds_id: str | None, as_json: bool, store_path: Path) -> None:
    """Show the timeline of ROUNDS, by id or name, or of those worked on last."""
    from trees.rounds import find_rounds
    from trees.store import Store

    with Store.read(store_path) as store:
        row = find_rounds(store, rounds_id)
    _told(store_path, row.id, as_json=as_json)


@rounds.command(epilog=examples("espalier rounds stop", "espalier rounds stop 1a2b3c4d"))
@click.argument("rounds_id", metavar="[ROUNDS]", required=False)
@json_option
@store_option
def stop(rounds_id: str | None, as_json: bool, store_path: Path) -> None:
    """Stop ROUNDS that are being done elsewhere, in good order: the step under way keeps what it has done."""
    from trees.rounds import find_rounds
    from tui.launch import ask_and_wait
    from tui.stores import existing

    with existing(store_path) as store:
        row = find_rounds(store, rounds_id)
        result = asyncio.run(ask_and_wait(store, row.id, "stop", {}, kind="rounds"))
    if as_json:
        say_json(result)
    else:
        say(f"rounds {row.id[:8]} are stopping\nsee them: espalier rounds show {row.id[:8]}")


def _told(store_path: Path, rounds_id: str, *, as_json: bool) -> None:
    from trees.rounds import rounds_row
    from trees.store import Store
    from tui.roundsview import rounds_facts, say_rounds

    with Store.read(store_path) as store:
        facts = rounds_facts(store, rounds_row(store, rounds_id))
    say_json(facts) if as_json else say_rounds(facts)


def _detach(plan: Rounds, store_path: Path, *, as_json: bool) -> None:
    from tui.launch import log_path, start_in_background

    # Rows first: the background process is known to be at work by what it writes there.
    _keep(plan, store_path)
    # --json: what steps say goes into the log by itself, and passing it on to there would have it said for ever.
    pid = start_in_background(store_path, plan.id, ["rounds", "run", str(plan.file.resolve()), "--json"])
    log = log_path(store_path, plan.id)
    if as_json:
        say_json({"rounds": plan.id, "pid": pid, "log": str(log)})
        return
    short = plan.id[:8]
    say(f"rounds {short} are done in the background by pid {pid}; their log is {log}")
    say(f"see how they go: espalier rounds show {short}\nstop them: espalier rounds stop {short}")


def _keep(plan: Rounds, store_path: Path) -> None:
    import time

    from simulation.rounds import planned
    from trees.store import Store

    with Store.open(store_path) as store:
        store.apply(planned(plan, time.time()))


# Dry run


def _dry_run(plan: Rounds, store_path: Path, *, as_json: bool) -> None:
    """What each kind of step would take. Each is asked as the command that will do it, with --dry-run."""
    from simulation.benchmark import too_few
    from simulation.rounds import dry_words, kinds_of
    from tui.rounds import facts_of

    asked = {name: facts_of(words, store_path) for name, words in dry_words(plan).items()}
    few = too_few(asked["measuring"]["cases"], 1)
    document = {
        "rounds": plan.id,
        "name": plan.config.name,
        "most_rounds": plan.config.rounds,
        "steps": {str(round_): list(kinds_of(plan, round_)) for round_ in range(min(plan.config.rounds, 2) + 1)},
        "learner": plan.learner,
        "baseline": plan.baseline,
        "notes": [] if few is None else [f"{few}, so no round can be above another"],
        **asked,
    }
    if as_json:
        say_json(document)
    else:
        _say_dry_run(plan, document)


def _say_dry_run(plan: Rounds, document: dict[str, Any]) -> None:
    say(f"rounds {plan.id}\n{plan.config.name!r}, {plan.config.rounds} rounds at most, {plan.learner!r} learns\n")
    measured, baseline = document["measuring"], plan.baseline
    one = next(model for model in measured["models"] if model["model"] == baseline)
    tested = ", ".join(model["model"] for model in measured["models"])
    rows = [
        (0, "benchmark", f"{tested}: {measured['cases']} cases of {measured['turns']} turns",
         _total(measured["models"], "calls"), _total(measured["models"], "tokens_out")),
        *_round_rows(1, plan, document["first"], one),
    ]  # fmt: skip
    if "later" in document:
        rows += _round_rows(2, plan, document["later"], one)
    say_table(("round", "step", "", "calls", "tokens written"), rows, right=("calls", "tokens written"))
    for model in measured["models"]:
        for warning in model["warnings"]:
            say(f"warning: {model['model']}: {warning}")
    for note in document["notes"]:
        say(f"note: {note}")
    if (base := str(plan.training.get("base", "embedded"))) != str(
        getattr(plan.run.models[plan.learner], "path", base)
    ):
        say(f"note: trained is {base!r}, played is {plan.learner!r}: the same weights, or adapter_base says so")
    if plan.config.rounds > 2:
        say(f"\nRounds 3 to {plan.config.rounds} are as round 2.")
    say(f"\n{_stopping(plan.config.patience)}")
    say("Each step is a process of its own. No model was asked for text.")


def _stopping(patience: int) -> str:
    if patience == 0:
        return "They go on to the last round, whatever is measured."
    rounds = "a round whose adapter is" if patience == 1 else f"{patience} rounds in a row whose adapters are"
    return f"They stop early after {rounds} not above the best so far, beyond the interval."


def _round_rows(
    round_: int, plan: Rounds, played: dict[str, Any], measured: dict[str, Any]
) -> list[tuple[object, ...]]:
    whole = played["estimate"]["roles"][-1]
    turns = played["estimate"]["turns"][1]
    replies = sum(role.samples for role in plan.run.responders.values())
    replies += plan.config.simulate.samples if round_ > 1 else 0
    most = f"at most {turns} targets and {turns * replies * (replies - 1) // 2} pairs"
    kept = f", {plan.config.train.earlier_share:.0%} of it of earlier rounds" if round_ > 1 else ""
    return [
        (round_, "simulate", f"{len(played['personas'])} trees, {replies} replies a turn", _range(whole["calls"]),
         _range(whole["tokens_out"])),
        *((round_, "judge", f"by {plan.judge!r}", "", "") for kind in plan.steps if kind == "judge"),
        (round_, "lint", "", "", ""),
        *((round_, kind, most + kept, "", "") for kind in plan.config.train.objectives),
        (round_, "benchmark", f"what was learnt, beside {plan.baseline!r}", _range(measured["calls"]),
         _range(measured["tokens_out"])),
    ]  # fmt: skip


def _total(models: list[dict[str, Any]], key: str) -> str:
    return _range([sum(model[key][end] for model in models) for end in (0, 1)])


def _range(bounds: list[int]) -> str:
    low, high = bounds
    return count(low) if low == high else f"{count(low)} - {count(high)}"
