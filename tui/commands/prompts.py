"""Prompts: `prompts list`, `show`, `diff` and `save`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import NotFound, SetupError
from tui.console import say, say_json, say_table
from tui.options import examples, json_option, store_option
from tui.stores import optional

if TYPE_CHECKING:
    from trees.store import Store

OWN_FOLDER = Path("prompts")
"""Where prompt files of one's own lie: beside the configuration, here the current folder's."""


@click.group(epilog=examples("espalier prompts list", "espalier prompts show responder"))
def prompts() -> None:
    """See, compare and save the prompts of the roles. A stored version never changes."""


@prompts.command("list", epilog=examples("espalier prompts list", "espalier prompts list --json"))
@json_option
@store_option
def list_(as_json: bool, store_path: Path) -> None:
    """List the shipped prompts, one's own in prompts/, and stored versions with the runs that use them."""
    found = [*_files(), *_versions(store_path)]
    if as_json:
        say_json(found)
        return
    rows = [(row["where"], row["name"], row["role"], ", ".join(row["runs"]), row["note"]) for row in found]
    say_table(("where", "name", "for", "used by runs", "note"), rows)


@prompts.command(epilog=examples("espalier prompts show responder", "espalier prompts show 3f4e5d6c"))
@click.argument("name")
@store_option
def show(name: str, store_path: Path) -> None:
    """Print a prompt: a file's name (one's own, then a shipped one), or the id of a stored version."""
    say(_text(name, store_path).rstrip("\n"))


@prompts.command(
    epilog=examples("espalier prompts diff responder my_responder", "espalier prompts diff 3f4e5d6c 9a8b7c6d")
)
@click.argument("a")
@click.argument("b")
@store_option
def diff(a: str, b: str, store_path: Path) -> None:
    """Compare two prompts, each named as for `prompts show`. Exit 1 if they differ."""
    before, after = (_text(name, store_path).splitlines() for name in (a, b))
    lines = list(difflib.unified_diff(before, after, a, b, lineterm=""))
    say("\n".join(lines) if lines else f"{a} and {b} are the same")
    if lines:
        raise SystemExit(1)


@prompts.command(
    epilog=examples(
        "espalier prompts save responder prompts/warmer.md",
        "espalier prompts save responder.warm prompts/warmer.md --run 1a2b3c4d",
    )
)
@click.argument("role")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--run", "run_prefix", metavar="RUN", help="Play the trees of RUN that have not begun yet under it.")
@click.option("--note", help="A word on what is new in it.")
@store_option
def save(role: str, file: Path, run_prefix: str | None, note: str | None, store_path: Path) -> None:
    """Keep FILE as an immutable version of the prompt of ROLE.

    ROLE is a kind of prompt (user, inducer, responder, judge.choice, judge.pairwise, judge.likelihood,
    deploy) or, with --run, one of the run's roles, such as responder.warm. With --run the version becomes a
    recorded revision of that run's prompts; trees that have begun keep theirs.
    """
    from agents.prompts import load_prompt
    from trees.store import Store
    from trees.writes import keep_prompt

    if file.suffix != ".md":
        raise click.UsageError(f"{str(file)!r}: a prompt file ends in .md")
    prompt = load_prompt(_kind_of(role), file.stem, file.parent)
    with Store.open(store_path) as store:
        run_id = store.find("runs", run_prefix) if run_prefix else None
        store.apply(keep_prompt(prompt.id, prompt.kind, prompt.text, note))
    say(f"kept as version {prompt.id[:8]} of the {prompt.kind} prompt")
    if run_id is not None:
        _revise(store_path, run_id, role, prompt.id)


@prompts.command(
    "try",
    epilog=examples(
        "espalier prompts try responder prompts/warmer.md --tree 5e6f7a8b --place 2",
        "espalier prompts try responder prompts/warmer.md --set 5 --judge likelihood",
    ),
)
@click.argument("kind")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--tree", "tree_prefix", metavar="TREE", help="The stored tree to try it on.")
@click.option("--place", type=click.IntRange(1), default=1, show_default=True, help="Which of its uses in that tree.")
@click.option(
    "--set",
    "most",
    type=click.IntRange(1),
    help="So many places instead: at bookmarked messages or, where none is, with as many people of the run.",
)
@click.option("--run", "run_prefix", metavar="RUN", help="Whose places make the set. Default: the latest run.")
@click.option(
    "--saved", metavar="NAME", help="What to compare with, as for `prompts show`. Default: what was used there."
)
@click.option("--judge", metavar="NAME", help="A judge of the run, to say which of the two replies is better.")
@click.option("--follow", is_flag=True, help="Print what comes as JSON, a line each; the last is that of --json.")
@json_option
@store_option
def try_(
    kind: str,
    file: Path,
    tree_prefix: str | None,
    place: int,
    most: int | None,
    run_prefix: str | None,
    saved: str | None,
    judge: str | None,
    follow: bool,
    as_json: bool,
    store_path: Path,
) -> None:
    """Ask a model under the prompt in FILE where a prompt of this KIND was used before.

    Persona, path, sampling and seed are those of the stored call; what is said is printed beside what is said under the
    saved prompt, and not kept.
    """
    from agents.prompts import prompt_of
    from trees.store import Store
    from tui.console import say_event
    from tui.trying import Trial, pinned_places, place_of, try_prompt

    if (tree_prefix is None) == (most is None):
        raise click.UsageError("name a place by --tree (and --place), or a set of places by --set")
    draft = prompt_of(_kind_of(kind), file.read_text(encoding="utf-8"), file.parent, str(file))
    against = prompt_of(draft.kind, _text(saved, store_path), file.parent, saved) if saved is not None else None
    with Store.read(store_path) as store:
        if tree_prefix is not None:
            uses = [place_of(store, store.find("trees", tree_prefix), draft.kind, place)]
        else:
            uses = pinned_places(store, _run_of(store, run_prefix), draft.kind, most or 1)
        tell = say_event if follow else (lambda _: None)
        result = try_prompt(store, uses, Trial(draft, against, judge), tell)
    if follow:
        say_event(result)
    elif as_json:
        say_json(result)
    else:
        _tell_tried(result, saved or "the prompt that was used", str(file))
    if any(each["failed"] for each in result["places"]):
        raise SystemExit(1)


