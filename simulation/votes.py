"""A person as judge: which turns are still owed a vote, in which order replies are shown, and a vote as a judgement.

A person is a judge of kind `human`, known by name alone: `human`, or `human.NAME` where several judge. They are shown
the replies of a turn under letters, in an order drawn from the turn, and pick one, or say that all are even, or that
all are bad. A pick is a win against each other reply and is silent among those, as a listwise judge's is.

Invariant: a vote is an operation, a judgement with the order shown and its verdicts, kept together; a later vote on
the same turn stays beside the earlier one and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_uppercase
from typing import Literal

from agents.judges.points import FIGURES
from agents.judges.verdicts import judgement_id
from trees.errors import EspalierError
from trees.ids import digest_of
from trees.jobs import whoami
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Judgement, Node, Presentation, Score, Verdict
from trees.writes import in_one, keep_judge, keep_judgement, keep_operation

KIND = "human"
LETTERS = ascii_uppercase
Even = Literal["tie", "both_bad"]


class CannotVote(EspalierError):
    """The vote does not fit the turn."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who judges, by name."""

    name: str = KIND

    @property
    def spec(self) -> dict[str, object]:
        return {"kind": KIND, "model": None, "prompt": "", "sampling": None, "settings": {"name": self.name}}

    @property
    def id(self) -> str:
        return digest_of("judge", self.spec)


def is_person(judge: str) -> bool:
    """Whether this is a name of a person who judges."""
    return judge == KIND or (judge.startswith(f"{KIND}.") and len(judge) > len(KIND) + 1)


def shown_order(user: Node, replies: Sequence[Node]) -> list[Node]:
    """The replies of a turn as they are shown: shuffled, by a digest of the turn and each reply.

    It is the same at every showing, and tells nothing of responders, hints or judges.
    """
    return sorted(replies, key=lambda reply: digest_of("shown", user.id, reply.id))


def votable(replies: Sequence[Node]) -> bool:
    """Whether there is anything to compare: two replies at least, and a letter for each."""
    return 2 <= len(replies) <= len(LETTERS)


def owed(tree: ConversationTree, person: Person) -> list[tuple[Node, list[Node]]]:
    """Turns that this person has not voted on, in the order of the conversation; a new reply makes one owed again."""
    return [
        (user, replies)
        for user, replies in tree.turns()
        if votable(replies) and tree.judgement_of(user.id, person.id, *(reply.id for reply in replies)) is None
    ]


def vote_of(judgement: Judgement) -> str:
    """What a person said: the id of the reply picked, `tie` or `both_bad`."""
    first = judgement.verdicts[0]
    label = judgement.presentations[0].label or first.outcome
    return judgement.presentations[0].order[LETTERS.index(label)] if label in LETTERS else label


def judged(person: Person, user: Node, replies: Sequence[Node], said: str, repeat: int = 0) -> Judgement:
    """The judgement of a vote: the letter of a reply as it was shown, `tie` or `both_bad`. Raises CannotVote."""
    if not votable(replies):
        raise CannotVote(f"turn {user.turn} has {len(replies)} replies", hint="A vote compares two replies or more.")
    order = shown_order(user, replies)
    ids = tuple(reply.id for reply in order)
    shown = Presentation(ids, None, said, label=said)
    verdicts = _verdicts(order, said)
    return Judgement(
        judgement_id(user.id, person.id, repeat), user.id, person.id, repeat, ids, (shown,), verdicts=verdicts
    )


def _verdicts(order: Sequence[Node], said: str) -> tuple[Verdict, ...]:
    letters = LETTERS[: len(order)]
    if said in ("tie", "both_bad"):
        outcome: Even = "tie" if said == "tie" else "both_bad"
        return tuple(Verdict(a.id, b.id, outcome) for a, b in combinations(order, 2))
    if len(said) != 1 or said not in letters:
        raise CannotVote(f"{said!r} is no reply of this turn", hint=f"Its replies: {', '.join(letters)}.")
    picked = order[letters.index(said)]
    others = [reply for reply in order if reply.id != picked.id]
    # A reply cannot be better than one that says the same, whichever letter a person chose.
    return tuple(Verdict(picked.id, reply.id, "win" if reply.digest != picked.digest else "tie") for reply in others)


def points(person: Person, user: Node, reply: Node, said: str, repeat: int = 0) -> Judgement:
    """The judgement of a reply that was given points: a figure from 1 to 5. Raises CannotVote."""
    if said not in FIGURES:
        raise CannotVote(f"{said!r} is no number of points", hint=f"Points are {FIGURES[0]} to {FIGURES[-1]}.")
    shown = Presentation((reply.id,), None, said, label=said)
    score = Score(reply.id, "points", float(said))
    made = judgement_id(user.id, person.id, repeat)
    return Judgement(made, user.id, person.id, repeat, (reply.id,), (shown,), (score,))


def unrated(tree: ConversationTree, person: Person, *, again: bool = False) -> list[tuple[Node, Node]]:
    """Messages with the reply to each that this person has given no points (`again`: all that there are), in order."""
    return [
        (user, reply)
        for user, replies in tree.turns()
        for reply in replies
        if reply.operation_id is None and (again or tree.judgement_of(user.id, person.id, reply.id) is None)
    ]


def keep_points(store: Store, run_id: str, person: Person, user: Node, reply: Node, said: str) -> Judgement:
    """Keep the points of a reply in one transaction; returns their judgement. Raises CannotVote or StoreError."""
    return _keep(store, run_id, person, user, said, lambda repeat: points(person, user, reply, said, repeat))


def keep_vote(store: Store, run_id: str, person: Person, user: Node, replies: Sequence[Node], said: str) -> Judgement:
    """Keep a vote in one transaction; returns its judgement. Raises CannotVote or StoreError."""
    return _keep(store, run_id, person, user, said, lambda repeat: judged(person, user, replies, said, repeat))


def _keep(
    store: Store, run_id: str, person: Person, user: Node, said: str, make: Callable[[int], Judgement]
) -> Judgement:
    """Keep what a person said of a turn, which `make` makes a judgement of, given how often they did before."""
    with store.transaction():
        repeats = "SELECT count(*) FROM judgements WHERE node_id = ? AND judge_id = ?"
        made = make(int(store.rows(repeats, (user.id, person.id))[0][0]))
        numbers = "SELECT count(*) FROM operations WHERE node_id = ? AND kind = 'vote'"
        number = int(store.rows(numbers, (user.id,))[0][0]) + 1
        args = {"judge": person.name, "judgement": made.id, "said": said}
        _, operation = keep_operation(run_id, user.tree_id, user.id, "vote", number, args, whoami())
        writes = in_one([keep_judge(person.id, person.name, KIND, person.spec), operation, keep_judgement(made)])
        for statement, values in writes:
            store.connection.execute(statement, values)
    return made
