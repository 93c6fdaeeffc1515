"""Judging blind in the app: the outline and the replies of a tree without who wrote them or what anybody said of them.

Replies stand under letters, in an order drawn from the turn (`simulation.votes`), the same that the terminal shows.

Invariant: what is made here names no responder, model, hint, score, judge or continuation.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulation.votes import LETTERS, Person, shown_order, votable, vote_of
from trees.statistics import agreement
from trees.store import Store
from trees.values import Node
from tui.app.content import Cell, flat
from tui.app.opened import PREVIEW, Opened, OutlineRow
from tui.facts import agreement_facts
from tui.statusview import agreement_in_words

KEYS = "ABCD"
"""Letters that have a key of their own; turns with more replies are voted on at a terminal."""


def turns(opened: Opened, *, everything: bool) -> list[tuple[Node, list[Node]]]:
    """The turns that are shown, in the order of the conversation."""
    if everything:
        return opened.tree.turns()
    played = [node for node in opened.tree.continued_path() if node.speaker == "user"] or opened.tree.roots()[:1]
    return [(user, opened.tree.children(user.id)) for user in played]


def outline(opened: Opened, person: Person, *, everything: bool) -> list[OutlineRow]:
    """The tree as rows: each turn with its replies under letters, and what this person said."""
    rows = []
    for user, replies in turns(opened, everything=everything):
        said = said_of(opened, person, user, replies)
        head: list[Cell] = [(f"{user.turn} ", "user")]
        if said in ("tie", "both_bad"):
            head.append((f"{said.replace('_', ' ')}  ", "accent"))
        rows.append(OutlineRow(user.id, (*head, flat(user.text, PREVIEW))))
        for letter, reply in lettered(user, replies):
            mark = ("> " if said == reply.id else "  ", "accent")
            rows.append(OutlineRow(reply.id, (("   ", ""), mark, (f"{letter}  ", "bold"), flat(reply.text, PREVIEW))))
    return rows


def lettered(user: Node, replies: Sequence[Node]) -> list[tuple[str, Node]]:
    """The replies of a turn in the order shown, each with its letter."""
    return list(zip(LETTERS, shown_order(user, replies), strict=False))


def said_of(opened: Opened, person: Person, user: Node, replies: Sequence[Node]) -> str | None:
    """What this person said of a turn: the id of a reply, `tie` or `both_bad`; None if nothing yet."""
    made = opened.tree.judgement_of(user.id, person.id, *(reply.id for reply in replies)) if votable(replies) else None
    return None if made is None else vote_of(made)


def next_owed(opened: Opened, person: Person, after: Node, *, everything: bool) -> Node | None:
    """The next turn that this person has not voted on, round to the beginning again; None if all are."""
    found = [
        (user, replies)
        for user, replies in turns(opened, everything=everything)
        if votable(replies) and user.id != after.id and said_of(opened, person, user, replies) is None
    ]
    return next((user for user, _ in found if user.turn > after.turn), next((user for user, _ in found), None))


def agreed(store: Store, opened: Opened, person: Person) -> str:
    """How far the judge that branching follows agrees with this person, over the tree's whole run."""
    if opened.judge is None or opened.judge == person.id:
        return "no judge has judged this run: there is nothing to agree with"
    found = agreement_facts(agreement(store, opened.row.run_id, opened.judge, person.id))
    return f"{opened.judges[opened.judge]} agrees with you {agreement_in_words(found)}"


def votable_here(replies: Sequence[Node]) -> bool:
    """Whether each reply of a turn has a key, and there is anything to compare."""
    return votable(replies) and len(replies) <= len(KEYS)


def asked(opened: Opened, person: Person, user: Node, replies: Sequence[Node]) -> str:
    """What may be said of a turn, and what was."""
    if not votable(replies):
        return "there is nothing to compare in this turn"
    if len(replies) > len(KEYS):
        return (
            f"{len(replies)} replies: vote at a terminal, espalier judge {opened.row.run_id[:8]} --judge {person.name}"
        )
    said = said_of(opened, person, user, replies)
    name = next((letter for letter, reply in lettered(user, replies) if reply.id == said), said)
    told = f"; you said {name.replace('_', ' ')}" if name is not None else ""
    return f"{KEYS[0]}-{KEYS[len(replies) - 1]} the better one for this person, = even, 0 all bad{told}"
