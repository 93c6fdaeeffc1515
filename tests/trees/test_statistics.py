"""Figures over a run, against counts made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import BuiltRun, judge_again, judged, make_judge, make_run, small_store
from trees.jobs import release, take_lock
from trees.statistics import (
    Failures,
    Rate,
    drift_statistics,
    failures_by_cause,
    flip_rate,
    judge_statistics,
    model_activity,
    pick_position,
    progress,
    usage,
    wilson,
)
from trees.store import Store
from trees.values import CallFailure, ModelFigures, Node, Presentation
from trees.writes import delete_run, keep_failure, keep_figures, prune_figures, resolve_failures


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_the_published_one(count: int, of: int, low: float, high: float) -> None:
    assert wilson(count, of) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 200).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_wilson_s_interval_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    count, of = counts
    low, high = wilson(count, of)
    assert 0 <= low <= high <= 1
    if of:
        assert low <= count / of <= high
    assert wilson(of - count, of) == pytest.approx((1 - high, 1 - low))


def test_of_nothing_there_is_no_share() -> None:
    assert (Rate(0, 0).value, Rate(0, 0).interval) == (None, (0.0, 1.0))
    assert Rate(1, 4).value == 0.25


_USED_AGAIN = """
INSERT INTO uses SELECT call_id, run_id, tree_id, node_id, role, 'again', prompt_id, tail, 0 FROM uses
"""


@pytest.fixture
def built(tmp_path: Path) -> Iterator[tuple[Store, BuiltRun]]:
    store, run = small_store(tmp_path / "store.db", people=[("Ada", "calm"), ("Bo", "loud")])
    yield store, run
    store.close()


def test_progress_counts_what_is_stored(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    found = progress(store, run.id)
    judge = store.rows("SELECT id FROM judges")[0][0]
    assert (found.trees, found.nodes, found.turns, found.pairs) == ({"growing": 2}, 6, 2, {judge: 2})
    other = make_run(store, seed=2)
    assert progress(store, other.id).nodes == 0
    assert progress(store, other.id).pairs == {}


def test_usage_counts_each_call_once(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    store.apply(
        [
            (
                _USED_AGAIN,
                (),
            ),
            ("UPDATE calls SET attempts = '[{},{}]' WHERE rowid = 1", ()),
            ("UPDATE calls SET first_token_s = NULL, tokens_cached = NULL WHERE rowid = 1", ()),
        ]
    )
    rows = {row.role: row for row in usage(store, run.id)}
    assert set(rows) == {"user", "responder.warm", "responder.plain"}
    user = rows["user"]
    assert (user.model, user.calls, user.tokens_in, user.tokens_cached, user.tokens_out) == (
        "hand",
        2,
        20,
        4,
        10,
    )
    assert (user.seconds, user.first_token_s, user.failed_attempts) == (1.0, 0.1, 2)


def measured(model: str, at: float, tokens_out: int, **more: Any) -> ModelFigures:
    counts: dict[str, Any] = {
        "interval_s": 2.0,
        "answered": 3,
        "failed": 1,
        "retries": 2,
        "permits": 8,
        "held": 8,
        "queued": 5,
        "first_token_median_s": 0.2,
        "first_token_p95_s": 0.9,
        "prompt_read": 100,
        "prompt_reused": 900,
    }
    return ModelFigures(model, at, tokens_out=tokens_out, **{**counts, **more})


def test_what_a_model_did_is_summed_and_how_it_stands_is_that_of_now(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    batch = {"waiting": 3, "running": 16, "cells_used": 50, "cells": 100}
    rows = [
        measured("big\x00", 100.0, 1_000, steps=100, batch_fill=2.0),
        measured("big\x00", 118.0, 60, steps=10, batch_fill=4.0),
        measured(
            "big\x00", 120.0, 20, steps=30, batch_fill=8.0, permits=6, queued=0, first_token_median_s=None, **batch
        ),
        measured("small", 120.0, 7),
    ]
    for row in rows:
        store.apply(keep_figures(run.id, row))
    big, small = model_activity(store, run.id)
    assert (big.model, big.answered, big.failed, big.retries) == ("big\x00", 9, 3, 6)
    assert (big.prompt_read, big.prompt_reused, big.tokens_out) == (300, 2_700, 1_080)
    assert (big.permits, big.held, big.queued, big.running, big.waiting) == (6, 8, 0, 16, 3)
    assert (big.tokens_out_per_s, big.batch_fill) == (20.0, 7.0)
    assert (big.first_token_median_s, big.first_token_p95_s) == (0.2, 0.9)
    assert (small.tokens_out_per_s, small.batch_fill, small.cells) == (3.5, None, None)
    per_second = "SELECT tokens_out_per_s FROM model_figures WHERE model = 'small'"
    assert store.rows(per_second) == [(3.5,)]


def test_figures_of_runs_at_rest_are_pruned_and_those_at_work_stay(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    store.apply(keep_figures(run.id, measured("small", 1.0, 7)))
    lock = take_lock(store, run.id, "run")
    store.apply(prune_figures())
    assert len(model_activity(store, run.id)) == 1
    store.apply([*release(lock), *prune_figures()])
    assert model_activity(store, run.id) == []


def test_figures_go_with_their_run(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    store.apply(keep_figures(run.id, measured("small", 1.0, 7)))
    store.apply(delete_run(run.id))
    assert store.rows("SELECT count(*) FROM model_figures") == [(0,)]


def test_failures_are_counted_by_cause(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    place = (run.id, run.trees[0], run.trees[0])
    for call, kind in (("a", "timeout"), ("b", "timeout"), ("c", "died")):
        store.apply(keep_failure(CallFailure(*place, "user", "speak.0", call, kind, "no answer\x00")))
    store.apply(resolve_failures("a"))
    assert failures_by_cause(store, run.id) == [
        Failures("timeout", "user", 2, 1, "no answer\x00"),
        Failures("died", "user", 1, 1, "no answer\x00"),
    ]


@dataclass
class Turns:
    """Turns of one judge, each a hinted and a plain reply."""

    run: BuiltRun
    judge: str
    made: int = 0

    def replies(self, *presentations: str) -> tuple[Node, Node, Node, list[Presentation]]:
        """A new turn's user, hinted and plain reply; presentations as `HP:A` (order shown, letter picked)."""
        user = self.run.user(self.run.trees[0], f"turn {self.made}", replica=str(self.made))
        self.made += 1
        hinted = self.run.replies(user, "hinted", role="responder.warm", hinted=True)[0]
        plain = self.run.replies(user, "plain")[0]
        by_letter = {"H": hinted.id, "P": plain.id}
        shown = [Presentation(tuple(by_letter[c] for c in p[:2]), None, "", {}, p[3:] or None) for p in presentations]
        return user, hinted, plain, shown


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    with Store.open(tmp_path / "store.db") as store:
        yield Turns(make_run(store), make_judge(store, kind="pairwise"))


