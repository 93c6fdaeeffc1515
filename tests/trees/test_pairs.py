"""Pairs and targets: exactly the wins that may be trained on, literally, from trees made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.builders import BuiltRun, judge_again, judged, make_judge, make_run
from trees.errors import NotFound
from trees.pairs import BadFilter, Dropped, make_filter, pairs, targets, weigh_turns, weigh_verdicts
from trees.store import Store
from trees.values import Judgement, Node, Outcome, Turn
from trees.writes import keep_turn


@dataclass
class Table:
    """One run whose first tree has a turn with three replies, and what reads it."""

    store: Store
    run: BuiltRun
    judge: str
    user: Node
    replies: list[Node]

    def judge_turn(self, *verdicts: tuple[int, int, Outcome, float], repeat: int = 0, complete: bool = True) -> None:
        said = [(self.replies[a], self.replies[b], outcome, margin) for a, b, outcome, margin in verdicts]
        judge_again(self.store, self.judgement(said, repeat, complete))

    def judgement(
        self, said: Sequence[tuple[Node, Node, Outcome, float]], repeat: int = 0, complete: bool = True
    ) -> Judgement:
        return judged(self.user, self.judge, said, covers=self.replies, repeat=repeat, complete=complete)

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs as places of chosen and rejected among the replies."""
        place = {reply.id: number for number, reply in enumerate(self.replies)}
        return [(place[p.chosen_id], place[p.rejected_id]) for p in pairs(self.store)]

    def dropped(self) -> list[str]:
        wanted = make_filter(self.store)
        return [d.reason for d in weigh_verdicts(self.store, wanted) if isinstance(d, Dropped)]

    def target(self) -> int | str:
        """The place of the turn's target, or why it has none."""
        (found,) = weigh_turns(self.store, make_filter(self.store))
        if isinstance(found, Dropped):
            return found.reason
        return [reply.id for reply in self.replies].index(found.node_id)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    with Store.open(tmp_path / "store.db") as store:
        run = make_run(store)
        judge = make_judge(store)
        user = run.user(run.trees[0], "hello")
        replies = run.replies(user, "a", "b", "c")
        run.turn(user, replies)
        yield Table(store, run, judge, user, replies)


def test_wins_are_pairs_and_nothing_else_is(table: Table) -> None:
    table.judge_turn((0, 1, "win", 0.5), (0, 2, "win", 0.25), (1, 2, "tie", 0.0))
    assert table.pairs() == [(0, 1), (0, 2)]
    assert table.dropped() == ["tie"]
    (pair, _) = pairs(table.store)
    place = pair.place
    assert (place.run_id, place.tree_id, place.turn, place.user_id) == (
        table.run.id,
        table.run.trees[0],
        1,
        table.user.id,
    )
    assert (pair.margin, pair.unit, pair.judge, pair.judge_id, pair.split) == (
        0.5,
        "nats",
        "judge",
        table.judge,
        "train",
    )
    row = table.store.tree_row(table.run.trees[0])
    assert (place.profile_id, place.personality_id) == (row.profile_id, row.personality_id)


@pytest.mark.parametrize("outcome", ["tie", "both_bad", "unstable", "abstain"])
def test_what_is_no_win_is_counted_and_not_used(table: Table, outcome: Outcome) -> None:
    table.judge_turn((0, 1, outcome, 0.0))
    assert table.pairs() == []
    assert table.dropped() == [outcome]
    assert table.target() == "no_winner"


def test_a_listwise_judge_is_silent_among_the_losers(table: Table) -> None:
    table.judge_turn((1, 0, "win", 0.5), (1, 2, "win", 0.5))
    assert table.pairs() == [(1, 0), (1, 2)]
    assert table.dropped() == []


def test_equal_texts_are_never_a_pair(table: Table) -> None:
    twin = table.run.replies(table.user, "a", role="responder.twin")[0]
    table.run.turn(table.user, [twin], new_user=False)
    table.replies.append(twin)
    table.judge_turn((0, 3, "win", 0.5), (0, 1, "win", 0.5))
    assert table.pairs() == [(0, 1)]
    assert table.dropped() == ["equal_text"]


