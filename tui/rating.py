"""The terminal's side of a person who gives points to the replies of a benchmark: one conversation after the other.

Conversations of all models are shown in one order, drawn from each of them, and each reply is asked about where it
stands. Nothing that is shown tells which model wrote it, what a judge gave or how the other models did; who the
simulated person is, and what suits them at this turn, is told, as it is to the points judge.

Invariant: points are on disk before the next reply is shown; whoever leaves, however, loses none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from agents.judges.points import FIGURES
from simulation.votes import Person, keep_points, unrated
from trees.ids import digest_of
from trees.store import Store, TreeRow
from trees.tree import ConversationTree
from trees.values import Node
from tui.draw import Line, Span
from tui.judging import Leave, Sitting, Tally

HELP = "1 not at all, 2 hardly, 3 would suit anybody, 4 well, 5 as if written for this person; s skips, q leaves"
QUESTION = "how well is this reply tailored to this person?"


class Ratings(Sitting):
    """Points for the replies of the runs of a benchmark."""

    def __init__(
        self, store: Store, name: str, runs: Sequence[str], person: Person, *, again: bool = False, stderr: bool = False
    ) -> None:
        super().__init__(store, person, Tally(name, person.name), stderr=stderr)
        self._runs = runs
        self._again = again

    def run(self) -> Tally:
        """Ask reply after reply until all have points, or the person leaves."""
        tally = self.tally
        tally.left = replies_owed(self._store, self._runs, self._person)
        self.tell(f"{tally.left} replies wait for points of {tally.judge!r}; {HELP}")
        with contextlib.suppress(EOFError, KeyboardInterrupt, Leave):
            rows = [row for run in self._runs for row in self._store.trees(run)]
            # By what each conversation is, so that neither model nor case tells when it comes.
            ordered = sorted(rows, key=lambda row: digest_of("rated", row.id))
            for number, row in enumerate(ordered, 1):
                self._conversation(f"conversation {number} of {len(rows)}", row)
        tally.left = replies_owed(self._store, self._runs, self._person)
        return tally

    def _conversation(self, title: str, row: TreeRow) -> None:
        tree = self._store.tree(row.id)
        for number, (user, reply) in enumerate(unrated(tree, self._person, again=self._again)):
            if number == 0:
                self.say(self.heading(title, row))
            self.say(self._reply(tree, row, user, reply))
            self._ask(row.run_id, user, reply)

    def _reply(self, tree: ConversationTree, row: TreeRow, user: Node, reply: Node) -> Iterator[Line]:
        yield from self.before(tree, user)
        yield from self.block("the reply    ", "bold cyan", reply.text)
        self.has_shown(reply)
        wants = "" if row.situation is None else row.situation.at(user.turn).wants
        if wants:
            yield from self.block("suits now    ", "bold", wants)
        yield (Span(f"turn {user.turn}: {QUESTION}", "bold"),)

    def _ask(self, run_id: str, user: Node, reply: Node) -> None:
        while True:
            word = self.read(f"{FIGURES[0]}-{FIGURES[-1]} s q> ")
            if word == "s":
                self.tally.skipped += 1
                return
            if word in FIGURES:
                keep_points(self._store, run_id, self._person, user, reply, word)
                self.tally.voted += 1
                return
            self.tell(f"{word!r} is no number of points: {HELP}")


def replies_owed(store: Store, runs: Sequence[str], person: Person) -> int:
    """Replies that models gave in these runs and that have no points of this person."""
    sql = """
    SELECT count(*) FROM nodes n JOIN trees t ON t.id = n.tree_id
    WHERE t.run_id IN (SELECT value FROM json_each(?)) AND n.speaker = 'assistant' AND n.operation_id IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM scores s JOIN judgements j ON j.id = s.judgement_id
        WHERE s.node_id = n.id AND j.judge_id = ? AND j.complete)
    """
    return int(store.rows(sql, (json.dumps(list(runs)), person.id))[0][0])


def rate_by_hand(
    path: Path, name: str, runs: Sequence[str], person: Person, *, again: bool = False, stderr: bool = False
) -> Tally:
    """Have a person at the terminal give points to the replies of runs. Raises NotFound or StoreError."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines with it
    with Store.open(path) as store:
        return Ratings(store, name, runs, person, again=again, stderr=stderr).run()
