"""The terminal's side of a person who judges: shows replies under letters, reads a vote, keeps it.

Nothing that is shown tells who wrote a reply, what was hinted, what a judge said or which reply the conversation went
on from; what was said before the turn is told, and who the simulated person is. It reads whole lines and moves no
cursor, so it serves dumb terminals, screen readers and pipes.

Invariant: a vote is on disk before the next turn is shown; whoever leaves, however, loses no vote.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simulation.votes import LETTERS, Person, keep_vote, owed, shown_order, votable
from trees.store import Store, TreeRow
from trees.tree import ConversationTree
from trees.values import Node
from tui.console import console, say, say_lines
from tui.draw import Line, Span, wrapped
from tui.picture import halves

HELP = "a letter picks the better reply, = they are even, b all are bad, s skips the turn, q leaves"
EVEN = {"=": "tie", "b": "both_bad"}
"""What is not a letter of a reply. Small `b` is no reply: letters are capitals."""


@dataclass
class Tally:
    """What came of a session."""

    run: str
    judge: str
    voted: int = 0
    skipped: int = 0
    left: int = 0
    """Turns of the run that this person has not voted on."""


class Sitting:
    """A person at the terminal, to whom conversations are shown and who is asked about them."""

    def __init__(self, store: Store, person: Person, tally: Tally, *, stderr: bool = False) -> None:
        self._store = store
        self._person = person
        self._stderr = stderr
        self._shown: set[str] = set()
        """Messages that stand on the terminal already."""
        self.tally = tally

    def say(self, lines: Iterable[Line]) -> None:
        say_lines(lines, stderr=self._stderr)

    def tell(self, text: str) -> None:
        say(text, stderr=self._stderr)

    def read(self, prompt: str) -> str:
        """A line. Raises Leave for `q`, and EOFError or KeyboardInterrupt for whoever leaves otherwise."""
        print(prompt, end="", file=sys.stderr if self._stderr else sys.stdout, flush=True)
        word = input().strip()
        if word == "q":
            raise Leave
        return word

    def heading(self, title: str, row: TreeRow) -> Iterator[Line]:
        """Whose conversation comes now."""
        yield ()
        yield (Span(title, "bold"),)
        for name, text in halves(self._store, row):
            yield from self.block(f"{name:<12} ", "bold", text)

    def before(self, tree: ConversationTree, user: Node) -> Iterator[Line]:
        """What was said up to a message, without what stands on the terminal already."""
        yield ()
        for node in tree.path(user.id):
            if node.id not in self._shown:
                self._shown.add(node.id)
                yield from self.block("user         " if node.speaker == "user" else "reply        ", "dim", node.text)

    def block(self, name: str, style: str, text: str) -> Iterator[Line]:
        """A text under a name, wrapped."""
        width = min(console(stderr=self._stderr).width, 100)
        first, *rest = wrapped(text, max(width - len(name), 20))
        yield (Span(name, style), Span(first))
        for line in rest:
            yield (Span(" " * len(name)), Span(line))

    def has_shown(self, node: Node) -> None:
        self._shown.add(node.id)


class Ballots(Sitting):
    """Votes on the turns of a run."""

    def __init__(self, store: Store, run_id: str, person: Person, *, again: bool = False, stderr: bool = False) -> None:
        super().__init__(store, person, Tally(run_id, person.name), stderr=stderr)
        self._again = again

    def run(self) -> Tally:
        """Ask turn after turn until all are voted on, or the person leaves."""
        tally = self.tally
        tally.left = turns_owed(self._store, tally.run, self._person)
        self.tell(f"{tally.left} turns wait for a vote of {tally.judge!r}; {HELP}")
        with contextlib.suppress(EOFError, KeyboardInterrupt, Leave):
            for row in self._store.trees(tally.run):
                self._tree(row)
        tally.left = turns_owed(self._store, tally.run, self._person)
        return tally

    def _tree(self, row: TreeRow) -> None:
        tree = self._store.tree(row.id)
        turns = [turn for turn in tree.turns() if votable(turn[1])] if self._again else owed(tree, self._person)
        for number, (user, replies) in enumerate(turns):
            if number == 0:
                self.say(self.heading(f"tree {row.id[:8]}", row))
            self.say(self._turn(tree, user, replies))
            self._ask(user, replies)

    def _ask(self, user: Node, replies: list[Node]) -> None:
        letters = LETTERS[: len(replies)]
        while True:
            word = self.read(f"{letters[0]}-{letters[-1]} = b s q> ")
            if word == "s":
                self.tally.skipped += 1
                return
            said = EVEN.get(word, word)
            if word in EVEN or (len(word) == 1 and word in letters):
                keep_vote(self._store, self.tally.run, self._person, user, replies, said)
                self.tally.voted += 1
                return
            self.tell(f"{word!r} is no vote: {HELP}")

    def _turn(self, tree: ConversationTree, user: Node, replies: list[Node]) -> Iterator[Line]:
        yield from self.before(tree, user)
        yield (Span(f"turn {user.turn}: which reply suits this person better?", "bold"),)
        for letter, reply in zip(LETTERS, shown_order(user, replies), strict=False):
            yield from self.block(f"{letter}  ", "bold cyan", reply.text)


class Leave(Exception):
    """The person leaves."""


def turns_owed(store: Store, run_id: str, person: Person) -> int:
    """Turns with two replies or more of which the person's latest vote does not cover all."""
    sql = """
    SELECT count(*) FROM (
        SELECT n.parent_id AS turn, count(*) AS replies FROM nodes n JOIN trees t ON t.id = n.tree_id
        WHERE t.run_id = ? AND n.speaker = 'assistant' GROUP BY n.parent_id HAVING count(*) BETWEEN 2 AND ?
    ) WHERE NOT EXISTS (
        SELECT 1 FROM judgements j
        WHERE j.node_id = turn AND j.judge_id = ? AND j.complete AND json_array_length(j.covers) = replies)
    """
    return int(store.rows(sql, (run_id, len(LETTERS), person.id))[0][0])


def judge_by_hand(path: Path, run_id: str, person: Person, *, again: bool = False, stderr: bool = False) -> Tally:
    """Have a person at the terminal vote on the turns of a run. Raises NotFound or StoreError."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines with it
    with Store.open(path) as store:
        return Ballots(store, run_id, person, again=again, stderr=stderr).run()
