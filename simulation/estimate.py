"""What a run would take: calls and tokens of each role, as ranges, before any model is asked.

The low end has short answers and nothing asked twice; the high end has the longest answers that the sampling
allows and every re-roll and repeat. Tokens are estimated from characters; a prefix that a backend has cached
is read only once, so the tokens really read lie well below the figure given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from agents.roles import MAX_REASKS, Role
from simulation.cast import Cast
from simulation.config import BranchingConfig, JudgeConfig
from simulation.runs import Persona

CHARACTERS_PER_TOKEN = 4.0
"""Of English text; other scripts take more tokens for the same text."""
SHORT_ANSWER = 12
"""Tokens of the shortest answer worth the name."""
TAIL_TOKENS = 60
"""What the end of a prompt takes beside the transcript: a hint, a question."""
LABEL_TOKENS = 1

Range = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One role."""

    role: str
    calls: Range
    tokens_in: Range
    tokens_out: Range

    def as_dict(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "calls": list(self.calls),
            "tokens_in": list(self.tokens_in),
            "tokens_out": list(self.tokens_out),
        }


@dataclass(frozen=True)
class Estimate:
    """A whole run."""

    rows: tuple[Row, ...]
    """One a role, then `all`."""
    branching: str
    """What branching does, in words."""
    turns: Range
    """Turns played in all trees."""

    def as_dict(self) -> dict[str, Any]:
        return {"turns": list(self.turns), "roles": [row.as_dict() for row in self.rows]}


def estimate(cast: Cast, personas: Sequence[Persona]) -> Estimate:
    """The work of a run of this cast over these personas."""
    config, trees = cast.config, len(personas)
    replies = sum(role.samples for name, role in cast.roles.items() if name.startswith("responder."))
    ends = (levels(config.branching, config.turns, 1), levels(config.branching, config.turns, replies))
    head = _head(cast, personas)
    rows = [
        _row(
            name,
            role,
            cast,
            replies,
            (_Side(ends[0], trees, head, low=True), _Side(ends[1], trees, head, low=False)),
        )
        for name, role in cast.roles.items()
        if _asks(cast, name)
    ]
    played: Range = (trees * sum(ends[0]), trees * sum(ends[1]))
    return Estimate((*rows, _total(rows)), branching_in_words(config.branching, replies), played)


SIDE_BY_SIDE = 4
"""How many times as many tokens a model writes when many answers are written at once, at most."""
READING = 3
"""How many times as fast prompts are read as one answer is written, at least."""


def seconds_by_rate(total: Row, tokens_per_s: float) -> tuple[float, float]:
    """Seconds of so much work by a model that writes one answer at this rate.

    From everything shared and written side by side to nothing shared and one answer after the other.
    """
    low = total.tokens_out[0] / (SIDE_BY_SIDE * tokens_per_s)
    return low, total.tokens_out[1] / tokens_per_s + total.tokens_in[1] / (READING * tokens_per_s)


def seconds_by_tree(seconds: float, trees: int) -> tuple[float, float]:
    """Seconds of so many trees where one alone took this long: alone it leaves a model room for others beside it."""
    return max(seconds, seconds * trees / SIDE_BY_SIDE), seconds * trees


def levels(branching: BranchingConfig, turns: int, replies: int) -> list[int]:
    """How many turns of each depth one tree has when every turn has this many different replies."""
    counts, ends = [], 1
    for turn in range(1, turns + 1):
        counts.append(ends)
        if branching.policy == "all" and turn <= branching.depth:
            ends *= replies
        if branching.policy == "beam":
            ends = min(branching.width, ends * replies)
    return counts


def branching_in_words(branching: BranchingConfig, replies: int) -> str:
    """What the branching policy does, for a person."""
    match branching.policy:
        case "winner":
            return f"each turn goes on from the winner of {replies} replies, or from one drawn if there is none"
        case "random":
            return (
                f"each turn goes on from one of {replies} replies, drawn with the seed; "
                f"the winner is {branching.winner_weight:g} times as likely as another"
            )
        case "weighted":
            return f"each turn goes on from one of {replies} replies, drawn with the seed by score"
        case "all":
            return f"down to turn {branching.depth} each of {replies} replies goes on, after it the winner alone"
        case "beam":
            return f"of each level the {branching.width} best replies by score go on"