def test_the_latest_complete_judgement_that_covers_both_counts(table: Table) -> None:
    table.judge_turn((0, 1, "win", 0.5), (0, 2, "win", 0.5))
    table.judge_turn((1, 0, "win", 0.5), repeat=1)
    assert table.pairs() == [(1, 0)]
    table.judge_turn((0, 1, "abstain", 0.0), repeat=2, complete=False)
    assert table.pairs() == [(1, 0)]
    partial = judged(table.user, table.judge, [(table.replies[2], table.replies[0], "win")], repeat=3)
    judge_again(table.store, partial)
    assert table.pairs() == [(1, 0), (2, 0)]


def test_a_target_is_the_winner_of_a_judgement_over_all_replies(table: Table) -> None:
    assert [*targets_or_error(table)] == ["no judge"]
    table.judge_turn((0, 1, "win", 0.5), (0, 2, "win", 0.25))
    assert table.target() == 0
    (target,) = targets(table.store)
    assert (target.margin, target.unit, target.judge_id) == (0.25, "nats", table.judge)
    late = table.run.replies(table.user, "d", role="responder.late")
    table.run.turn(table.user, late, new_user=False)
    assert table.target() == "not_judged"
    table.replies += late
    table.judge_turn((3, 0, "win", 0.5), (3, 1, "tie", 0.0), repeat=1)
    assert table.target() == 3


def targets_or_error(table: Table) -> Iterator[str]:
    try:
        yield from (target.node_id for target in targets(table.store))
    except NotFound as error:
        yield error.message[:8]


def test_with_several_undefeated_the_score_decides(table: Table) -> None:
    a, b, c = table.replies
    said = [(a, c, "win"), (b, c, "win"), (a, b, "tie")]
    scores = {a.id: 0.1, b.id: 0.3, c.id: 0.0}
    judge_again(table.store, judged(table.user, table.judge, said, scores=scores))
    assert table.target() == 1
    level = {a.id: 0.3, b.id: 0.3, c.id: 0.0}
    judge_again(table.store, judged(table.user, table.judge, said, scores=level, repeat=1))
    assert table.target() == "no_winner"


@pytest.mark.parametrize(
    ("held_out", "reason"),
    [(("Ada", "calm"), "held_out"), (("Ada",), "unused"), (("calm",), "unused"), (("Somebody else",), None)],
)
def test_nothing_of_a_held_out_half_is_used(tmp_path: Path, held_out: tuple[str, ...], reason: str | None) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run = make_run(store, held_out=held_out)
        judge = make_judge(store)
        user = run.user(run.trees[0], "hello")
        a, b = run.replies(user, "a", "b")
        run.turn(user, [a, b], [judged(user, judge, [(a, b, "win")])])
        wanted = make_filter(store)
        dropped = [d for weigh in (weigh_verdicts, weigh_turns) for d in weigh(store, wanted) if isinstance(d, Dropped)]
        assert [d.reason for d in dropped] == ([reason, reason] if reason else [])
        assert len(list(pairs(store))) == len(list(targets(store))) == (0 if reason else 1)


def test_a_later_split_takes_effect_on_stored_runs(table: Table) -> None:
    table.judge_turn((0, 1, "win", 0.5))
    assert len(list(pairs(table.store))) == 1
    table.store.apply([("UPDATE personalities SET split = 'held_out'", ())])
    assert list(pairs(table.store)) == []


