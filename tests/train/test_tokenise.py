"""Message trees in tokens: literal arrays, one segment a reply, and the prompts that the backends would send."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.message_trees import Said, tree_of
from tests.support.token_trees import random_tree
from tests.support.tokenizers import CHATML, byte_tokenizer, word_tokenizer
from train.packing import Objective, pack, separate
from train.templates import TemplateReader
from train.token_tree import PairOf, Segment, TokenTree
from train.tokenise import Bin, LimitCost, cost_of, histogram, lengths, tokenise, within
from trees.errors import SetupError

pytest.importorskip("transformers", reason="the training extra is not installed")

WORDS = ["?", "\n", " ", "user", "assistant", "hello", "good", "bad", "more", "fine"]
START, END = 10, 11


def reader() -> TemplateReader:
    return TemplateReader(word_tokenizer(WORDS, CHATML, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))


TWO_TURNS = tree_of(
    (-1, "user", "hello"),
    (0, "assistant", "good"),
    (0, "assistant", "bad"),
    (1, "user", "more"),
    (3, "assistant", "fine"),
    targets=[1, 4],
    pairs=[(1, 2)],
)


def test_weights_of_pairs_reach_the_tokens() -> None:
    heavy = replace(TWO_TURNS, pairs=(replace(TWO_TURNS.pairs[0], weight=2.5),))
    (found,) = tokenise([heavy], reader()).trees
    assert found.pairs == (PairOf(1, 4, 2.5),)
    assert (kept := within(found, 1_000)) is not None
    assert kept.pairs[0].weight == 2.5


def test_tokens_and_masks_are_these() -> None:
    (found,) = tokenise([TWO_TURNS], reader()).trees
    opening = (START, 3, 1, 5, END, 1, START, 4, 1)
    assert found == TokenTree(
        id="tree",
        persona="p:q",
        segments=(
            Segment(-1, opening, False, "n0"),
            Segment(0, (6, END), True, "n1"),
            Segment(1, (1, START, 3, 1, 8, END, 1, START, 4, 1), False, "n3"),
            Segment(2, (9, END), True, "n4"),
            Segment(0, (7, END), True, "n2"),
        ),
        targets=(1, 3),
        pairs=(PairOf(1, 4),),
    )


def test_the_tokens_of_a_history_are_of_the_reply_that_was_played_not_of_the_one_that_won() -> None:
    """The released SFT code puts the preferred reply into every turn, whichever the conversation went on from."""
    played = tree_of(
        (-1, "user", "hello"),
        (0, "assistant", "good"),
        (0, "assistant", "bad"),
        (2, "user", "more"),
        (3, "assistant", "fine"),
        targets=[1, 4],
        pairs=[(1, 2)],
    )
    (found,) = tokenise([played], reader()).trees
    last = found.targets[1]
    above = found.segments[found.segments[last].parent].parent
    assert found.segments[above] == Segment(0, (7, END), True, "n2")


def test_an_untrained_reply_is_context() -> None:
    (found,) = tokenise(
        [tree_of(*[(m.parent, m.speaker, m.text) for m in TWO_TURNS.messages], targets=[4])], reader()
    ).trees
    assert [segment.reply for segment in found.segments] == [False, True]
    assert found.segments[0].tokens == (
        *(START, 3, 1, 5, END, 1, START, 4, 1),
        *(6, END),
        *(1, START, 3, 1, 8, END, 1, START, 4, 1),
    )


def test_a_token_is_trained_once_and_not_again_in_every_longer_prefix() -> None:
    """The released SFT code learns the first reply of ten turns ten times, the last one once, and the user's words."""
    said: list[Said] = []
    for turn in range(10):
        said += [(2 * turn - 1, "user", "hello"), (2 * turn, "assistant", "good")]
    (found,) = tokenise([tree_of(*said, targets=range(1, 20, 2))], reader()).trees
    predicted = [token for segment in found.segments if segment.reply for token in segment.tokens]
    assert predicted == [6, END] * 10
    assert len(found.segments) == 20


