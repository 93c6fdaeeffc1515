"""The conversation tree: whatever is added it stays a forest, and all walks agree with the parents."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trees.tree import ConversationTree
from trees.values import BY_HAND, Continued, Judgement, Ledger, Node, Speaker, Turn


def message(identity: str, parent: Node | None = None, tree: str = "tree") -> Node:
    """A message under another, of the speaker whose turn it is."""
    says: Speaker = "user" if parent is None or parent.speaker == "assistant" else "assistant"
    turn = 1 if parent is None else parent.turn + (says == "user")
    return Node(identity, tree, parent.id if parent else None, turn, says, says, identity, f"says {identity}")


@st.composite
def grown_trees(draw: st.DrawFn) -> ConversationTree:
    """A tree of up to 30 messages; each hangs under an earlier one or opens the conversation."""
    tree = ConversationTree("tree")
    nodes: list[Node] = []
    for number in range(draw(st.integers(0, 30))):
        above = draw(st.sampled_from([None, *nodes]))
        nodes.append(message(f"n{number}", above))
        tree.add(nodes[-1])
        if nodes[-1].speaker == "assistant" and draw(st.booleans()):
            tree.continued[nodes[-1].id] = Continued(nodes[-1].id, "random", "drawn")
    return tree


@given(grown_trees())
def test_paths_follow_parents_from_a_root(tree: ConversationTree) -> None:
    for node in tree:
        path = tree.path(node.id)
        assert path[0].parent_id is None
        assert path[-1] is node
        assert [step.parent_id for step in path[1:]] == [step.id for step in path[:-1]]
        assert all(a.speaker != b.speaker for a, b in pairwise(path))


@given(grown_trees())
def test_siblings_share_a_parent_and_keep_their_order(tree: ConversationTree) -> None:
    order = [node.id for node in tree]
    for node in tree:
        siblings = tree.siblings(node.id)
        assert node in siblings
        assert siblings == [other for other in tree if other.parent_id == node.parent_id]
        assert sorted(siblings, key=lambda n: order.index(n.id)) == siblings


@given(grown_trees())
def test_leaves_are_what_nothing_answers(tree: ConversationTree) -> None:
    parents = {node.parent_id for node in tree}
    assert [leaf.id for leaf in tree.leaves()] == [node.id for node in tree if node.id not in parents]


@given(grown_trees())
def test_a_subtree_is_what_has_the_node_on_its_path(tree: ConversationTree) -> None:
    for node in tree:
        below = {other.id for other in tree if node in tree.path(other.id)}
        found = tree.subtree(node.id)
        assert {other.id for other in found} == below
        assert found[0] is node


@given(grown_trees())
def test_the_continued_path_is_a_path_of_continued_replies(tree: ConversationTree) -> None:
    path = tree.continued_path()
    assert [step.parent_id for step in path[1:]] == [step.id for step in path[:-1]]
    assert all(step.id in tree.continued for step in path if step.speaker == "assistant")
    if path and path[-1].speaker == "assistant":
        assert tree.children(path[-1].id) == []
    elif path:
        assert not any(reply.id in tree.continued for reply in tree.children(path[-1].id))


@given(grown_trees())
def test_turns_hold_every_message_once(tree: ConversationTree) -> None:
    turns = tree.turns()
    listed = [node.id for user, replies in turns for node in [user, *replies]]
    assert sorted(listed) == sorted(node.id for node in tree)
    assert len(tree) == len(listed)


@pytest.mark.parametrize("continued", ["warm", "plain"])
def test_the_continued_path_goes_on_from_the_marked_reply(continued: str) -> None:
    tree = ConversationTree("tree")
    user = message("user")
    for node in (user, message("warm", user), message("plain", user)):
        tree.add(node)
    tree.add(message("next", tree[continued]))
    tree.continued[continued] = Continued(continued, "winner", "the winner")
    assert [node.id for node in tree.continued_path()] == ["user", continued, "next"]


def test_what_a_person_went_on_from_is_not_what_was_played() -> None:
    tree = ConversationTree("tree")
    user = message("user")
    for node in (user, message("plain", user), message("warm", user)):
        tree.add(node)
    tree.continued["plain"] = Continued("plain", BY_HAND, "extended by a person")
    assert [node.id for node in tree.continued_path()] == ["user", "plain"]
    tree.continued["warm"] = Continued("warm", "winner", "the winner")
    assert [node.id for node in tree.continued_path()] == ["user", "warm"]


def test_what_is_not_a_tree_is_refused() -> None:
    tree = ConversationTree("tree")
    root = message("root")
    tree.add(root)
    refused = {
        "already": root,
        "belongs to tree": message("other", tree="elsewhere"),
        "has the parent": message("orphan", message("missing")),
        "has the parent self": replace(message("self"), parent_id="self"),
    }
    for why, node in refused.items():
        with pytest.raises(ValueError, match=why):
            tree.add(node)
    assert [node.id for node in tree] == ["root"]
    with pytest.raises(KeyError):
        tree["missing"]


def test_a_turn_brings_all_it_holds() -> None:
    tree = ConversationTree("tree")
    user = message("user")
    replies = (message("a", user), message("b", user))
    first, again, incomplete = (
        Judgement(f"j{repeat}", "user", "judge", repeat, ("a", "b"), complete=repeat < 2) for repeat in range(3)
    )
    mark = Continued("a", "winner", "the winner")
    tree.add_turn(Turn(user, Ledger("user", ("likes tea",), False), replies, (first,), (mark,)))
    tree.add_turn(Turn(user, None, (message("c", user),), (again, incomplete), new_user=False))
    assert [node.id for node in tree.children("user")] == ["a", "b", "c"]
    assert tree.continued == {"a": mark}
    assert tree.judgement_of("user", "judge", "a", "b") is again
    assert tree.judgement_of("user", "judge", "a", "c") is None
    assert tree.judgement_of("user", "another") is None


def test_revealed_is_the_sum_along_the_path_each_fact_once() -> None:
    tree = ConversationTree("tree")
    first = message("1")
    reply = message("1a", first)
    second, other = message("2", reply), message("3", reply)
    for node in (first, reply, second, other):
        tree.add(node)
    facts = {"1": ("tea", "Kyiv"), "2": ("tea", "cats"), "3": ("dogs",)}
    tree.ledgers = {node: Ledger(node, found, False) for node, found in facts.items()}
    assert tree.revealed("2") == ["tea", "Kyiv", "cats"]
    assert tree.revealed("1a") == ["tea", "Kyiv"]
    assert tree.revealed("3") == ["tea", "Kyiv", "dogs"]