@dataclass(frozen=True)
class _Side:
    """One end of the ranges: how many turns of each depth, and how long everything is."""

    levels: Sequence[int]
    trees: int
    head: Callable[[str], int]
    low: bool

    def answer(self, role: Role) -> int:
        longest = role.sampling.max_tokens
        return min(SHORT_ANSWER, longest) if self.low else longest

    def repeats(self, most: int) -> int:
        return 1 if self.low else 1 + most

    def turns(self) -> int:
        return self.trees * sum(self.levels)

    def transcript(self, cast: Cast) -> int:
        """Tokens of the transcripts at all turns together, the user's last message included."""
        user = self.answer(cast.roles["user"])
        responders = [role for name, role in cast.roles.items() if name.startswith("responder.")]
        reply = round(sum(self.answer(role) for role in responders) / len(responders))
        return self.trees * sum(n * (depth * (user + reply) + user) for depth, n in enumerate(self.levels))


def _row(name: str, role: Role, cast: Cast, replies: int, sides: tuple[_Side, _Side]) -> Row:
    measured = [_measure(name, role, cast, replies, side) for side in sides]
    low, high = measured
    return Row(name, (low[0], high[0]), (low[1], high[1]), (low[2], high[2]))


def _measure(name: str, role: Role, cast: Cast, replies: int, side: _Side) -> tuple[int, int, int]:
    """Calls, tokens read and tokens written of one role at one end of the range."""
    per_turn, written, shown = _asked(name, role, cast, replies, side)
    calls = side.turns() * per_turn
    fixed = side.head(name) + TAIL_TOKENS + shown
    return calls, calls * fixed + side.transcript(cast) * per_turn, calls * written


def _asked(name: str, role: Role, cast: Cast, replies: int, side: _Side) -> tuple[int, int, int]:
    """Of one turn: calls, tokens written by one of them, and tokens of replies that one of them is shown."""
    answer = side.answer(role)
    if name == "user":
        return side.repeats(cast.config.user.rerolls), answer, 0
    if name == "inducer":
        return side.repeats(MAX_REASKS), answer, 0
    if name.startswith("responder."):
        return side.repeats(MAX_REASKS), answer * role.samples, 0
    judge = cast.config.judges[name.removeprefix("judge.")]
    shown = sum(side.answer(r) * r.samples for n, r in cast.roles.items() if n.startswith("responder."))
    return _judged(judge, replies, side, answer, shown)


def _judged(judge: JudgeConfig, replies: int, side: _Side, answer: int, shown: int) -> tuple[int, int, int]:
    if judge.kind == "likelihood":
        return 2, 0, shown
    if judge.kind == "reward":
        return 1, 0, shown
    if judge.kind == "choice":
        orders = 1 if judge.hinted_first else replies
        return orders * side.repeats(MAX_REASKS), LABEL_TOKENS, shown
    if judge.kind in ("rating", "points"):
        return replies, LABEL_TOKENS, round(shown / max(replies, 1))
    return 2 * comb(replies, 2) * side.repeats(MAX_REASKS), answer, round(2 * shown / max(replies, 1))


def _asks(cast: Cast, name: str) -> bool:
    return not name.startswith("judge.") or name in cast.prompts


def _head(cast: Cast, personas: Sequence[Persona]) -> Callable[[str], int]:
    """Tokens at the beginning of a role's prompts, with a persona of average length where it is shown one."""
    average = sum(len(p.text) + len(q.text) for p, q in personas) / max(len(personas), 1)

    def head(name: str) -> int:
        prompt = cast.prompts[name]
        bare = len(prompt.render("head", profile="", personality=""))
        told = cast.roles[name].settings.get("told")
        blind = (name.startswith("responder.") and not told) or (
            name == "inducer" and not cast.config.inducer.sees_persona
        )
        return round((bare + (0 if blind else average)) / CHARACTERS_PER_TOKEN)

    return head


def _total(rows: Sequence[Row]) -> Row:
    def both(field: str) -> Range:
        return sum(getattr(row, field)[0] for row in rows), sum(getattr(row, field)[1] for row in rows)

    return Row("all", both("calls"), both("tokens_in"), both("tokens_out"))
