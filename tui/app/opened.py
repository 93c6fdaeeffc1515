"""A tree that is looked at: all that its panes show, read at once, and its outline as rows.

The outline follows the conversation really played: each turn with its replies. Asked for everything, what grew beside
it is drawn too, further right.

Invariant: an opened tree is a value; nothing that is shown of it is read from the store a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agents.messages import Person
from agents.person import person_in
from trees.store import RunRow, Store, TreeRow
from trees.text import search_query
from trees.tree import ConversationTree
from trees.values import Node
from tui.app.content import Cell, cells_of, flat
from tui.app.notes import Notes, notes_of
from tui.draw import Look, Span, mark_of, score_of
from tui.facts import model_labels

PREVIEW = 120
"""Characters of a message in the outline; the pane cuts what does not fit."""


@dataclass(frozen=True)
class Opened:
    """A tree with what stands around it."""

    row: TreeRow
    tree: ConversationTree
    judge: str | None
    """Id of the judge whose marks are shown: the one that branching follows."""
    judges: Mapping[str, str]
    """Names of the judges that judged in it, by id."""
    labels: Mapping[str, str]
    """Names of models by id."""
    person: Person | None
    notes: Mapping[str, Notes]
    hits: tuple[str, ...] = ()
    """Messages that hold the words looked for, in the order of the tree."""


def open_tree(store: Store, tree_id: str, words: str = "") -> Opened:
    """Read a tree. Raises NotFound."""
    row = store.tree_row(tree_id)
    tree = store.tree(tree_id)
    ids = {judgement.judge_id for made in tree.judgements.values() for judgement in made}
    judges = {judge: name for judge, name in store.rows("SELECT id, name FROM judges") if judge in ids}
    return Opened(
        row,
        tree,
        _deciding(store.run(row.run_id), tree, judges),
        judges,
        model_labels(store),
        person_in(store, row),
        notes_of(store, tree_id),
        _hits(store, tree, words),
    )


def _deciding(run: RunRow, tree: ConversationTree, judges: Mapping[str, str]) -> str | None:
    """The judge that branching follows; of several of its name the one that judged last."""
    made = [j.judge_id for judgements in tree.judgements.values() for j in judgements]
    play = run.identity.get("play", {})
    wanted = play.get("judge") or next(iter(play.get("judges", {})), None)
    named = [judge for judge in made if judges.get(judge) == wanted]
    return next(reversed(named or made), None)


def _hits(store: Store, tree: ConversationTree, words: str) -> tuple[str, ...]:
    if not words:
        return ()
    sql = (
        "SELECT n.id FROM node_words w JOIN nodes n ON n.rowid = w.rowid "
        "WHERE node_words MATCH ? AND n.tree_id = ? ORDER BY n.rowid"
    )
    try:
        return tuple(row[0] for row in store.rows(sql, (search_query(words), tree.id)))
    except ValueError:
        return ()


@dataclass(frozen=True, slots=True)
class OutlineRow:
    """A message in the outline."""

    node_id: str
    cells: tuple[Cell, ...]


def outline(opened: Opened, look: Look, *, everything: bool) -> list[OutlineRow]:
    """The tree as rows, a message each."""
    return list(_outline(opened, look, everything))


def _outline(opened: Opened, look: Look, everything: bool) -> Iterator[OutlineRow]:
    tree = opened.tree
    played = [node for node in tree.continued_path() if node.speaker == "user"] or tree.roots()[:1]
    on_path = {node.id for node in played}
    roots = [node for node in tree.roots() if everything or node.id in on_path]
    waiting = [(node, 0) for node in sorted(roots, key=lambda n: n.id not in on_path)]
    while waiting:
        user, depth = waiting.pop()
        yield _user_row(opened, user, look, depth)
        replies = tree.children(user.id)
        for reply in replies:
            yield _reply_row(opened, reply, look, depth, hidden=0 if everything else _beside(tree, reply, on_path))
        onward = [n for reply in replies for n in tree.children(reply.id) if everything or n.id in on_path]
        # What was played stays at the margin and comes last, however many branches stand beside it.
        straight = next((n for n in reversed(onward) if n.id in on_path), onward[-1] if onward else None)
        ordered = [n for n in onward if n is not straight] + ([straight] if straight is not None else [])
        waiting += [(n, depth if n is straight else depth + 1) for n in reversed(ordered)]


def _beside(tree: ConversationTree, reply: Node, on_path: set[str]) -> int:
    """Messages that grew from a reply and are not on the conversation played."""
    return sum(len(tree.subtree(user.id)) for user in tree.children(reply.id) if user.id not in on_path)


def _user_row(opened: Opened, user: Node, look: Look, depth: int) -> OutlineRow:
    drift = [("  drift", "warn")] if user.drift else []
    head = (f"{'  ' * depth}{user.turn} ", "user")
    return OutlineRow(user.id, (head, *drift, *_flags(opened, user, look), flat(user.text, PREVIEW)))


def _reply_row(opened: Opened, reply: Node, look: Look, depth: int, *, hidden: int) -> OutlineRow:
    tree = opened.tree
    mark = look.sign(mark_of(tree, reply, opened.judge))
    went_on = look.sign("continued") if reply.id in tree.continued else Span(" ")
    score = score_of(tree, reply, opened.judge)
    number = f"{score.value:+.2f} " if score is not None else ""
    cells: list[Cell] = [
        ("  " * depth + "   ", ""),
        *cells_of((mark, went_on, Span(" "))),
        (number, "muted"),
        flat(reply.role.removeprefix("responder."), 10, "bold"),
        *_flags(opened, reply, look),
        (" ", ""),
        flat(reply.text, PREVIEW),
    ]
    if hidden:
        cells.insert(2, (f"+{hidden} ", "accent"))
    return OutlineRow(reply.id, tuple(cells))


def _flags(opened: Opened, node: Node, look: Look) -> list[Cell]:
    """What a person did at a message, and whether it holds the words looked for."""
    notes = opened.notes.get(node.id, Notes())
    flags: list[Cell] = []
    if notes.bookmarked:
        flags.append(("# " if look.ascii else "⚑ ", "accent"))
    if notes.note:
        flags.append(("note ", "accent"))
    if node.operation_id is not None:
        flags.append((f"{node.replica.partition('.')[0]} ", "accent"))
    if node.id in opened.hits:
        flags.append(("> " if look.ascii else "» ", "warn"))
    return flags
