"""The list of trees: what is asked for, the pages that came, and how many there are in all.

The list is a value that events change: a filter or an order was chosen (which begins a new generation), a page or a
count of some generation came. Answers of an earlier generation are passed over, so a slow answer never overwrites a
later question's.

Invariant: `rows` is a beginning of what the store would list, in the order asked for, and never longer than `MOST`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from trees.ids import canonical_json
from trees.store import Store
from trees.text import unescape
from tui.app.filters import Filter

PAGE = 200
"""Trees of one page."""
MOST = 5000
"""Trees listed at most: beyond it a filter finds more than scrolling."""

ORDERS: Mapping[str, str] = {
    "place": "r.created_at DESC, t.run_id, t.position",
    "closest": "w.margin ASC NULLS LAST, t.id",
    "changed": "t.updated_at DESC, t.id",
    "turns": "t.turns DESC, t.id",
    "messages": "t.nodes DESC, t.id",
    "who": "t.title, t.id",
    "state": "t.state DESC, t.id",
}
"""Orders by name, as SQL."""
_CLOSEST = """
WITH wins AS MATERIALIZED (
    SELECT n.tree_id, min(v.margin) AS margin FROM verdicts v JOIN nodes n ON n.id = v.first_id
    WHERE v.outcome = 'win' GROUP BY 1
)
"""
"""Once over all wins: asked tree by tree it takes three times as long."""


@dataclass(frozen=True, slots=True)
class Row:
    """A tree in the list."""

    id: str
    run_id: str
    title: str
    state: str
    turns: int
    nodes: int
    wins: int
    ties: int
    unstable: int
    margin: float | None
    """The smallest of its wins, by the judge that branching follows."""
    edited: bool
    bookmarked: bool
    cause: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """The list as it stands."""

    generation: int = 0
    filter: Filter = field(default_factory=Filter)
    order: str = "place"
    rows: tuple[Row, ...] = ()
    complete: bool = False
    """Whether `rows` is all there is."""
    total: int | None = None
    """None until it is counted."""

    @property
    def wants_more(self) -> bool:
        return not self.complete and len(self.rows) < MOST


@dataclass(frozen=True, slots=True)
class Asked:
    """A person wants other trees, or the same in another order."""

    filter: Filter
    order: str


@dataclass(frozen=True, slots=True)
class Came:
    """A page came: rows from `start` on."""

    generation: int
    start: int
    rows: tuple[Row, ...]
    wanted: int = PAGE


@dataclass(frozen=True, slots=True)
class Counted:
    generation: int
    total: int


Event = Asked | Came | Counted


def reduce(index: Index, event: Event) -> Index:
    """The list after an event."""
    match event:
        case Asked(filter=wanted, order=order):
            return Index(index.generation + 1, wanted, order)
        case Came(generation=generation, start=start, rows=rows, wanted=asked):
            if generation != index.generation or start > len(index.rows):
                return index
            kept = (*index.rows[:start], *rows)[:MOST]
            return replace(index, rows=kept, complete=len(rows) < asked)
        case Counted(generation=generation, total=total):
            return replace(index, total=total) if generation == index.generation else index


def page(store: Store, wanted: Filter, order: str, start: int, limit: int = PAGE) -> tuple[Row, ...]:
    """Trees of a filter in an order, a page of them."""
    before, wins = (_CLOSEST, "LEFT JOIN wins w ON w.tree_id = t.id") if order == "closest" else ("", "")
    sql = (
        f"{before} SELECT t.id, t.run_id, t.title, t.state, t.turns, t.nodes, t.cause "
        f"FROM trees t JOIN runs r ON r.id = t.run_id {wins} "
        f"WHERE {wanted.where} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?"
    )
    found = store.rows(sql, (*wanted.values, limit, start))
    told = _told(store, [row[0] for row in found])
    return tuple(_row(row, told.get(row[0], _NOTHING)) for row in found)


def count(store: Store, wanted: Filter) -> int:
    """How many trees a filter lets through."""
    sql = f"SELECT count(*) FROM trees t WHERE {wanted.where}"
    return int(store.rows(sql, wanted.values)[0][0])


_NOTHING: tuple[object, ...] = (0, 0, 0, None, 0, 0)


def _row(row: Sequence[object], told: Sequence[object]) -> Row:
    tree, run, title, state, turns, nodes, cause = row
    wins, ties, unstable, margin, edited, bookmarked = told
    why = json.loads(str(cause)) if cause else {}
    return Row(
        str(tree),
        str(run),
        unescape(str(title)),
        str(state),
        int(str(turns)),
        int(str(nodes)),
        int(str(wins)),
        int(str(ties)),
        int(str(unstable)),
        float(str(margin)) if margin is not None else None,
        bool(edited),
        bool(bookmarked),
        f"{why.get('kind')}: {why.get('message')}" if why else None,
    )


def _told(store: Store, trees: Sequence[str]) -> dict[str, tuple[object, ...]]:
    """What judges said in these trees and what people did to them, by tree."""
    ids = canonical_json(list(trees))
    # Tree by tree and turn by turn: by way of every reply it takes twice as long.
    verdicts = """
    SELECT t.id, sum(v.outcome = 'win'), sum(v.outcome = 'tie'), sum(v.outcome = 'unstable'),
           min(CASE v.outcome WHEN 'win' THEN v.margin END)
    FROM json_each(?) chosen CROSS JOIN trees t ON t.id = chosen.value JOIN runs r ON r.id = t.run_id
    CROSS JOIN nodes n ON n.tree_id = t.id AND n.speaker = 'user' CROSS JOIN judgements j ON j.node_id = n.id
    CROSS JOIN judges g ON g.id = j.judge_id CROSS JOIN verdicts v ON v.judgement_id = j.id
    WHERE g.name = coalesce(nullif(r.identity ->> '$.play.judge', ''), g.name)
    GROUP BY 1
    """
    done = """
    SELECT tree_id, max(kind IN ('reroll', 'edit', 'extend')), max(kind = 'bookmark') FROM operations
    WHERE tree_id IN (SELECT value FROM json_each(?)) GROUP BY 1
    """
    said = {tree: tuple(counts) for tree, *counts in store.rows(verdicts, (ids,))}
    acts = {tree: (edited, marked) for tree, edited, marked in store.rows(done, (ids,))}
    return {tree: (*said.get(tree, (0, 0, 0, None)), *acts.get(tree, (0, 0))) for tree in trees}
