"""What replies know of a person: facts nobody has mentioned (a leak), and facts mentioned earlier (uptake).

Both are read off words: stems of content words that a reply shares with a fact. A leak is a reply with at least two
stems of one profile fact that stand nowhere in the conversation before it: it should be rare in a model that was told
nothing, and a high share says that the persona reached the model by another way. Uptake is a reply that shares a stem
with what the ledger noted before this turn and that the last message does not contain: the model came back to it.

A leak may be a guess: replies speak of what lives have in common. How many leaks are chance is measured on the replies
themselves: of each, the share of the *other* profiles of the benchmark that it would leak a fact of. Nobody told it of
those, so what it uses of its own person's facts beyond that, with an interval for new people, is no guess.

Cannot tell: a fact taken up in other words from one ignored. The expected rate is a little high late in a conversation,
when facts of the own person have been mentioned and can be leaked no more, and a little low where what was said of them
makes the rest likelier.
Invariant: a rate keeps its two counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.words import content_stems
from simulation.metrics import Array, Estimate, Table, estimate, mean_level, values_of
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
    expected: tuple[float | None, ...]
    """Share of these replies that use a fact of somebody else, in the mean over all others; None with nobody else."""
    above_chance: Estimate
    """Leaks less what is expected, in the mean over turns, with its interval for new people."""
    uptake: tuple[Rate, ...]
    """Replies that come back to an earlier fact, of those before which one was noted."""


def read_run(store: Store, run_id: str, turns: int) -> Reading:
    """What the replies of a run know."""
    people = [(row, row.profile_id, row.personality_id) for row in store.trees(run_id) if row.profile_id is not None]
    facts = {profile: store.profile(profile).facts for _, profile, _ in people if profile is not None}
    replies, leaked, chance = (np.zeros((len(people), turns)) for _ in range(3))
    uptake = [[0, 0] for _ in range(turns)]
    for case, (row, profile, _) in enumerate(people):
        for turn, leaks_of, took_up in _replies(store.tree(row.id), facts):
            others = [leaks for other, leaks in leaks_of.items() if other != profile]
            replies[case, turn - 1] += 1
            leaked[case, turn - 1] += leaks_of[profile or ""]
            chance[case, turn - 1] += sum(others) / len(others) if others else math.nan
            if took_up is not None:
                _count(uptake[turn - 1], took_up)
    return Reading(
        tuple(Rate(int(count), int(of)) for count, of in zip(leaked.sum(0), replies.sum(0), strict=True)),
        values_of(_ratio(chance.sum(0), replies.sum(0))),
        estimate(
            Table(
                _ratio(leaked - chance, replies),
                tuple(str(profile) for _, profile, _ in people),
                tuple(str(personality) for _, _, personality in people),
            ),
            mean_level,
        ),
        tuple(Rate(*pair) for pair in uptake),
    )


def _ratio(counts: Array, of: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Array = counts / np.where(of > 0, of, np.nan)
    return shares


def leaks_fact(reply: str, before: Sequence[str], facts: Sequence[str]) -> bool:
    """Whether a reply uses a fact that nothing said before it contains."""
    return _holds(_fresh(reply, before), facts)


def _fresh(reply: str, before: Sequence[str]) -> frozenset[str]:
    """Stems that a reply brings in."""
    return content_stems(reply) - frozenset().union(*(content_stems(text) for text in before))


def _holds(fresh: frozenset[str], facts: Sequence[str]) -> bool:
    return any(len(content_stems(fact) & fresh) >= LEAKED_STEMS for fact in facts)


def takes_up(reply: str, last: str, noted: Sequence[str]) -> bool:
    """Whether a reply comes back to something noted earlier that the last message does not contain."""
    remembered = frozenset().union(*(content_stems(fact) for fact in noted))
    return bool(content_stems(reply) & (remembered - content_stems(last)))


def _replies(
    tree: ConversationTree, facts: Mapping[str, Sequence[str]]
) -> list[tuple[int, dict[str, bool], bool | None]]:
    """Of each reply: its turn, whose facts (by profile) it leaks, and whether it takes up; None with nothing noted."""
    found: list[tuple[int, dict[str, bool], bool | None]] = []
    for user, replies in tree.turns():
        path = tree.path(user.id)
        above = path[-2] if len(path) > 1 else None
        noted = tree.revealed(above.id) if above is not None else []
        before = [node.text for node in path]
        for reply in replies:
            if reply.operation_id is None:
                took_up = takes_up(reply.text, user.text, noted) if noted else None
                fresh = _fresh(reply.text, before)
                found.append((reply.turn, {who: _holds(fresh, known) for who, known in facts.items()}, took_up))
    return found


def _count(pair: list[int], happened: bool) -> None:
    pair[0] += happened
    pair[1] += 1
