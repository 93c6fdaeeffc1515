"""Trees as lines: the marks say what the judge said, the width holds, hostile text stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from trees.tree import ConversationTree
from trees.values import Continued, Judgement, Ledger, Node, Outcome, Score, Turn, Verdict
from tui.draw import Line, Look, Mark, draw_below, draw_tree, legend, mark_of, wrapped

JUDGE = "judge"


def user(number: int, parent: str | None, text: str = "Hello") -> Node:
    return Node(f"u{number}", "tree", parent, number, "user", "user", "0", text)


def reply(name: str, above: Node, text: str = "Well") -> Node:
    return Node(name, "tree", above.id, above.turn, "assistant", f"responder.{name}", "0", text, hinted=name == "b")


def judged(above: Node, *verdicts: Verdict) -> Judgement:
    covers = tuple(dict.fromkeys(node for v in verdicts for node in (v.first_id, v.second_id)))
    scores = tuple(Score(node, "nats", 0.25) for node in covers)
    return Judgement("j", above.id, JUDGE, 0, covers, scores=scores, verdicts=verdicts)


def tree_of(outcome: Outcome, text: str = "Well") -> ConversationTree:
    """One turn with two replies, compared with this outcome."""
    tree = ConversationTree("tree")
    above = user(1, None, text)
    replies = (reply("a", above, text), reply("b", above, text))
    ledger = Ledger(above.id, ("has a dog",), False, dropped=1)
    verdict = judged(above, Verdict("a", "b", outcome))
    tree.add_turn(Turn(above, ledger, replies, (verdict,), (Continued("b", "random", "drawn"),)))
    return tree


def text_of(lines: list[Line]) -> str:
    return "\n".join("".join(span.text for span in line) for line in lines)


@pytest.mark.parametrize(
    ("outcome", "first", "second"),
    [
        ("win", "winner", "loser"),
        ("tie", "tie", "tie"),
        ("both_bad", "both_bad", "both_bad"),
        ("unstable", "unstable", "unstable"),
        ("abstain", "abstain", "abstain"),
    ],
)
def test_marks(outcome: Outcome, first: Mark, second: Mark) -> None:
    tree = tree_of(outcome)
    assert (mark_of(tree, tree["a"], JUDGE), mark_of(tree, tree["b"], JUDGE)) == (first, second)
    assert mark_of(tree, tree["a"], "another judge") == "none"


def test_a_turn_shows_who_spoke_what_was_revealed_and_the_marks() -> None:
    drawn = text_of(draw_tree(tree_of("win"), Look(judge=JUDGE, ids=True)))
    assert "├─ ★ responder.a  a  +0.250 nats" in drawn
    assert "└─ ○ ▶ responder.b  hinted  b" in drawn
    assert "revealed: has a dog (1 unsupported, dropped)" in drawn


def test_ascii_has_no_other_character() -> None:
    look = Look(judge=JUDGE, ascii=True)
    drawn = text_of([*draw_tree(tree_of("win"), look), legend(look)])
    assert drawn.isascii()
    assert "`- o > responder.b" in drawn


@given(st.text(max_size=200), st.integers(24, 100))
def test_lines_are_never_wider_than_asked(text: str, width: int) -> None:
    assert all(cell_len(line) <= width for line in wrapped(text, width))


def test_hostile_text_stays_text() -> None:
    drawn = text_of(draw_tree(tree_of("win", "[red]x[/red] \x1b[2J\u202e"), Look(judge=JUDGE)))
    assert "[red]x[/red] <ESC>[2J<U+202E>" in drawn
    assert "\x1b" not in drawn


def test_a_branch_that_was_not_played_is_named_or_drawn_to_the_right() -> None:
    tree = tree_of("win")
    for number, name in ((2, "a"), (3, "b")):
        above = Node(f"u{number}", "tree", name, 2, "user", "user", "0", "More")
        tree.add_turn(Turn(above, None, (reply(f"c{number}", above),)))
    assert "2 more messages below: --path all" in text_of(draw_tree(tree, Look()))
    everything = text_of(draw_tree(tree, Look(everything=True)))
    assert "│  turn 2 after responder.a a" in everything
    assert "\nturn 2 after responder.b b" in everything


def test_a_conversation_longer_than_the_stack_is_drawn_at_the_margin() -> None:
    tree, above = ConversationTree("tree"), None
    for number in range(1, 1500):
        said = user(number, above)
        answer = reply(f"r{number}", said)
        tree.add_turn(Turn(said, None, (answer,), (), (Continued(answer.id, "winner", "the winner"),)))
        above = answer.id
    for look in (Look(), Look(everything=True)):
        assert "\nturn 1499  user" in text_of(draw_tree(tree, look))
    assert text_of(draw_below(tree, tree["r1"], Look())).count("turn ") == 1498
