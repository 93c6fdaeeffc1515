"""The terminal's side of a person who judges: shows replies under letters, reads a vote, keeps it.

Nothing that is shown tells who wrote a reply, what was hinted, what a judge said or which reply the conversation went
on from; what was said before the turn is told, and who the simulated person is. It reads whole lines and moves no
cursor, so it serves dumb terminals, screen readers and pipes.

Invariant: a vote is on disk before the next turn is shown; whoever leaves, however, loses no vote.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
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


class Ballots:
    """One session at the terminal."""

    def __init__(self, store: Store, run_id: str, person: Person, *, again: bool = False, stderr: bool = False) -> None:
        self._store = store
        self._person = person
        self._again = again
        self._stderr = stderr
        self._shown: set[str] = set()
        """Messages that stand on the terminal already."""
        self.tally = Tally(run_id, person.name)

    def run(self) -> Tally:
        """Ask turn after turn until all are voted on, or the person leaves."""
        tally = self.tally
        tally.left = turns_owed(self._store, tally.run, self._person)
        say(f"{tally.left} turns wait for a vote of {tally.judge!r}; {HELP}", stderr=self._stderr)
        with contextlib.suppress(EOFError, KeyboardInterrupt, _Leave):
            for row in self._store.trees(tally.run):
                self._tree(row)
        tally.left = turns_owed(self._store, tally.run, self._person)
        return tally

    def _tree(self, row: TreeRow) -> None:
        tree = self._store.tree(row.id)
        turns = [turn for turn in tree.turns() if votable(turn[1])] if self._again else owed(tree, self._person)
        for number, (user, replies) in enumerate(turns):
            if number == 0:
                self._say(self._heading(row))
            self._say(self._turn(tree, user, replies))
            self._ask(user, replies)

    def _ask(self, user: Node, replies: list[Node]) -> None:
        letters = LETTERS[: len(replies)]
        while True:
            word = self._read(f"{letters[0]}-{letters[-1]} = b s q> ")
            if word == "q":
                raise _Leave
            if word == "s":
                self.tally.skipped += 1
                return
            said = EVEN.get(word, word)
            if word in EVEN or (len(word) == 1 and word in letters):
                keep_vote(self._store, self.tally.run, self._person, user, replies, said)
                self.tally.voted += 1
                return
            say(f"{word!r} is no vote: {HELP}", stderr=self._stderr)

    def _read(self, prompt: str) -> str:
        print(prompt, end="", file=sys.stderr if self._stderr else sys.stdout, flush=True)
        return input().strip()

    def _say(self, lines: Iterator[Line]) -> None:
        say_lines(lines, stderr=self._stderr)

    @property
    def _width(self) -> int:
        return min(console(stderr=self._stderr).width, 100)

    def _heading(self, row: TreeRow) -> Iterator[Line]:
        yield ()
        yield (Span(f"tree {row.id[:8]}", "bold"),)
        for name, text in halves(self._store, row):
            yield from self._block(f"{name:<12} ", "bold", text)

    def _turn(self, tree: ConversationTree, user: Node, replies: list[Node]) -> Iterator[Line]:
        yield ()
        for node in tree.path(user.id):
            if node.id not in self._shown:
                self._shown.add(node.id)
                yield from self._block("user         " if node.speaker == "user" else "reply        ", "dim", node.text)
        yield (Span(f"turn {user.turn}: which reply suits this person better?", "bold"),)
        for letter, reply in zip(LETTERS, shown_order(user, replies), strict=False):
            yield from self._block(f"{letter}  ", "bold cyan", reply.text)

    def _block(self, name: str, style: str, text: str) -> Iterator[Line]:
        first, *rest = wrapped(text, max(self._width - len(name), 20))
        yield (Span(name, style), Span(first))
        for line in rest:
            yield (Span(" " * len(name)), Span(line))


class _Leave(Exception):
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
