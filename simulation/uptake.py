"""What replies know of a person: facts nobody has mentioned (a leak), and facts mentioned earlier (uptake).

Both are read off words: stems of content words that a reply shares with a fact. A leak is a reply with at least two
stems of one profile fact that stand nowhere in the conversation before it: it should be rare in a model that was told
nothing, and a high share says that the persona reached the model by another way. Uptake is a reply that shares a stem
with what the ledger noted before this turn and that the last message does not contain: the model came back to it.

Cannot tell: a lucky guess from a leak, nor a fact taken up in other words from one ignored; compare with the floor.
Invariant: a rate keeps its two counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.words import content_stems
from trees.statistics import Rate
from trees.store import Store
from trees.tree import ConversationTree

LEAKED_STEMS = 2
"""Fresh stems of one fact that make a leak; a single one is often chance."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one run, by turn from 1."""

    leaks: tuple[Rate, ...]
    """Replies that use an unmentioned fact, of all replies."""
    uptake: tuple[Rate, ...]
    """Replies that come back to an earlier fact, of those before which one was noted."""


def read_run(store: Store, run_id: str, turns: int) -> Reading:
    """What the replies of a run know."""
    leaks = [[0, 0] for _ in range(turns)]
    uptake = [[0, 0] for _ in range(turns)]
    for row in store.trees(run_id):
        if row.profile_id is None:
            continue
        facts = store.profile(row.profile_id).facts
        for turn, leaked, took_up in _replies(store.tree(row.id), facts):
            _count(leaks[turn - 1], leaked)
            if took_up is not None:
                _count(uptake[turn - 1], took_up)
    return Reading(tuple(Rate(*pair) for pair in leaks), tuple(Rate(*pair) for pair in uptake))


def leaks_fact(reply: str, before: Sequence[str], facts: Sequence[str]) -> bool:
    """Whether a reply uses a fact that nothing said before it contains."""
    said = frozenset().union(*(content_stems(text) for text in before))
    fresh = content_stems(reply) - said
    return any(len(content_stems(fact) & fresh) >= LEAKED_STEMS for fact in facts)


def takes_up(reply: str, last: str, noted: Sequence[str]) -> bool:
    """Whether a reply comes back to something noted earlier that the last message does not contain."""
    remembered = frozenset().union(*(content_stems(fact) for fact in noted))
    return bool(content_stems(reply) & (remembered - content_stems(last)))


def _replies(tree: ConversationTree, facts: Sequence[str]) -> list[tuple[int, bool, bool | None]]:
    """Of each reply: its turn, whether it leaks, and whether it takes up; None where nothing was noted yet."""
    found: list[tuple[int, bool, bool | None]] = []
    for user, replies in tree.turns():
        path = tree.path(user.id)
        above = path[-2] if len(path) > 1 else None
        noted = tree.revealed(above.id) if above is not None else []
        before = [node.text for node in path]
        for reply in replies:
            if reply.operation_id is None:
                took_up = takes_up(reply.text, user.text, noted) if noted else None
                found.append((reply.turn, leaks_fact(reply.text, before, facts), took_up))
    return found


def _count(pair: list[int], happened: bool) -> None:
    pair[0] += happened
    pair[1] += 1
