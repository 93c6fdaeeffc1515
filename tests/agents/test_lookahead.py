"""Lookahead: literal trees with literal scores, and a run whose siblings all went on."""

from __future__ import annotations

from typing import Any

import pytest

from agents.judges.lookahead import NOTHING_GREW, changes, levels_below, look_ahead, worth
from agents.judges.lookahead import Ahead as How
from agents.judges.verdicts import JudgeSpec
from agents.roles import Role
from trees.tree import ConversationTree
from trees.values import Judgement, Node, Score, Turn

Reply = tuple[str, float | None, list[Any]]
"""What is said, its score, and the turns below: lists of replies."""


def grown(*replies: Reply) -> tuple[ConversationTree, Node]:
    """A tree of one opening with these replies under it, and the opening."""
    tree = ConversationTree("tree")
    return tree, _add(tree, None, 1, list(replies))


def _add(tree: ConversationTree, parent: Node | None, turn: int, replies: list[Reply]) -> Node:
    """Hang a turn under a reply; a reply is named by its text."""
    below = len(tree.children(parent.id)) if parent else 0
    user = Node(f"{parent.id if parent else ''}u{below}", "tree", parent.id if parent else None, turn, "user", "user",
                str(below), "?")  # fmt: skip
    nodes = [Node(text, "tree", user.id, turn, "assistant", "responder.a", text, text) for text, _, _ in replies]
    scores = tuple(Score(text, "points", value) for text, value, _ in replies if value is not None)
    said = Judgement(f"j{user.id}", user.id, "scorer", 0, tuple(n.id for n in nodes), scores=scores)
    tree.add_turn(Turn(user, None, tuple(nodes), (said,)))
    for node, (_, _, turns) in zip(nodes, replies, strict=True):
        for below_it in turns:
            _add(tree, node, turn + 1, below_it)
    return user


def spec(depth: int = 3, discount: float = 1.0, threshold: float = 0.0) -> JudgeSpec:
    settings = {"of": "scorer", "depth": depth, "discount": discount, "threshold": threshold}
    return JudgeSpec("ahead", "lookahead", Role("judge.ahead", ()), None, "", settings)


def rows(said: Judgement) -> list[tuple[str, str, str]]:
    return [(v.first_id, v.second_id, v.outcome) for v in said.verdicts]


def leaf(name: str, value: float | None) -> Reply:
    return (name, value, [])


def test_a_reply_is_worth_what_grew_under_it_and_not_its_own_score() -> None:
    tree, user = grown(("dull", 5.0, [[leaf("d1", 1.0), leaf("d2", 2.0)]]), ("kind", 1.0, [[leaf("k1", 4.0)]]))
    said = look_ahead(tree, user, spec(), 0)
    assert {score.node_id: (score.unit, score.value) for score in said.scores} == {
        "dull": ("points", 1.5),
        "kind": ("points", 4.0),
    }
    assert rows(said) == [("kind", "dull", "win")]
    assert (said.verdicts[0].margin, said.complete, said.cause) == (2.5, True, None)


def test_a_turn_counts_once_however_many_replies_it_has() -> None:
    tree, user = grown(("a", 1.0, [[leaf("a1", 5.0)], [leaf("a2", 1.0), leaf("a3", 1.0), leaf("a4", 1.0)]]))
    assert levels_below(tree, tree.children(user.id)[0], How("scorer", 3, 1.0)) == ([3.0], "points")


@pytest.mark.parametrize(
    ("depth", "discount", "expected"),
    [(1, 1.0, 1.0), (2, 1.0, 2.0), (3, 1.0, 3.0), (9, 1.0, 3.0), (2, 0.5, (1 + 0.5 * 3) / 1.5)],
)
def test_depth_ends_it_and_discount_weighs_it(depth: int, discount: float, expected: float) -> None:
    third = leaf("a3", 5.0)
    tree, user = grown(("a", None, [[("a1", 1.0, [[("a2", 3.0, [[third]])]])]]))
    levels, _ = levels_below(tree, tree.children(user.id)[0], How("scorer", depth, discount))
    assert worth(levels, discount) == pytest.approx(expected)


def test_siblings_are_compared_over_the_same_number_of_turns() -> None:
    long: Reply = ("long", 1.0, [[("l1", 2.0, [[leaf("l2", 5.0)]])]])
    tree, user = grown(long, ("short", 1.0, [[leaf("s1", 3.0)]]))
    said = look_ahead(tree, user, spec(), 0)
    assert {score.node_id: score.value for score in said.scores} == {"long": 2.0, "short": 3.0}


def test_it_abstains_on_a_reply_of_which_nothing_grew() -> None:
    tree, user = grown(("a", 1.0, [[leaf("a1", 2.0)]]), ("b", 1.0, [[leaf("b1", 4.0)]]), leaf("c", 5.0))
    said = look_ahead(tree, user, spec(), 0)
    assert rows(said) == [("b", "a", "win"), ("a", "c", "abstain"), ("b", "c", "abstain")]
    assert said.complete


@pytest.mark.parametrize("below", [[], [[leaf("a1", None)]], [[leaf("a1", 3.0)]]])
def test_where_fewer_than_two_can_be_compared_it_is_incomplete_and_says_why(below: list[Any]) -> None:
    tree, user = grown(("a", 1.0, below), leaf("b", 5.0))
    said = look_ahead(tree, user, spec(), 0)
    assert (rows(said), said.complete, said.cause) == ([("a", "b", "abstain")], False, NOTHING_GREW)


def test_within_the_threshold_it_is_a_tie() -> None:
    tree, user = grown(("a", 1.0, [[leaf("a1", 2.0)]]), ("b", 1.0, [[leaf("b1", 2.5)]]))
    assert rows(look_ahead(tree, user, spec(threshold=0.5), 0)) == [("b", "a", "tie")]


def test_the_same_tree_says_nothing_new_and_a_grown_one_does() -> None:
    tree, user = grown(("a", 1.0, [[leaf("a1", 2.0)]]), leaf("b", 1.0))
    first = look_ahead(tree, user, spec(), 0)
    assert changes(first, None)
    assert not changes(look_ahead(tree, user, spec(), 1), first)
    _add(tree, tree["b"], 2, [leaf("b1", 4.0)])
    assert changes(look_ahead(tree, user, spec(), 1), first)


def test_its_id_changes_with_depth_discount_and_threshold() -> None:
    assert len({spec().id, spec(depth=2).id, spec(discount=0.9).id, spec(threshold=0.1).id}) == 4
