"""Reading what was played: `trees`, `show` and `search`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import NotFound
from tui.console import is_plain, say, say_json, say_lines, say_table
from tui.options import examples, json_option, store_option
from tui.sanitise import one_line, visible

if TYPE_CHECKING:
    from trees.store import Store, TreeRow
    from tui.draw import Line

canonical_option = click.option(
    "--canonical",
    is_flag=True,
    help="With --json: without times, attempts and token counts, byte for byte comparable.",
)


@click.command(
    epilog=examples("espalier trees", "espalier trees 1a2b3c4d", "espalier trees 1a2b3c4d --json --canonical")
)
@click.argument("run", required=False)
@canonical_option
@json_option
@store_option
def trees(run: str | None, canonical: bool, as_json: bool, store_path: Path) -> None:
    """List the trees of RUN, or of the one worked on last."""
    from trees.store import Store
    from tui.canonical import canonical_run
    from tui.stores import run_or_latest

    _needs_json(canonical, as_json)
    with Store.read(store_path) as store:
        row = run_or_latest(store, run)
        if canonical:
            say_json(canonical_run(store, row))
            return
        rows = store.trees(row.id)
        if as_json:
            say_json([_tree_line(tree) for tree in rows])
            return
        say(f"run {row.id[:8]} {row.name!r}, {row.state}")
        cells = [
            (tree.id[:8], tree.state, tree.turns, tree.nodes, one_line(tree.title, 70), _cause(tree)) for tree in rows
        ]
        say_table(("tree", "state", "turns", "messages", "who", ""), cells, right=("turns", "messages"))
        if rows:
            say(f"read one: espalier show {rows[0].id[:8]}")


@click.command(
    epilog=examples(
        "espalier show",
        "espalier show 5e6f7a8b",
        "espalier show 5e6f7a8b --path all --ids",
        "espalier show 5e6f7a8b --json --canonical",
        "espalier show 5e6f7a8b --prompt 9c0d1e2f",
    )
)
@click.argument("tree", required=False)
@click.option(
    "--path",
    type=click.Choice(["continued", "all"]),
    default="continued",
    show_default=True,
    help="The conversation really played with the replies beside it, or every branch.",
)
@click.option("--ids", is_flag=True, help="Show the id of every message.")
@click.option("--judge", metavar="NAME", help="Whose marks and scores; the judge that branching follows if left out.")
@click.option(
    "--prompt", "prompt_of", metavar="NODE", help="Show the prompts that this message was asked with instead."
)
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@canonical_option
@json_option
@store_option
def show(
    tree: str | None,
    path: str,
    ids: bool,
    judge: str | None,
    prompt_of: str | None,
    ascii_only: bool,
    canonical: bool,
    as_json: bool,
    store_path: Path,
) -> None:
    """Draw TREE: who speaks, what they revealed, the replies with the judge's marks, and where it went on.

    The persona stands on top, a legend of the marks below. TREE may also be the id of one of its messages, or of
    a run: then its tree with the most wins is shown, and without any id that of the latest run.
    """
    from trees.store import Store
    from tui.canonical import canonical_tree, full_tree

    _needs_json(canonical, as_json)
    with Store.read(store_path) as store:
        row = store.tree_row(_tree_id(store, tree) if tree else most_decided_tree(store))
        if prompt_of is not None:
            from tui.prompting import show_prompts

            show_prompts(store, row, store.find("nodes", prompt_of), as_json=as_json)
        elif as_json:
            grown = store.tree(row.id)
            say_json(canonical_tree(row, grown) if canonical else full_tree(store, row, grown))
        else:
            say_lines(_picture(store, row, path == "all", ids, judge, ascii_only or is_plain()))


@click.command(epilog=examples("espalier search dog park", "espalier search 犬 --json"))
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Messages shown at most.")
@json_option
@store_option
def search(words: tuple[str, ...], limit: int, as_json: bool, store_path: Path) -> None:
    """Find messages that hold all of WORDS, the latest first."""
    from trees.store import Store

    with Store.read(store_path) as store:
        try:
            hits = store.search(" ".join(words), limit=limit)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if as_json:
        fields = ("node_id", "tree_id", "run_id", "turn", "speaker", "text")
        say_json([{field: getattr(hit, field) for field in fields} for hit in hits])
        return
    rows = [(h.tree_id[:8], h.node_id[:8], h.turn, h.speaker, one_line(h.text, 90)) for h in hits]
    if not rows:
        say(f"no message holds {' '.join(words)!r}")
        return
    say_table(("tree", "node", "turn", "speaker", "message"), rows, right=("turn",))


def _needs_json(canonical: bool, as_json: bool) -> None:
    if canonical and not as_json:
        raise click.UsageError("--canonical is a form of JSON: give --json too")


def _tree_id(store: Store, prefix: str) -> str:
    """A tree by its own id, by that of one of its messages, or by that of its run. Raises NotFound."""
    with suppress(NotFound):
        return store.tree_of(store.find("nodes", prefix))
    with suppress(NotFound):
        return most_decided_tree(store, store.find("runs", prefix))
    return store.find("trees", prefix)


def most_decided_tree(store: Store, run_id: str | None = None) -> str:
    """The tree with the most pairs in a run, or in the one worked on last. Raises NotFound."""
    from tui.stores import run_or_latest

    run = run_or_latest(store, run_id)
    sql = (
        "SELECT t.id FROM trees t LEFT JOIN pairs p ON p.tree_id = t.id WHERE t.run_id = ? AND t.nodes > 0 "
        "GROUP BY t.id ORDER BY count(p.chosen_id) DESC, t.position LIMIT 1"
    )
    found = store.rows(sql, (run.id,))
    if not found:
        raise NotFound(f"run {run.id[:8]} has no tree with a message yet", hint="Go on with it: espalier resume.")
    return str(found[0][0])


def _picture(store: Store, row: TreeRow, everything: bool, ids: bool, judge: str | None, plain: bool) -> list[Line]:
    from tui.draw import draw_tree, legend
    from tui.picture import header, look_for

    look = look_for(store, row.run_id, judge=judge, plain=plain, ids=ids, everything=everything)
    return [*header(store, row, look), *draw_tree(store.tree(row.id), look), (), legend(look)]


def _tree_line(tree: TreeRow) -> dict[str, Any]:
    fields = (
        "id",
        "run_id",
        "position",
        "profile_id",
        "personality_id",
        "revision",
        "state",
        "turns",
        "nodes",
    )
    return {**{field: getattr(tree, field) for field in fields}, "cause": tree.cause, "title": tree.title}


def _cause(tree: TreeRow) -> str:
    return "" if tree.cause is None else visible(f"{tree.cause.get('kind')}: {tree.cause.get('message')}", longest=120)
