"""The lookahead judge: the worth of a reply is what a conversation came to after it, read off the stored tree.

It asks no model. Another judge, the scorer, has given replies their scores; the worth of a reply is the weighted mean
of the scores of the replies that grew under it, turn by turn down to a depth. So it tells apart two replies that look
alike in their own turn and lead to different conversations (the multi-turn reward of CollabLLM, arXiv 2502.00640,
section 2, over branches that were really played in place of sampled futures).

Invariant: siblings are compared over the same number of turns, and a reply of which nothing grew has no worth: every
pair with it is an abstention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from agents.judges.verdicts import JudgeSpec, by_scores, judgement_id
from agents.messages import Candidate
from trees.ids import canonical_json
from trees.tree import ConversationTree
from trees.values import Judgement, Node, Presentation, Score, Unit, Verdict

NOTHING_GREW = "nothing was scored under two of these replies: only one of them, or none, went on"


@dataclass(frozen=True, slots=True)
class Ahead:
    """How a lookahead judge looks."""

    scorer_id: str
    """Id of the judge whose scores count."""
    depth: int
    """Turns below the reply, at most."""
    discount: float
    """What a turn counts less than the one before it: 1 is all alike."""


def ahead_of(spec: JudgeSpec) -> Ahead:
    """What a specification of kind `lookahead` says."""
    return Ahead(str(spec.settings["of"]), int(spec.number("depth", 1)), spec.number("discount", 1.0))


def levels_below(tree: ConversationTree, reply: Node, ahead: Ahead) -> tuple[list[float], Unit | None]:
    """Mean score at each turn below a reply, from the next one on, and the scores' unit.

    A turn counts once however many replies it has; the list ends before the first depth without a score.
    """
    levels: list[float] = []
    unit: Unit | None = None
    replies = [reply]
    while len(levels) < ahead.depth:
        users = [user for each in replies for user in tree.children(each.id)]
        scored = [scores for user in users if (scores := _scores(tree, user, ahead.scorer_id))]
        if not scored:
            break
        unit = unit or scored[0][0].unit
        levels.append(fmean(fmean(score.value for score in scores) for scores in scored))
        replies = [reply for user in users for reply in tree.children(user.id)]
    return levels, unit


def worth(levels: Sequence[float], discount: float) -> float:
    """The discounted mean of the levels: sum of d^i L_i over sum of d^i, with i = 0 for the next turn."""
    weights = [discount**i for i in range(len(levels))]
    return sum(weight * level for weight, level in zip(weights, levels, strict=True)) / sum(weights)


def look_ahead(tree: ConversationTree, user: Node, spec: JudgeSpec, repeat: int) -> Judgement:
    """The judgement over a user's turn. Incomplete, with its cause, if not two of its replies can be compared."""
    ahead, replies = ahead_of(spec), tree.children(user.id)
    found = {reply.id: levels_below(tree, reply, ahead) for reply in replies}
    seen = {node: levels for node, (levels, _) in found.items() if levels}
    common = min((len(levels) for levels in seen.values()), default=0)
    worths = {node: worth(levels[:common], ahead.discount) for node, levels in seen.items()}
    unit = next((unit for _, unit in found.values() if unit is not None), None)
    compared = [
        Candidate(node_id=reply.id, text=reply.text, hinted=reply.hinted) for reply in replies if reply.id in worths
    ]
    verdicts = by_scores(compared, worths, spec.number("threshold", 0), unit) if unit else ()
    covers = tuple(reply.id for reply in replies)
    raw = canonical_json({"turns": common, "levels": seen})
    return Judgement(
        judgement_id(user.id, spec.id, repeat),
        user.id,
        spec.id,
        repeat,
        covers,
        (Presentation(covers, None, raw, {}, "looked ahead"),),
        tuple(Score(node, unit, value) for node, value in worths.items()) if unit else (),
        (*verdicts, *(Verdict(a, b, "abstain") for a, b in combinations(covers, 2) if not {a, b} <= set(worths))),
        complete=len(worths) > 1,
        cause=None if len(worths) > 1 else NOTHING_GREW,
    )


def changes(new: Judgement, before: Judgement | None) -> bool:
    """Whether a judgement says anything that the one before it did not: the same tree gives the same again."""
    if before is None:
        return True
    # The store keeps neither scores nor verdicts in an order.
    return (new.covers, new.cause, set(new.scores), set(new.verdicts)) != (
        before.covers,
        before.cause,
        set(before.scores),
        set(before.verdicts),
    )


def _scores(tree: ConversationTree, user: Node, scorer_id: str) -> list[Score]:
    """The scorer's current score of each reply under a user's message that has one."""
    found = []
    for reply in tree.children(user.id):
        judgement = tree.judgement_of(user.id, scorer_id, reply.id)
        found += [score for score in (judgement.scores if judgement else ()) if score.node_id == reply.id]
    return found