def test_somebody_who_chatted_has_no_held_out_half(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run = make_run(store, kind="human")
        judge = make_judge(store, kind="human")
        store.apply([("UPDATE trees SET profile_id = NULL, personality_id = NULL", ())])
        user = run.user(run.trees[0], "hello", origin="human")
        a, b = run.replies(user, "a", "b")
        run.turn(user, [a, b], [judged(user, judge, [(a, b, "win")], unit=None)])
        (pair,) = pairs(store)
        assert (pair.place.profile_id, pair.split, pair.unit) == (None, "train", None)


def test_a_margin_is_asked_of_the_judge_s_own_unit(table: Table) -> None:
    table.judge_turn((0, 1, "win", 0.5), (0, 2, "win", 0.25))
    assert [p.margin for p in pairs(table.store, min_margin=0.5, unit="nats")] == [0.5]
    assert [p.margin for p in pairs(table.store, min_margin=0.5)] == [0.5]
    assert list(targets(table.store, min_margin=0.3)) == []
    assert len(list(targets(table.store, min_margin=0.25))) == 1
    with pytest.raises(BadFilter, match="does not measure in points"):
        pairs(table.store, min_margin=0.5, unit="points")


def test_a_judge_without_scores_has_no_margins(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run = make_run(store)
        judge = make_judge(store, kind="pairwise")
        user = run.user(run.trees[0], "hello")
        a, b = run.replies(user, "a", "b")
        run.turn(user, [a, b], [judged(user, judge, [(a, b, "win")], unit=None)])
        assert [p.margin for p in pairs(store)] == [None]
        assert [t.margin for t in targets(store)] == [None]
        with pytest.raises(BadFilter, match="gives no margins"):
            pairs(store, min_margin=0.1)


def test_it_must_be_clear_which_judge_is_meant(table: Table) -> None:
    with pytest.raises(NotFound, match="no judge has judged"):
        pairs(table.store)
    table.judge_turn((0, 1, "win", 0.5))
    other = make_judge(table.store, "other", threshold=0.3)
    judge_again(table.store, judged(table.user, other, [(table.replies[1], table.replies[0], "win")]))
    with pytest.raises(NotFound, match="none is named") as unnamed:
        pairs(table.store)
    assert "judge (" in str(unnamed.value)
    assert "other (" in str(unnamed.value)
    assert [p.judge_id for p in pairs(table.store, judge="other")] == [other]
    assert [p.judge_id for p in pairs(table.store, judge=f" {other[:8].upper()} ")] == [other]
    with pytest.raises(NotFound, match="no judge 'elsewhere'"):
        pairs(table.store, judge="elsewhere")
    namesake = make_judge(table.store, "other", threshold=0.7)
    judge_again(table.store, judged(table.user, namesake, [(table.replies[1], table.replies[0], "tie")]))
    with pytest.raises(NotFound, match="several judges are called 'other'") as several:
        pairs(table.store, judge="other")
    assert other[:12] in str(several.value)
    assert namesake[:12] in str(several.value)


def test_runs_are_kept_apart_and_the_order_is_that_of_the_store(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        judge = make_judge(store)
        runs = [make_run(store, [("Ada", "calm"), ("Bo", "loud")], seed=seed) for seed in (1, 2)]
        for run in runs:
            for position in (1, 0):
                user = run.user(run.trees[position], f"hello {position}")
                a, b, c = run.replies(user, "a", "b", "c")
                verdicts = [(c, b, "win"), (a, b, "win"), (a, c, "tie")]
                store.apply(keep_turn(Turn(user, None, (a, b, c), (judged(user, judge, verdicts),))))
        ordered = sorted(runs, key=lambda run: run.id)
        found = [(p.place.run_id, p.place.tree_id) for p in pairs(store)]
        assert found == [(run.id, tree) for run in ordered for tree in run.trees for _ in range(2)]
        assert {p.place.run_id for p in pairs(store, [runs[0].id])} == {runs[0].id}
        assert {t.place.run_id for t in targets(store, [runs[1].id])} <= {runs[1].id}
        assert Counter(type(x).__name__ for x in weigh_turns(store, make_filter(store))) == {"Dropped": 4}
        with pytest.raises(NotFound, match="no judge has judged"):
            pairs(store, ["no such run"])