def test_a_judge_s_figures(turns: Turns) -> None:
    run, judge = turns.run, turns.judge
    user, h, p, shown = turns.replies("HP:A", "PH:B")
    run.turn(user, [h, p], [judged(user, judge, [(h, p, "win")], presentations=shown)])
    judge_again(run.store, judged(user, judge, [(p, h, "win")], repeat=1))
    judge_again(run.store, judged(user, judge, [(p, h, "win")], repeat=2))
    user, h, p, shown = turns.replies("HP:A", "PH:A")
    run.turn(user, [h, p], [judged(user, judge, [(h, p, "unstable")], presentations=shown)])
    user, h, p, shown = turns.replies("HP:B", "PH:")
    run.turn(user, [h, p], [judged(user, judge, [(h, p, "abstain")], presentations=shown)])
    user, h, p, shown = turns.replies("HP:A")
    run.turn(user, [h, p], [judged(user, judge, [(h, p, "win")], presentations=shown)])
    user, h, p, _ = turns.replies()
    run.turn(user, [h, p], [judged(user, judge, [(h, p, "abstain")], complete=False)])

    (found,) = judge_statistics(run.store, run.id)

    assert (found.name, found.turns, found.incomplete) == ("judge", 5, 1)
    assert found.outcomes == {"win": 2, "unstable": 1, "abstain": 1}
    assert found.win_rates == {"responder.warm": Rate(1, 2), "responder.plain": Rate(1, 2)}
    assert found.hinted == Rate(1, 2)
    # Of the turns shown in both orders, five presentations are readable; the first was picked in three.
    assert (found.first_shown, found.first_expected) == (Rate(3, 5), 0.5)
    assert found.flips == Rate(1, 2)


def test_replies_of_one_responder_say_nothing_of_responders(turns: Turns) -> None:
    run = turns.run
    user = run.user(run.trees[0], "hello")
    a, b = run.replies(user, "a", "b")
    run.turn(user, [a, b], [judged(user, turns.judge, [(a, b, "win")])])
    (found,) = judge_statistics(run.store, run.id)
    assert (found.win_rates, found.hinted, found.first_expected) == ({}, Rate(0, 0), None)


@pytest.mark.parametrize(
    ("odds", "label", "place"),
    [
        ({"x": 0.2, "y": 0.7, "z": 0.1}, "A", 1),
        ({}, "C", 2),
        ({}, "D", None),
        ({}, "tie", None),
        ({}, None, None),
        ({"x": 1.0}, None, None),
    ],
)
def test_the_place_of_a_pick(odds: dict[str, float], label: str | None, place: int | None) -> None:
    assert pick_position(["x", "y", "z"], odds, label) == place


def test_a_flip_is_any_change_from_one_judgement_to_the_next() -> None:
    a, b, tie = ("win", "a"), ("win", "b"), ("tie", "")
    assert flip_rate([[a, a, b, tie], [tie], [], [tie, tie]]) == Rate(2, 4)


def test_drift_is_counted_by_kind(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run = make_run(store)
        for number, (drift, rerolls) in enumerate([(None, 0), (None, 1), ("echo", 2), ("echo", 2), ("empty", 0)]):
            run.turn(run.user(run.trees[0], "hi", replica=str(number), drift=drift, rerolls=rerolls), [])
        run.turn(run.user(run.trees[0], "by hand", replica="h", origin="human", drift="echo"), [])
        found = drift_statistics(store, run.id)
        assert (found.messages, found.rerolled, found.rerolls) == (5, 3, 5)
        assert found.drifting == {"echo": 2, "empty": 1}
        assert drift_statistics(store, make_run(store, seed=2).id).messages == 0
