"""What a judge leans to, beside worked cases."""

from __future__ import annotations

from pathlib import Path

from tests.support.builders import judged, make_judge, make_run
from trees.judge_bias import family, length_bias, length_bias_of, outcomes_by_turn
from trees.store import Store


def test_the_longer_reply_is_counted_by_how_much_longer_it_is() -> None:
    found = length_bias_of([(105, 100), (100, 140), (300, 100), (50, 50)])
    assert (found.longer.count, found.longer.of) == (2, 3)
    assert [(name, share.count, share.of) for name, share in found.by_ratio] == [
        ("longer by up to 10%", 1, 1),
        ("by 10% to 50%", 0, 1),
        ("twice as long or more", 1, 1),
    ]
    assert (found.winners, found.losers) == (102.5, 100)


def test_a_family_is_the_first_word_of_a_name() -> None:
    assert family("owner/Qwen2.5-7B") == family("qwen3-32b.gguf") == "qwen"
    assert family("ab" * 16) == "ab" * 16


def test_leanings_of_a_stored_run(store_path: Path) -> None:
    with Store.open(store_path) as store:
        run = make_run(store)
        one, two = make_judge(store, "one"), make_judge(store, "two", threshold=1.0)
        user = run.user(run.trees[0], "hello")
        long, short = run.replies(user, "a long reply", "short")
        run.turn(
            user, [long, short], [judged(user, one, [(long, short, "win")]), judged(user, two, [(short, long, "win")])]
        )
        below = run.user(run.trees[0], "again", long)
        a, b = run.replies(below, "same", "even")
        run.turn(below, [a, b], [judged(below, one, [(a, b, "tie")])])
        assert length_bias(store, run.id, one).longer.value == 1.0
        assert length_bias(store, run.id, two).longer.value == 0.0
        assert outcomes_by_turn(store, run.id, one) == {1: {"win": 1}, 2: {"tie": 1}}