def test_a_rejected_reply_is_all_of_its_tokens_and_not_one_character() -> None:
    """The released DPO code rejects a single character, drawn from the text of the reply."""
    (found,) = tokenise([TWO_TURNS], reader()).trees
    assert found.segments[found.pairs[0].rejected].tokens == (7, END)


def test_a_prompt_begins_with_its_own_token_once_and_not_with_the_end_token() -> None:
    """The released DPO code has the end token (EOS) stand for the beginning (BOS), so prompts begin with an end."""
    template = "{{ bos_token }}" + CHATML
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    both = TemplateReader(byte_tokenizer(template, specials, bos="<s>", eos="</s>", adds_bos=True))
    added = TemplateReader(byte_tokenizer(CHATML, specials, bos="<s>", eos="</s>", adds_bos=True))
    for each in (both, added):
        (found,) = tokenise([TWO_TURNS], each).trees
        bos = each.vocab.bos
        tokens = [token for segment in found.segments for token in segment.tokens]
        assert found.segments[0].tokens[0] == bos
        assert tokens.count(bos) == 1
        assert each.shown([bos]) == "<s>"
        assert bos != each.end


def test_a_long_history_is_not_cut_to_its_last_tokens() -> None:
    """The released DPO code sets no lengths, so TRL of its time keeps 128 tokens of a prompt once a row is over 512."""
    long = tree_of((-1, "user", "hello " * 5000), (0, "assistant", "good"), targets=[1])
    (found,) = tokenise([long], reader()).trees
    assert found.token_count == 10_000 + 8 + 2
    assert within(found, 20_000) == found


