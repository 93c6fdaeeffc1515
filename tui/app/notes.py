"""What a person notes at a message: bookmarks and notes, kept as operations beside re-rolls and edits.

The latest operation of a kind on a node counts; an empty note or a bookmark that is `off` takes the earlier one back.

Invariant: nothing is overwritten: every note stays in the store with who wrote it and when.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from trees.jobs import whoami
from trees.store import Store
from trees.values import Node
from trees.writes import keep_operation


@dataclass(frozen=True, slots=True)
class Notes:
    """What stands at one node."""

    bookmarked: bool = False
    note: str = ""


def notes_of(store: Store, tree_id: str) -> Mapping[str, Notes]:
    """Notes and bookmarks of a tree by node, where there are any."""
    sql = (
        "SELECT node_id, kind, args FROM operations WHERE tree_id = ? AND kind IN ('note', 'bookmark') "
        "ORDER BY node_id, kind, number"
    )
    latest = {(node, kind): json.loads(args) for node, kind, args in store.rows(sql, (tree_id,))}
    nodes = {node for node, _ in latest}
    found = {
        node: Notes(
            bool(latest.get((node, "bookmark"), {}).get("on")),
            str(latest.get((node, "note"), {}).get("text", "")),
        )
        for node in nodes
    }
    return {node: notes for node, notes in found.items() if notes != Notes()}


def keep(store: Store, run_id: str, node: Node, kind: str, args: Mapping[str, object]) -> None:
    """Keep a `note` or `bookmark` at a node."""
    with store.transaction():
        sql = "SELECT count(*) FROM operations WHERE node_id = ? AND kind = ?"
        number = int(store.rows(sql, (node.id, kind))[0][0]) + 1
        _, writes = keep_operation(run_id, node.tree_id, node.id, kind, number, args, whoami())
        for statement, values in writes:
            store.connection.execute(statement, values)
