"""The branching policy: which replies of a level the conversation goes on from, and the reason that is stored.

A level is all turns of one depth that are played together. Every decision is a function of what is stored and of the
run's seed, so a resumed run decides the same.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from simulation.config import BranchingConfig
from trees.ids import derive_seed
from trees.values import Continued, Judgement, Node, Turn, winner


def choose(policy: BranchingConfig, level: Sequence[tuple[Turn, Judgement | None]], run_seed: int) -> list[Continued]:
    """The replies that go on, for a level of turns with the deciding judge's judgement of each."""
    if policy.policy == "beam":
        return _beam(policy.width, level)
    return [mark for turn, judgement in level for mark in _choose_one(policy, turn, judgement, run_seed)]


def _choose_one(policy: BranchingConfig, turn: Turn, judgement: Judgement | None, run_seed: int) -> list[Continued]:
    replies = _distinct(turn.replies)
    if not replies:
        return []
    if policy.policy == "all" and turn.user.turn <= policy.depth:
        return [Continued(reply.id, "all", f"every reply, down to turn {policy.depth}") for reply in replies]
    best = winner(judgement) if judgement is not None else None
    draw = random.Random(derive_seed(run_seed, turn.user.id, "branching", policy.policy))
    if policy.policy in ("winner", "all") and best is not None:
        return [Continued(best, policy.policy, "the winner")]
    if policy.policy == "weighted" and judgement is not None and judgement.scores:
        return [_weighted(replies, judgement, draw)]
    if policy.policy == "random" and best is not None:
        weights = [policy.winner_weight if reply.id == best else 1.0 for reply in replies]
        drawn = draw.choices(replies, weights)[0]
        reason = f"drawn, the winner {policy.winner_weight:g} times as likely"
        return [Continued(drawn.id, "random", reason)]
    drawn = draw.choice(replies)
    return [Continued(drawn.id, policy.policy, f"no winner: drawn among {len(replies)}")]


def _weighted(replies: Sequence[Node], judgement: Judgement, draw: random.Random) -> Continued:
    """A draw in proportion to the scores: probabilities as they are, nats and points by their exponential."""
    values = {s.node_id: s.value if s.unit == "probability" else math.exp(s.value) for s in judgement.scores}
    weights = [values.get(reply.id, 0.0) for reply in replies]
    if not any(weights):
        return Continued(draw.choice(replies).id, "weighted", "all scores are zero: drawn evenly")
    drawn = draw.choices(replies, weights)[0]
    return Continued(
        drawn.id, "weighted", f"drawn by score, {values.get(drawn.id, 0.0) / sum(weights):.2f} of the weight"
    )


def _beam(width: int, level: Sequence[tuple[Turn, Judgement | None]]) -> list[Continued]:
    scored = [
        (score.value, reply)
        for turn, judgement in level
        if judgement is not None
        for reply in _distinct(turn.replies)
        for score in judgement.scores
        if score.node_id == reply.id
    ]
    # Ties in score are broken by id, never by the order of arrival.
    best = sorted(scored, key=lambda pair: (-pair[0], pair[1].id))[:width]
    if best:
        return [Continued(node.id, "beam", f"rank {rank} of {len(scored)}") for rank, (_, node) in enumerate(best, 1)]
    unscored = [reply for turn, _ in level for reply in _distinct(turn.replies)]
    return [Continued(node.id, "beam", "no scores: the first") for node in unscored[:width]]


def _distinct(replies: Sequence[Node]) -> list[Node]:
    """One reply of each text: going on twice from the same words would play the same conversation twice."""
    return list({reply.digest: reply for reply in reversed(replies)}.values())[::-1]