def test_text_of_control_tokens_stays_text() -> None:
    hostile = "good<|im_end|>\n<|im_start|>user\nmore"
    tree = tree_of(
        (-1, "user", hostile), (0, "assistant", hostile), (1, "user", "x"), (2, "assistant", "y"), targets=[1, 3]
    )
    each = TemplateReader(byte_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    (found,) = tokenise([tree], each).trees
    assert [segment.tokens.count(each.end) for segment in found.segments] == [1, 1, 1, 1]
    assert each.shown(found.segments[1].tokens) == hostile + "<|im_end|>"


def test_any_text_can_be_trained_on() -> None:
    odd = "{{ 7 * 7 }} {% raise %} \ud800 \x00 é 世界 \u202e"
    each = TemplateReader(byte_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    (found,) = tokenise([tree_of((-1, "user", odd), (0, "assistant", odd), targets=[1])], each).trees
    assert each.shown(found.segments[1].tokens) == odd.replace("\ud800", "\ufffd") + "<|im_end|>"


def test_lengths_are_told() -> None:
    trees = tokenise([TWO_TURNS], reader()).trees
    found = lengths(trees)
    assert found.conversations == (11, 23, 11)
    assert found.replies == (2, 2, 2)
    assert found.trees == (25,)
    assert found.flat == 11 + 23 + 11 + 11
    assert histogram((1, 2, 3, 9)) == (Bin(1, 2, 1), Bin(2, 4, 2), Bin(4, 8, 0), Bin(8, 16, 1))
    assert histogram(()) == ()


@pytest.mark.parametrize(
    ("limit", "cost"),
    [(23, (0, 0, 0)), (22, (0, 1, 0)), (13, (0, 1, 0)), (12, (0, 1, 1)), (11, (0, 1, 1)), (10, (1, 2, 1))],
)
def test_what_a_limit_costs(limit: int, cost: tuple[int, int, int]) -> None:
    trees = tokenise([TWO_TURNS], reader()).trees
    assert cost_of(trees, limit) == LimitCost(limit, *cost)


def test_within_a_limit_only_whole_replies_are_left() -> None:
    (found,) = tokenise([TWO_TURNS], reader()).trees
    left = within(found, 22)
    assert left is not None
    assert [segment.node for segment in left.segments] == ["n0", "n1", "n2"]
    assert (left.targets, left.pairs) == ((1,), (PairOf(1, 2),))
    assert within(found, 10) is None


@given(st.integers(0, 10_000), st.integers(16, 120), st.sampled_from(["sft", "dpo"]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_within_a_limit_can_be_packed_under_it_and_the_rest_could_not(
    seed: int, limit: int, objective: Objective
) -> None:
    tree = random_tree(seed)
    left = within(tree, limit)
    kept = pack([left] if left is not None else [], objective, limit)
    amount = sum(len(row.targets if objective == "sft" else row.pairs) for row in kept)
    alone = separate([tree], objective)
    assert amount == sum(len(row) <= limit for row in alone)
    cost = cost_of([tree], limit)
    assert amount == len(alone) - (cost.targets if objective == "sft" else cost.pairs)


def test_a_pair_whose_replies_fit_alone_but_not_together_is_left_out() -> None:
    context, reply = tuple(range(60)), tuple(range(30))
    segments = (Segment(-1, context, False, ""), Segment(0, reply, True, ""), Segment(0, reply, True, ""))
    tree = TokenTree("tree", "nobody", segments, (), (PairOf(1, 2),))
    assert within(tree, 119) is None
    assert within(tree, 120) == tree
    with pytest.raises(
        SetupError, match=r"pair with its context of 120 tokens, .* over the limit of 100 a row"
    ) as said:
        pack([tree], "dpo", 100)
    assert "tokens_per_row to 120" in (said.value.hint or "")


def test_a_reply_that_is_no_longer_trained_becomes_context() -> None:
    tree = tree_of(
        (-1, "user", "hello"),
        (0, "assistant", "good"),
        (0, "assistant", " ".join(["bad"] * 50)),
        (1, "user", "more"),
        (3, "assistant", "fine"),
        targets=[4],
        pairs=[(1, 2)],
    )
    (found,) = tokenise([tree], reader()).trees
    left = within(found, 30)
    assert left is not None
    assert [(segment.node, segment.reply) for segment in left.segments] == [
        ("n0", False),
        ("n1", False),
        ("n3", False),
        ("n4", True),
    ]


STRICT = (
    "{% for m in messages %}{% if m.content == 'never' %}{{ raise_exception('no such words') }}{% endif %}"
    "{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def test_a_conversation_that_the_template_refuses_is_left_out_and_said() -> None:
    each = TemplateReader(byte_tokenizer(STRICT, ["<|im_end|>"], eos="<|im_end|>"))
    bad = tree_of((-1, "user", "never"), (0, "assistant", "good"), targets=[1])
    found = tokenise([bad, TWO_TURNS], each)
    assert len(found.trees) == 1
    assert (found.refused[0].targets, found.refused[0].pairs) == (1, 0)
    assert "no such words" in found.refused[0].reason


def test_what_stands_beside_a_refused_reply_is_kept() -> None:
    each = TemplateReader(byte_tokenizer(STRICT, ["<|im_end|>"], eos="<|im_end|>"))
    tree = tree_of(
        (-1, "user", "hello"),
        (0, "assistant", "good"),
        (0, "assistant", "never"),
        (2, "user", "more"),
        (3, "assistant", "lost"),
        (0, "assistant", "fine"),
        targets=[5, 4],
        pairs=[(1, 2)],
    )
    found = tokenise([tree], each)
    assert [segment.node for segment in found.trees[0].segments] == ["n0", "n5"]
    assert (found.refused[0].targets, found.refused[0].pairs) == (1, 1)


def test_a_template_that_begins_anew_after_many_turns_costs_that_tree_alone() -> None:
    turning = "{% if messages | length > 4 %}long {% endif %}" + CHATML
    each = TemplateReader(byte_tokenizer(turning, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    said: list[Said] = []
    for turn in range(3):
        said += [(2 * turn - 1, "user", "hello"), (2 * turn, "assistant", "good")]
    found = tokenise([tree_of(*said, targets=[1, 5]), TWO_TURNS], each)
    assert len(found.trees) == 1
    assert (found.refused[0].targets, "in different ways" in found.refused[0].reason) == (2, True)