def _run_of(store: Store, prefix: str | None) -> str:
    from simulation.runs import latest_run

    return store.find("runs", prefix) if prefix is not None else latest_run(store).id


def _tell_tried(result: dict[str, Any], saved: str, draft: str) -> None:
    for each in result["places"]:
        say(each["title"])
        for side, name in (("saved", saved), ("draft", draft)):
            say(f"\nunder {name}\n{each.get(side) or 'no answer: ' + each['failed'].get(side, '')}")
        say(f"\n{result['judge']} prefers: {each['outcome']}\n" if each["outcome"] else "")
    if result["outcomes"]:
        say_table(("outcome", "places"), [(name, str(count)) for name, count in sorted(result["outcomes"].items())])


def _revise(store_path: Path, run_id: str, role: str, prompt_id: str) -> None:
    """Make a stored version part of a run, through its engine, and say which trees it holds for."""
    import asyncio

    from trees.store import Store
    from tui.launch import have_done

    result = asyncio.run(have_done(store_path, run_id, "prompt", {"role": role, "prompt": prompt_id}))
    with Store.read(store_path) as store:
        waiting = [tree.id[:8] for tree in store.trees(run_id) if tree.nodes == 0]
    held = f"trees {', '.join(waiting)}" if waiting else "no tree: all have begun, and keep the prompts they began with"
    say(f"revision {result['revision']} of run {run_id[:8]}: {role} speaks under {prompt_id[:8]}")
    say(f"it holds for {held}")


def _kind_of(role: str) -> str:
    """The kind of prompt that a role, or the kind itself, means. Raises click.UsageError."""
    from agents.prompts import VARIABLES

    kind = role.partition(".")[0] if role.startswith("responder.") else role
    if kind not in VARIABLES:
        raise click.UsageError(f"there is no role {role!r}; kinds of prompt: {', '.join(VARIABLES)}")
    return kind


def _files() -> list[dict[str, Any]]:
    from agents.prompts import SHIPPED_NAMES, shipped_prompts

    kinds = {name: kind for kind, name in SHIPPED_NAMES.items()}
    own = {path.stem: path.read_text(encoding="utf-8") for path in sorted(OWN_FOLDER.glob("*.md"))}
    return [
        {"where": where, "name": name, "role": kinds.get(name, ""), "runs": [], "note": _first_line(text)}
        for where, texts in (("shipped", shipped_prompts()), (f"{OWN_FOLDER}/", own))
        for name, text in sorted(texts.items())
    ]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _versions(store_path: Path) -> list[dict[str, Any]]:
    with optional(store_path) as store:
        if store is None:
            return []
        users = _users(store)
        rows = store.rows("SELECT id, role, note FROM prompts ORDER BY role, added_at, id")
    return [
        {
            "where": "store",
            "name": i[:8],
            "id": i,
            "role": role,
            "runs": sorted(users.get(i, ())),
            "note": note or "",
        }
        for i, role, note in rows
    ]


def _users(store: Store) -> dict[str, set[str]]:
    """Runs, in short, by the prompt versions that they use."""
    users: dict[str, set[str]] = {}
    sql = "SELECT DISTINCT r.run_id, p.value FROM revisions r, json_each(r.prompts) p"
    for run_id, prompt_id in store.rows(sql):
        users.setdefault(prompt_id, set()).add(run_id[:8])
    return users


def _text(name: str, store_path: Path) -> str:
    """The text of a prompt by file name or id. Raises SetupError."""
    from agents.prompts import shipped_prompts

    own = OWN_FOLDER / f"{name}.md"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    if name in (shipped := shipped_prompts()):
        return shipped[name]
    with optional(store_path) as store:
        if store is not None:
            try:
                return store.prompt(store.find("prompts", name))[1]
            except NotFound as error:
                raise SetupError(_no_prompt(name), hint=error.message) from error
    raise SetupError(_no_prompt(name), hint="See `espalier prompts list`.")


def _no_prompt(name: str) -> str:
    return f"there is no prompt {name!r}: no file in {OWN_FOLDER}/, none that is shipped, and no stored version"
